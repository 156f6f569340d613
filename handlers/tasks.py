"""Tasks: the work."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Any

from handlers.batch_views import batch_view, graph_view
from handlers.context import Context, Reply
from handlers.pages import open_page, read_labels
from handlers.views import (
    artifact_view,
    log_line_view,
    receipt_view,
    task_summary_view,
    task_view,
)
from hive import batches, submission
from hive import task_machine as machine
from hive.attempts import require_ended
from hive.changes import Change
from hive.dag import MOST_EDGES
from hive.errors import DependencyNotFound, Unavailable
from hive.graphs import Direction, SubtreeOrder
from hive.inner_calls import InnerCall
from hive.permissions import require_owner
from hive.ports import TaskFilter
from hive.preconditions import expecting, read_if_match
from hive.submission import read_seen, read_update
from hive.task_bodies import read_task_body
from hive.task_spec import TaskPriority, check_dependencies
from hive.tasks import Task, TaskStatus

PATH = "/api/v1/tasks"


async def list_tasks(
    context: Context,
    *,
    status: str | None,
    priority: str | None,
    owner: str | None,
    agent_id: str | None,
    name: str | None,
    label: list[str] | None,
    order: str,
    limit: int,
    cursor: str | None,
    fields: list[str] | None,
) -> Reply:
    """Tasks, by the time they were submitted."""
    page = open_page(
        context,
        "list_tasks",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={
            "status": status,
            "priority": priority,
            "owner": owner,
            "agent_id": agent_id,
            "name": name,
            "label": label,
            "order": order,
        },
    )
    wanted = TaskFilter(
        status=TaskStatus(status) if status else None,
        priority=TaskPriority(priority) if priority else None,
        owner=owner,
        agent_id=agent_id,
        name=name,
        labels=read_labels(label),
    )
    tasks = await context.services.tasks.list(
        wanted, after=page.position, limit=limit + 1, newest_first=order == "desc"
    )
    shown = tasks[:limit]
    return page.reply(
        [task_summary_view(task) for task in shown],
        last=shown[-1].task_id if len(tasks) > limit else None,
    )


async def create_task(context: Context, *, body: dict[str, Any]) -> Reply:
    """Accept a task; it is durable when the receipt arrives."""
    services = context.services
    spec = read_task_body(body)
    check_dependencies(spec.dependencies)
    found = await services.tasks.statuses(spec.dependencies)
    for dependency in spec.dependencies:
        if dependency not in found:
            raise DependencyNotFound(f"No task {dependency!r} exists to depend on.")
    task_id = context.new_id("tsk")
    waiting_on = tuple(d for d in spec.dependencies if found[d] is not TaskStatus.COMPLETED)
    submitted = machine.submit(spec, context.caller.principal_id, waiting_on)
    task = await services.submissions.submit(task_id, submitted, context.actor)
    if task.task_id != task_id:
        return Reply(
            {**receipt_view(task), "duplicate": True},
            headers={"Location": f"{PATH}/{task.task_id}"},
        )
    if task.waiting_on:
        # Inserted first, looked at second: a dependency that ends in between finds the task or is
        # found. The task is durable by now; when the store goes away, the reaper looks instead.
        with suppress(Unavailable):
            task = await services.dependencies.settle(task)
    return Reply(receipt_view(task), headers={"Location": f"{PATH}/{task_id}"})


async def create_tasks(context: Context, *, body: dict[str, Any]) -> Reply:
    """Accept tasks that depend on each other; they are durable when the receipts arrive."""
    services, owner = context.services, context.caller.principal_id
    wanted = batches.read_batch(body["tasks"])
    await context.calls.charge(len(wanted) - 1)
    found = await services.tasks.statuses(batches.named(wanted))
    mode = batches.BatchMode(body.get("mode", batches.BatchMode.ALL_OR_NOTHING))
    batch_id = context.new_id("bat")
    plan = batches.plan(wanted, found, owner, mode, context.new_id)
    statuses: Mapping[str, TaskStatus] = {}
    if plan.tasks:
        async with services.submissions.room(owner, len(plan.tasks)):
            statuses = await services.batches.submit(batch_id, plan.tasks, context.actor)
    context.calls.record("create_task", [_inner_call(plan, index) for index in range(len(wanted))])
    return Reply(batch_view(batch_id, [one.wish.key for one in wanted], plan, statuses))


async def get_task(
    context: Context, *, task_id: str, wait_seconds: float, if_none_match: str | None
) -> Reply:
    """One task with its free-form values, at once or when it has ended."""
    services = context.services
    if wait_seconds > 0:
        seen = read_seen(if_none_match)
        task = await services.task_waits.wait(task_id, seconds=wait_seconds, seen=seen)
    else:
        task = await services.tasks.get(task_id)
    return Reply(task_view(task))


async def get_task_status(context: Context, *, task_id: str) -> Reply:
    """The receipt of one task as it would be now."""
    return Reply(receipt_view(await context.services.tasks.get(task_id)))


async def update_task(
    context: Context, *, task_id: str, if_match: str | None, body: dict[str, Any]
) -> Reply:
    """Change what was asked for while the task waits."""
    caller = context.caller
    wanted = read_update(body)
    update = expecting(read_if_match(if_match), partial(submission.update, wanted=wanted))

    def decide(task: Task) -> Change | None:
        require_owner(caller, task.owner)
        return update(task)

    task = await context.services.tasks.change(task_id, decide, context.actor)
    return Reply(task_view(task))


async def cancel_task(context: Context, *, task_id: str, if_match: str | None) -> Reply:
    """Cancel a task, or ask the agent that runs it to stop."""
    caller = context.caller
    cancel = expecting(read_if_match(if_match), machine.cancel)

    def decide(task: Task) -> Change | None:
        require_owner(caller, task.owner)
        return cancel(task)

    task = await context.services.tasks.change(task_id, decide, context.actor)
    return Reply({"message": "Task cancelled", "result": receipt_view(task)})


async def retry_task(context: Context, *, task_id: str, if_match: str | None) -> Reply:
    """Try a failed task again, with new attempts and a new budget of time."""
    caller, services = context.caller, context.services
    retry = expecting(read_if_match(if_match), machine.retry)
    ended = await services.tasks.get(task_id)
    statuses = await services.tasks.statuses(ended.spec.dependencies)

    def decide(task: Task) -> Change | None:
        require_owner(caller, task.owner)
        change = retry(task)
        require_ended(task, statuses)
        return change

    decide(ended)
    async with services.submissions.room(ended.owner):
        task = await services.tasks.change(task_id, decide, context.actor)
    return Reply(receipt_view(task))


async def cancel_subtree(context: Context, *, task_id: str) -> Reply:
    """Cancel a task with all that depends on it."""
    caller, services = context.caller, context.services
    task = await services.tasks.get(task_id)
    require_owner(caller, task.owner)
    principal_id = None if caller.is_admin else caller.principal_id
    order = SubtreeOrder(context.new_id("can"), task_id, principal_id)
    outcome = await services.subtrees.cancel(order, context.actor)
    return Reply({"task_id": task_id, **asdict(outcome)})


async def get_task_graph(context: Context, *, task_id: str, direction: str, depth: int) -> Reply:
    """The tasks around one, and what waits for what."""
    graph = await context.services.graphs.read(
        task_id, Direction(direction), depth=depth, most_edges=MOST_EDGES
    )
    return Reply(graph_view(task_id, graph))


async def get_task_logs(context: Context, *, task_id: str, limit: int, after: int | None) -> Reply:
    """The lines that the task's agents logged."""
    await context.services.tasks.get(task_id)
    lines = await context.services.logs.read(task_id, after=after, limit=limit)
    dropped = await context.services.logs.dropped(task_id)
    shown = {"task_id": task_id, "logs": [log_line_view(line) for line in lines]}
    return Reply({**shown, "dropped": dropped} if dropped else shown)


async def get_task_artifacts(context: Context, *, task_id: str) -> Reply:
    """The files that the task's agents handed over."""
    task = await context.services.tasks.get(task_id)
    shown = [artifact_view(task_id, artifact) for artifact in task.artifacts]
    return Reply({"task_id": task_id, "artifacts": shown})


async def get_task_artifact(context: Context, *, task_id: str, artifact_name: str) -> Reply:
    """The bytes of one file, as they came."""
    artifact, content = await context.services.artifacts.open(task_id, artifact_name)
    headers = {
        "ETag": f'"{artifact.sha256}"',
        "Content-Disposition": f'attachment; filename="{artifact.name}"',
    }
    return Reply(content, headers=headers)


def _inner_call(plan: batches.Plan, index: int) -> InnerCall:
    """What the audit log says of one task of a batch."""
    if index in plan.flaws:
        return InnerCall(HTTPStatus.UNPROCESSABLE_ENTITY, code=plan.flaws[index].code)
    return InnerCall(HTTPStatus.OK, resource=plan.task_ids[index])
