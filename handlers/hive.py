"""The hive as a whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from handlers.context import Context, Reply
from handlers.coordination_views import (
    capability_view,
    diagnosis_view,
    hive_view,
    leader_view,
    node_view,
    queue_depth_view,
    taken_back_view,
)
from handlers.pages import open_page
from hive import coordination as machine
from hive.coordination import HiveAction
from hive.diagnosis import diagnose
from hive.tasks import TaskStatus

DIAGNOSIS = "/api/v1/hive/diagnosis"
MOST_ROWS = 1_000
"""Of each list in the topology."""


async def get_hive_status(context: Context) -> Reply:
    """Agents and tasks counted by status, and where the event log stands."""
    services = context.services
    event_log: dict[str, Any] = {"seq": str(await services.events.tail())}
    recorder = await services.events.recorder()
    if recorder is not None:
        event_log["recorder"] = recorder
    return Reply(
        {
            **hive_view(await services.coordination.hive.get()),
            "agents": await services.agents.count_by_status(),
            "tasks": await services.tasks.count_by_status(),
            "event_log": event_log,
            "time": datetime.now(UTC),
        }
    )


async def control_hive(context: Context, *, body: dict[str, Any]) -> Reply:
    """Pause, resume or drain the hive."""
    services = context.services
    action = HiveAction(body["action"])
    hive = await services.coordination.hive.change(
        lambda hive: machine.control(hive, action, body.get("reason")), context.actor
    )
    counted = await services.tasks.count_by_status()
    return Reply(
        {
            "action": action,
            **hive_view(hive),
            "running": counted[TaskStatus.RUNNING],
            "version": hive.version,
        }
    )


async def get_hive_topology(context: Context) -> Reply:
    """Nodes, agents by what they can do, what is queued, and the leaders of the duties."""
    services = context.services
    topology = services.coordination.topology
    capabilities = await topology.capabilities(limit=MOST_ROWS)
    depths = await topology.queue_depths(limit=MOST_ROWS)
    return Reply(
        {
            **hive_view(await services.coordination.hive.get()),
            "nodes": [node_view(node) for node in await services.nodes.list()],
            "agents": await services.agents.count_by_status(),
            "capabilities": [capability_view(use) for use in capabilities],
            "queue": [queue_depth_view(depth) for depth in depths],
            "leaders": [leader_view(leader) for leader in await topology.leaders()],
            "time": datetime.now(UTC),
        }
    )


async def list_diagnoses(
    context: Context, *, limit: int, cursor: str | None, fields: list[str] | None
) -> Reply:
    """The tasks that wait, oldest first, each with its cause."""
    diagnoses = context.services.coordination.diagnoses
    page = open_page(
        context, "list_diagnoses", DIAGNOSIS, cursor=cursor, limit=limit, fields=fields, query={}
    )
    tasks = await diagnoses.waiting(after=page.position, limit=limit + 1)
    shown = tasks[:limit]
    snapshot = await diagnoses.snapshot(shown)
    return page.reply(
        [diagnosis_view(task, diagnose(task, snapshot)) for task in shown],
        last=shown[-1].task_id if len(tasks) > limit else None,
    )


async def get_task_diagnosis(context: Context, *, task_id: str) -> Reply:
    """Why one task waits."""
    services = context.services
    task = await services.tasks.get(task_id)
    snapshot = await services.coordination.diagnoses.snapshot([task])
    return Reply(diagnosis_view(task, diagnose(task, snapshot)))


async def rebalance_hive(context: Context) -> Reply:
    """Take back what offline and drained agents hold."""
    taken = await context.services.coordination.rebalancing.rebalance(context.actor)
    return Reply({"taken_back": [taken_back_view(one) for one in taken]})
