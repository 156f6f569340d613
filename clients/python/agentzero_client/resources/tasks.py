"""Tasks: submit, look, cancel, wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from agentzero_client.address import segment
from agentzero_client.decoding import decode_list, decode_model
from agentzero_client.errors import UnexpectedAnswerError
from agentzero_client.http import Http
from agentzero_client.models import (
    AgentLabels,
    Artifact,
    Backoff,
    Concurrency,
    Deduplication,
    DependencyPolicy,
    Fairness,
    LogLine,
    Sticky,
    Task,
    TaskPriority,
    TaskReceipt,
    TaskStatus,
    TaskSummary,
    Timeouts,
)
from agentzero_client.paging import Order, label_filter, pages
from agentzero_client.retrying import Repeat
from agentzero_client.task_graphs import (
    BatchMode,
    BatchReceipt,
    Direction,
    SubtreeCancelled,
    TaskGraph,
)
from agentzero_client.waiting import TaskEnds

PATH = "/api/v1/tasks"
WAIT_MARGIN_SECONDS = 10.0


_Part = AgentLabels | Backoff | Concurrency | Deduplication | Fairness | Sticky | Timeouts


class AsyncTasks:
    """`client.tasks`. A refusal raises ProblemError, no answer ConnectionFailedError."""

    def __init__(self, http: Http, ends: TaskEnds) -> None:
        self._http = http
        self._ends = ends

    async def submit(
        self,
        name: str,
        *,
        parameters: Any = None,
        description: str | None = None,
        priority: TaskPriority | None = None,
        dependencies: Sequence[str | TaskReceipt] = (),
        required_capabilities: Sequence[str] = (),
        on_dependency_failure: DependencyPolicy | None = None,
        max_attempts: int | None = None,
        backoff: Backoff | None = None,
        non_retryable: Sequence[str] = (),
        retry_seconds: float | None = None,
        timeouts: Timeouts | None = None,
        run_at: datetime | None = None,
        concurrency: Concurrency | None = None,
        fairness: Fairness | None = None,
        agent_labels: AgentLabels | None = None,
        sticky: Sticky | None = None,
        deduplication: Deduplication | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> TaskReceipt:
        """Submit a task; it is durable when this returns. `parameters` is any JSON value.

        Sent again under one `Idempotency-Key` until there is an answer, as `RetryPolicy` says: the
        task is made once. After a ConnectionFailedError or a 503 that comes all the same, it may
        exist: look before submitting again.
        """
        body = {
            "name": name,
            "description": description,
            "priority": priority,
            "parameters": parameters,
            "dependencies": [d if isinstance(d, str) else d.task_id for d in dependencies],
            "required_capabilities": list(required_capabilities),
            "on_dependency_failure": on_dependency_failure,
            "max_attempts": max_attempts,
            "backoff": _members(backoff),
            "non_retryable": list(non_retryable),
            "retry_seconds": retry_seconds,
            "timeouts": _members(timeouts),
            "run_at": _time(run_at),
            "concurrency": _members(concurrency),
            "fairness": _members(fairness),
            "agent_labels": _members(agent_labels),
            "sticky": _members(sticky),
            "deduplication": _members(deduplication),
            "labels": dict(labels or {}),
        }
        empty: tuple[Any, ...] = ([], {})
        given = {
            k: v for k, v in body.items() if v is not None and (k == "parameters" or v not in empty)
        }
        answer = await self._http.request("POST", PATH, body=given, repeat=Repeat.KEYED)
        return decode_model(TaskReceipt, answer.body)

    async def submit_batch(
        self, tasks: Sequence[Mapping[str, Any]], *, mode: BatchMode | None = None
    ) -> BatchReceipt:
        """Submit tasks that depend on each other, each as the contract's `BatchTask` has it.

        `{"name": ..., "key": "split"}` is what `{"name": ..., "depends_on": ["split"]}` waits for.
        All are made or none, unless the mode is `best-effort`. Sent again like `submit`. Raise
        ProblemError with `errors` that name each task that can't be made.
        """
        body: dict[str, Any] = {"tasks": [_plain(task) for task in tasks]}
        if mode is not None:
            body["mode"] = mode
        answer = await self._http.request("POST", f"{PATH}/batch", body=body, repeat=Repeat.KEYED)
        return decode_model(BatchReceipt, answer.body)

    async def graph(
        self, task_id: str, *, direction: Direction | None = None, depth: int | None = None
    ) -> TaskGraph:
        """What the task waits for (`up`), what waits for it (`down`), or both (the default)."""
        given = {"direction": direction, "depth": depth}
        params: dict[str, str | int] = {k: v for k, v in given.items() if v is not None}
        answer = await self._http.request("GET", f"{PATH}/{segment(task_id)}/graph", params=params)
        return decode_model(TaskGraph, answer.body)

    async def cancel_subtree(self, task_id: str) -> SubtreeCancelled:
        """Cancel the task and all that depends on it; what runs is asked to stop."""
        path = f"{PATH}/{segment(task_id)}/cancel-subtree"
        answer = await self._http.request("POST", path, repeat=Repeat.REPEATABLE)
        return decode_model(SubtreeCancelled, answer.body)

    async def get(self, task_id: str) -> Task:
        """One task with its parameters, progress, result or error. Raise NotFoundError."""
        answer = await self._http.request("GET", f"{PATH}/{segment(task_id)}")
        return decode_model(Task, answer.body)

    def list(
        self,
        *,
        status: TaskStatus | None = None,
        priority: TaskPriority | None = None,
        owner: str | None = None,
        agent_id: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        order: Order | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[TaskSummary]:
        """Iterate over tasks, by default newest first; `limit` bounds the whole iteration."""
        filters = {
            "status": status,
            "priority": priority,
            "owner": owner,
            "agent_id": agent_id,
            "name": name,
            "label": label_filter(labels),
            "order": order,
        }
        return pages(self._http, PATH, TaskSummary, filters, limit)

    async def cancel(self, task_id: str, *, if_match: int | None = None) -> TaskReceipt:
        """Cancel; a running task is asked to stop. Raise ConflictError when it has ended.

        With `if_match` only while the task has that version: raise PreconditionFailedError.
        """
        path = f"{PATH}/{segment(task_id)}"
        answer = await self._http.request("DELETE", path, version=if_match)
        body = answer.body if isinstance(answer.body, dict) else {}
        return decode_model(TaskReceipt, body.get("result"))

    async def retry(self, task_id: str, *, if_match: int | None = None) -> TaskReceipt:
        """Queue a failed task again, with new attempts. Raise ConflictError for any other.

        With `if_match` only while the task has that version: raise PreconditionFailedError. After a
        ConnectionFailedError it may be queued already, and trying again raises ConflictError.
        """
        path = f"{PATH}/{segment(task_id)}/retry"
        answer = await self._http.request("POST", path, version=if_match)
        return decode_model(TaskReceipt, answer.body)

    async def logs(
        self, task_id: str, *, limit: int = 100, after: int | None = None
    ) -> Sequence[LogLine]:
        """The last `limit` lines, oldest first; with `after`, the first ones behind that line."""
        params: dict[str, str | int] = {"limit": limit}
        if after is not None:
            params["after"] = after
        answer = await self._http.request("GET", f"{PATH}/{segment(task_id)}/logs", params=params)
        body = answer.body if isinstance(answer.body, dict) else {}
        return decode_list(LogLine, body.get("logs"))

    async def artifacts(self, task_id: str) -> Sequence[Artifact]:
        """The files that the task's agents handed over."""
        answer = await self._http.request("GET", f"{PATH}/{segment(task_id)}/artifacts")
        body = answer.body if isinstance(answer.body, dict) else {}
        return decode_list(Artifact, body.get("artifacts"))

    async def artifact(self, task_id: str, name: str) -> bytes:
        """The bytes of one of them. Raise NotFoundError."""
        path = f"{PATH}/{segment(task_id)}/artifacts/{segment(name)}"
        content = (await self._http.request("GET", path)).body
        if not isinstance(content, bytes):
            raise UnexpectedAnswerError(f"no file from {path}")
        return content

    async def update(
        self,
        task_id: str,
        *,
        description: str | None = None,
        priority: TaskPriority | None = None,
        labels: Mapping[str, str] | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        timeouts: Timeouts | None = None,
        if_match: int | None = None,
    ) -> Task:
        """Change a task that waits, and give it; what is left out stays as it is.

        `labels` and `timeouts` are replaced as a whole. Raise ConflictError when the task runs or
        has ended; with `if_match` PreconditionFailedError when it has another version.
        """
        body = {
            "description": description,
            "priority": priority,
            "labels": None if labels is None else dict(labels),
            "run_at": _time(run_at),
            "max_attempts": max_attempts,
            "timeouts": _members(timeouts),
        }
        given = {name: value for name, value in body.items() if value is not None}
        path = f"{PATH}/{segment(task_id)}"
        answer = await self._http.request("PATCH", path, body=given, version=if_match)
        return decode_model(Task, answer.body)

    async def wait_for(self, task_id: str, *, seconds: float = 30.0) -> Task:
        """Ask for the task once, and let the server answer when it has ended.

        After `seconds` (30 at most) it is given as it is then: look at `has_ended`. It takes no
        socket and no watch; `wait` goes on for as long as it takes.
        """
        answer = await self._http.request(
            "GET",
            f"{PATH}/{segment(task_id)}",
            params={"wait_seconds": seconds},
            timeout_seconds=seconds + WAIT_MARGIN_SECONDS,
        )
        return decode_model(Task, answer.body)

    async def wait(self, task_id: str, timeout: float | None = None) -> Task:  # noqa: ASYNC109  # The name that callers know.
        """Wait until the task completed, failed or was cancelled, and give it.

        Learns of the end by its event, and asks now and then in case none arrives. A server that is
        away is waited for. `timeout` is in seconds; raise TimeoutError when it is over.
        """
        return await self._ends.wait(task_id, self.get, timeout)


def _plain(task: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a task of a batch as JSON has them."""
    return {name: _plain_value(name, value) for name, value in task.items() if value is not None}


def _plain_value(name: str, value: Any) -> Any:
    if isinstance(value, Backoff | Timeouts | Concurrency):
        return _members(value)
    if name == "dependencies":
        return [d if isinstance(d, str) else d.task_id for d in value]
    return _time(value) if isinstance(value, datetime) else value


def _members(
    value: _Part | None,
) -> dict[str, Any] | None:
    if value is None:
        return None
    members = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: member for name, member in members.items() if member is not None}


def _time(value: datetime | None) -> str | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError("run_at needs a time zone")
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
