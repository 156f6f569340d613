"""The tables of docs/tasks.md that say what becomes of a task are made by the machine itself."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Final

from hive import task_machine as machine
from hive.batches import BatchMode
from hive.changes import Change, Plus
from hive.queue_order import DEFAULT_AGE_SECONDS, lead_ms
from hive.submission import TaskUpdate
from hive.task_spec import (
    PRIORITY_RANKS,
    ConcurrencyStrategy,
    DependencyPolicy,
    TaskPriority,
    Timeouts,
)
from hive.tasks import Task, TaskError, TaskStatus
from server.reaper import Periods
from tests.docs.test_tables import DOCS, read_table
from tests.hive.worlds import PROOF, SPEC, task_of

PAGE: Final = (DOCS / "tasks.md").read_text("utf-8")
RUNNING: Final = task_of(TaskStatus.RUNNING, replace(SPEC, max_attempts=2))
LAST: Final = replace(RUNNING, attempt=2)
CANCELLING: Final = replace(RUNNING, cancel_requested=True)
SILENT: Final = task_of(TaskStatus.RUNNING, replace(SPEC, timeouts=Timeouts(heartbeat_seconds=5.0)))
PASSING, FINAL = TaskError("boom", ""), TaskError("boom", "", retryable=False)


def _ends() -> dict[str, Change | None]:
    """Every way in which an attempt ends, and what the machine makes of it."""
    return {
        "`complete`": machine.complete(RUNNING, PROOF, None),
        "`fail`": machine.fail(RUNNING, PROOF, PASSING, 0.0),
        "`fail`, no attempt left": machine.fail(LAST, PROOF, PASSING, 0.0),
        "`fail`, `retryable: false`": machine.fail(RUNNING, PROOF, FINAL, 0.0),
        "`release`, `reject`": machine.release(RUNNING, PROOF, None),
        "the lease ran out": machine.expire(RUNNING, 0.0, 30.0),
        "`heartbeat_seconds` of silence": machine.expire(SILENT, 0.0, 30.0),
        "taken back, its agent is offline": machine.take_back(
            RUNNING, "agt_1", is_drained=False, chance=0.0
        ),
        "taken back, the drain's deadline is over": machine.take_back(
            RUNNING, "agt_1", is_drained=True, chance=0.0
        ),
        "`execution_seconds` are over": machine.time_out(RUNNING, "execution", 0.0),
        "`total_seconds` are over": machine.time_out(RUNNING, "total", 0.0),
        "asked to stop, `complete`": machine.complete(CANCELLING, PROOF, None),
        "asked to stop, `fail` or `release`": machine.fail(CANCELLING, PROOF, PASSING, 0.0),
        "asked to stop, the grace period is over": machine.revoke(CANCELLING),
    }


def _row(way: str, change: Change | None) -> str:
    assert change is not None, way
    given_back = change.fields.get("attempt") == Plus("attempt", -1)
    error = change.fields.get("error")
    code = f"`{error.code}`" if isinstance(error, TaskError) and error.code != "boom" else "-"
    status, counts = change.fields["status"], "no" if given_back else "yes"
    return f"| {way} | {status} | `{change.event}` | {code} | {counts} |"


def test_table_of_ends_is_the_machine() -> None:
    """The status and the event that follow, and whether the attempt counts."""
    head = "| the attempt ends by | the task is | event | error | counts |\n|---|---|---|---|---|"
    table = "\n".join([head, *(_row(way, change) for way, change in _ends().items())]) + "\n"
    assert read_table("tasks.md", "ends") == table, f"write this into docs/tasks.md:\n{table}"
    assert machine.release(CANCELLING, PROOF, None).event == "task.cancelled"


def test_table_of_policies_is_the_machine() -> None:
    """What a dependency that failed or was cancelled does to the task."""
    names = _first_column("policies")
    assert names == [str(policy) for policy in DependencyPolicy]
    rows = read_table("tasks.md", "policies").splitlines()[2:]
    for policy, row in zip(DependencyPolicy, rows, strict=True):
        task = task_of(TaskStatus.BLOCKED, replace(SPEC, on_dependency_failure=policy))
        verdict = machine.dependency_ended(task, "tsk_0", TaskStatus.FAILED)
        event = f"`{verdict.event}`" if isinstance(verdict, Change) else "-"
        assert row.split("|")[3].strip() == event
    assert f"`{SPEC.on_dependency_failure}` (default)" in rows[0]


def test_table_of_timeouts_is_the_machine() -> None:
    """Every timeout, and the error of what it ends."""
    assert _first_column("timeouts") == [field.name for field in fields(Timeouts)]
    waiting: dict[str, Task] = {"queue": task_of(TaskStatus.QUEUED)}
    for row in read_table("tasks.md", "timeouts").splitlines()[2:]:
        what = row.split("`")[1].removesuffix("_seconds")
        task = waiting.get(what, RUNNING)
        ended = (
            machine.expire(SILENT, 0.0, 30.0)
            if what == "heartbeat"
            else machine.time_out(task, what, 0.0)
        )
        assert ended is not None
        assert row.split("|")[3].strip() == f"`{ended.fields['error'].code}`"


def test_table_of_priorities_is_the_order_of_the_queue() -> None:
    """How far each priority is ahead of the lowest, with the default setting."""
    rows = [
        f"| `{priority}` | {lead_ms(PRIORITY_RANKS[priority], DEFAULT_AGE_SECONDS) / 1000:g} s |"
        for priority in TaskPriority
    ]
    assert read_table("tasks.md", "priorities").splitlines()[2:] == rows


def test_tables_of_choices_name_each() -> None:
    """In the order of the code; what they mean is written by hand."""
    assert _first_column("strategies") == [str(strategy) for strategy in ConcurrencyStrategy]
    assert _first_column("modes") == [str(mode) for mode in BatchMode]
    (changed,) = re.findall(r"^`PATCH [^`]+` changes (.*?) of a task", PAGE, re.MULTILINE)
    assert re.findall(r"`(\w+)`", changed) == [field.name for field in fields(TaskUpdate)]


def test_times_are_those_of_the_code() -> None:
    """Of the reaper."""
    turn = Periods(1, 1, 1).turn
    assert f"The reaper looks every {turn:g} s" in PAGE
    assert f"up to {turn:g} s as long as a reaper looks" in PAGE


def _first_column(name: str) -> list[str]:
    rows = read_table("tasks.md", name).splitlines()[2:]
    return [row.split("`")[1] for row in rows]
