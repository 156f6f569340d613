"""Makes the scheduler of a node, and what handlers need of schedules."""

from __future__ import annotations

from hive.fire_times import FireTimes
from hive.ports import Submissions
from hive.schedule_ports import Scheduling
from server.bootstrap.stores import Store
from server.cron import CronTimes
from server.duties import Duty
from server.hub import Hub
from server.scheduler import DUTY, Scheduler


def make_scheduling(store: Store) -> Scheduling:
    """The port of the handlers."""
    return Scheduling(store.schedules, FireTimes(CronTimes()))


def make_scheduler_duty(store: Store, submissions: Submissions, hub: Hub, node_id: str) -> Duty:
    """The duty, which hears of what happens here and elsewhere."""
    scheduler = Scheduler(store.schedules, store.tasks, submissions, FireTimes(CronTimes()))
    store.schedules.on_commit(scheduler.schedule_committed)
    store.tasks.on_commit(scheduler.task_committed)
    hub.subscribe(scheduler.heard)
    return Duty(DUTY, store.leadership, node_id, scheduler.work)
