"""Schedules: tasks that are made again and again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from handlers.context import Context, Reply
from handlers.pages import open_page
from handlers.views import receipt_view, schedule_summary_view, schedule_view
from hive import schedules as machine
from hive.changes import Change
from hive.fire_times import Trigger
from hive.permissions import require_owner
from hive.preconditions import expecting, read_if_match
from hive.schedule_ports import ScheduleFilter
from hive.schedules import Overlap, Schedule, ScheduleSpec, ScheduleStatus
from hive.task_bodies import read_task_body, read_time

PATH = "/api/v1/schedules"
TRIGGER_NAMES = ("cron", "time_zone", "interval_seconds")
TIME_NAMES = ("anchor", "starts_at", "ends_at")


async def list_schedules(
    context: Context,
    *,
    status: str | None,
    owner: str | None,
    name: str | None,
    order: str,
    limit: int,
    cursor: str | None,
    fields: list[str] | None,
) -> Reply:
    """Schedules, by the time they were made."""
    page = open_page(
        context,
        "list_schedules",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={"status": status, "owner": owner, "name": name, "order": order},
    )
    wanted = ScheduleFilter(ScheduleStatus(status) if status else None, owner, name)
    schedules = await context.services.scheduling.store.list(
        wanted, after=page.position, limit=limit + 1, newest_first=order == "desc"
    )
    shown = schedules[:limit]
    return page.reply(
        [schedule_summary_view(schedule) for schedule in shown],
        last=shown[-1].schedule_id if len(schedules) > limit else None,
    )


async def create_schedule(context: Context, *, body: dict[str, Any]) -> Reply:
    """Make a schedule; it is durable when the answer arrives."""
    scheduling = context.services.scheduling
    spec = _spec(context, body)
    schedule_id = context.new_id("sch")
    created = machine.create(
        schedule_id,
        spec,
        context.caller.principal_id,
        await scheduling.store.now(),
        scheduling.times,
        paused=body.get("paused", False),
    )
    schedule = await scheduling.store.insert(schedule_id, created, context.actor)
    return Reply(schedule_view(schedule), headers={"Location": f"{PATH}/{schedule_id}"})


async def get_schedule(context: Context, *, schedule_id: str) -> Reply:
    """One schedule with the task that it makes."""
    return Reply(schedule_view(await context.services.scheduling.store.get(schedule_id)))


async def update_schedule(
    context: Context, *, schedule_id: str, if_match: str | None, body: dict[str, Any]
) -> Reply:
    """Replace the configuration of a schedule."""
    scheduling = context.services.scheduling
    spec = _spec(context, body)
    now = await scheduling.store.now()

    def update(schedule: Schedule) -> Change | None:
        return machine.update(schedule, spec, now, scheduling.times)

    schedule = await _change(context, schedule_id, expecting(read_if_match(if_match), update))
    return Reply(schedule_view(schedule))


async def delete_schedule(context: Context, *, schedule_id: str, if_match: str | None) -> Reply:
    """Make no more tasks, and forget the schedule."""
    await _change(context, schedule_id, expecting(read_if_match(if_match), machine.delete))
    return Reply({"message": "Schedule deleted"})


async def pause_schedule(context: Context, *, schedule_id: str) -> Reply:
    """Make no more tasks by the clock."""
    return Reply(schedule_view(await _change(context, schedule_id, machine.pause)))


async def resume_schedule(context: Context, *, schedule_id: str) -> Reply:
    """Go on with the first time after now."""
    scheduling = context.services.scheduling
    now = await scheduling.store.now()
    schedule = await _change(
        context, schedule_id, lambda schedule: machine.resume(schedule, now, scheduling.times)
    )
    return Reply(schedule_view(schedule))


async def run_schedule(context: Context, *, schedule_id: str) -> Reply:
    """Make the schedule's task now, whatever the clock says."""
    services = context.services
    store = services.scheduling.store
    schedule = await store.get(schedule_id)
    require_owner(context.caller, schedule.owner)
    # The task first: a kill in between leaves a task that the schedule does not count.
    task = await services.submissions.submit(
        context.new_id("tsk"), machine.task_of(schedule), context.actor
    )
    now = await store.now()
    await _change(
        context, schedule_id, lambda schedule: machine.made_by_hand(schedule, now, task.task_id)
    )
    return Reply(receipt_view(task), headers={"Location": f"/api/v1/tasks/{task.task_id}"})


async def get_schedule_times(context: Context, *, schedule_id: str, limit: int) -> Reply:
    """The next times of a schedule."""
    scheduling = context.services.scheduling
    schedule = await scheduling.store.get(schedule_id)
    now = await scheduling.store.now()
    times = scheduling.times.after(schedule.spec.trigger, schedule.origin, now)
    return Reply({"schedule_id": schedule_id, "times": list(islice(times, limit))})


async def _change(
    context: Context, schedule_id: str, decide: Callable[[Schedule], Change | None]
) -> Schedule:
    """As the owner or an admin."""
    caller = context.caller

    def decide_owned(schedule: Schedule) -> Change | None:
        require_owner(caller, schedule.owner)
        return decide(schedule)

    return await context.services.scheduling.store.change(schedule_id, decide_owned, context.actor)


def _spec(context: Context, body: dict[str, Any]) -> ScheduleSpec:
    """What the body asks for. Raises Invalid for what would never make a task."""
    times: dict[str, Any] = {
        name: read_time(body[name], f"/{name}") for name in TIME_NAMES if name in body
    }
    given = {name: body[name] for name in TRIGGER_NAMES if name in body}
    spec = ScheduleSpec(
        name=body["name"],
        task=body["task"],
        trigger=Trigger(**given, **times),
        description=body.get("description"),
        overlap=Overlap(body.get("overlap", Overlap.SKIP)),
        catch_up_seconds=body.get("catch_up_seconds", 60),
        jitter_seconds=body.get("jitter_seconds", 0),
    )
    machine.check(spec)
    context.services.scheduling.times.check(spec.trigger)
    read_task_body(spec.task)
    return spec
