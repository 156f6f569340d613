"""The limits of tasks, agents and what they exchange: rows of docs/limits.md (`limit_table.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from hive import attempts, messages, schedules
from hive.agents import CONTROLS_KEPT
from hive.artifacts import MOST_ARTIFACTS, TooManyArtifacts
from hive.batches import TooManyEdges
from hive.dag import MOST_EDGES
from hive.errors import Conflict, TooManySchedules
from hive.inner_calls import MoreThanLimit
from hive.open_tasks import TooManyTasks
from server import agent_messages, large_bodies, pieces, rebalancing, subtrees
from server.contract import ContractMismatch
from server.limit_row import Limit, size_of
from server.load import Overloaded
from server.problems import ContentTooLarge
from server.settings import Settings

_SETTINGS: Final = Settings.model_fields
_LATER: Final = "with `Retry-After`"


def work_limits(openapi: Any) -> Iterator[Limit]:
    """What tasks, agents, schedules and messages may be, and how many."""
    yield from _of_the_contract(openapi["components"]["schemas"])
    yield from _tasks()
    yield from _agents()


def _of_the_contract(schemas: Any) -> Iterator[Limit]:
    claim = schemas["Claim"]["properties"]
    lines = schemas["LogAppend"]["properties"]["lines"]["maxItems"]
    characters = schemas["NewLogLine"]["properties"]["message"]["maxLength"]
    batch = schemas["TaskBatch"]["properties"]["tasks"]["maxItems"]
    slots = (
        schemas["Slots"]["maximum"],
        claim["max_leases"]["maximum"],
        schemas["Concurrency"]["properties"]["limit"]["maximum"],
    )
    rows = {
        "waiting for a lease": f"`wait_seconds` up to {claim['wait_seconds']['maximum']}",
        "dependencies of a task": (
            f"{schemas['TaskCreate']['properties']['dependencies']['maxItems']:,}"
        ),
        "slots of an agent, leases in one claim, limit of a concurrency key": (
            ", ".join(map(str, sorted(set(slots))))
        ),
        "capabilities": (
            f"{schemas['Capabilities']['maxItems']} of an agent, "
            f"{schemas['RequiredCapabilities']['maxItems']} required by a task"
        ),
        "labels": str(schemas["Labels"]["maxProperties"]),
        "log lines in one call": f"{lines} of {characters:,} characters",
        "tasks of a batch": f"{batch:,}",
    }
    for what, limit in rows.items():
        yield Limit(what, limit, ContractMismatch)


def _tasks() -> Iterator[Limit]:
    most = _SETTINGS["max_open_tasks_per_owner"].default
    yield Limit(
        "tasks of an owner that have not ended",
        f"`AGENTZERO_MAX_OPEN_TASKS_PER_OWNER`, {most:,}",
        TooManyTasks,
        f"{_LATER}; [how it is counted](tasks.md#the-bound)",
    )
    yield Limit("dependencies of all tasks of a batch", f"{MOST_EDGES:,}", TooManyEdges)
    yield Limit(
        "tasks of a batch, beside the rate limit",
        "as many as the limit of a whole window",
        MoreThanLimit,
    )
    yield Limit(
        "edges of a graph that is shown", f"{MOST_EDGES:,}", "the nearest, with `truncated`"
    )
    yield Limit(
        "tasks of a subtree that are cancelled before the answer",
        f"{subtrees.PER_REQUEST}",
        "`remaining` follow in the background",
        f"what is behind {subtrees.MOST_EDGES:,} edges is left to the policies",
    )
    yield Limit(
        "log lines of a task that are kept",
        f"`AGENTZERO_LOG_LINES_PER_TASK`, {_SETTINGS['log_lines_per_task'].default:,}",
        "the oldest go, `dropped` counts them",
    )
    yield Limit(
        "a late result that is kept",
        size_of(attempts.LATE_RESULT_BYTES),
        "its size is kept, as `result_bytes`",
    )
    yield Limit("schedules of an owner", f"{schedules.MAX_PER_OWNER:,}", TooManySchedules)


def _agents() -> Iterator[Limit]:
    yield Limit("control requests that an agent has not taken", str(CONTROLS_KEPT), Conflict)
    yield Limit("a message to an agent", size_of(messages.MOST_BYTES), messages.MessageTooLarge)
    yield Limit(
        "agents of one broadcast", f"{messages.MOST_RECIPIENTS:,}", messages.TooManyRecipients
    )
    yield Limit(
        "messages that wait for an agent",
        f"{messages.MOST_WAITING:,}",
        messages.MailboxFull,
        _LATER,
    )
    yield Limit(
        "messages on an agent's link that are not acknowledged",
        str(agent_messages.MOST_UNACKNOWLEDGED),
        "the next one waits for room",
    )
    yield Limit(
        "leases that one request takes back", f"{rebalancing.MOST:,}", "ask again for the others"
    )


def artifact_limits() -> Iterator[Limit]:
    """Bodies over the limit of all others, and what is made of them."""
    fields = Settings.model_fields
    one, of_task = fields["max_artifact_bytes"].default, fields["max_task_artifact_bytes"].default
    speed = size_of(large_bodies.BYTES_PER_SECOND)
    yield Limit(
        "an artifact",
        f"`AGENTZERO_MAX_ARTIFACT_BYTES`, {size_of(one)}",
        ContentTooLarge,
        f"over the limit of other bodies it needs `Content-Length`, and has 1 s for {speed}",
    )
    yield Limit(
        "artifacts over the limit of other bodies that arrive at once on a node",
        f"{size_of(large_bodies.AT_ONCE * one)}, {large_bodies.AT_ONCE} of the largest",
        Overloaded,
        "with `Retry-After`",
    )
    yield Limit("artifacts of a task", str(MOST_ARTIFACTS), TooManyArtifacts)
    yield Limit(
        "artifacts of a task together",
        f"`AGENTZERO_MAX_TASK_ARTIFACT_BYTES`, {size_of(of_task)}",
        TooManyArtifacts,
    )
    yield Limit(
        "time in which a client takes a piece of an artifact",
        f"{pieces.PIECE_SECONDS:.0f} s",
        "the connection is closed",
    )
