"""Between a task's document and the domain's task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hive.artifacts import Artifact
from hive.leases import LeaseProof, TaskLease
from hive.raw_json import RawJson
from hive.task_bodies import read_concurrency, read_deduplication
from hive.task_spec import (
    AgentLabels,
    Backoff,
    BackoffKind,
    DependencyPolicy,
    Fairness,
    Sticky,
    TaskPriority,
    TaskSpec,
    Timeouts,
)
from hive.tasks import LateResult, RetriesEnded, Task, TaskError, TaskStatus

Document = Mapping[str, Any]
P = TypeVar("P")


def read_task(document: Document) -> Task:
    """The task that a document holds, free-form values as far as the projection has them."""
    return Task(
        task_id=document["_id"],
        spec=_read_spec(document),
        owner=document["owner"],
        status=TaskStatus(document["status"]),
        version=document["version"],
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        waiting_on=tuple(document["waiting_on"]),
        dependency_count=document.get("dependency_count"),
        attempt=document["attempt"],
        fence=document["fence"],
        lease=_read_lease(document),
        agent_id=document.get("agent_id"),
        progress=document.get("progress"),
        result=_read_raw(document, "result"),
        error=_read_error(document),
        reason=document.get("reason"),
        cancel_requested=document.get("cancel_requested", False),
        log_count=document["log_count"],
        run_at=document.get("run_at"),
        started_at=document.get("started_at"),
        ended_at=document.get("ended_at"),
        ended_by=_read_ended_by(document),
        retries_ended=_read_retries_ended(document),
        attempts_before=document.get("attempts_before", 0),
        late_result=_read_late_result(document),
        artifacts=tuple(Artifact(**one) for one in document.get("artifacts", ())),
        artifact_count=document.get("artifact_count"),
    )


def _read_spec(document: Document) -> TaskSpec:
    backoff = document.get("backoff")
    timeouts = document.get("timeouts")
    concurrency = document.get("concurrency")
    deduplication = document.get("deduplication")
    return TaskSpec(
        name=document["name"],
        description=document.get("description"),
        priority=TaskPriority(document["priority"]),
        parameters=_read_raw(document, "parameters"),
        dependencies=tuple(document["dependencies"]),
        required_capabilities=tuple(document["required_capabilities"]),
        on_dependency_failure=DependencyPolicy(document["on_dependency_failure"]),
        max_attempts=document["max_attempts"],
        backoff=None
        if backoff is None
        else Backoff(**{**backoff, "kind": BackoffKind(backoff["kind"])}),
        non_retryable=tuple(document["non_retryable"]),
        retry_seconds=document.get("retry_seconds"),
        timeouts=None if timeouts is None else Timeouts(**timeouts),
        run_at=document.get("run_at"),
        concurrency=None if concurrency is None else read_concurrency(concurrency),
        fairness=_read_part(document, "fairness", Fairness),
        agent_labels=_read_part(document, "agent_labels", AgentLabels),
        sticky=_read_part(document, "sticky", Sticky),
        deduplication=None if deduplication is None else read_deduplication(deduplication),
        labels=document["labels"],
    )


def _read_part(document: Document, name: str, part: Callable[..., P]) -> P | None:
    given = document.get(name)
    return None if given is None else part(**given)


def _read_lease(document: Document) -> TaskLease | None:
    lease = document.get("lease")
    return None if lease is None else TaskLease(**lease)


def _read_error(document: Document) -> TaskError | None:
    error = document.get("error")
    return None if error is None else TaskError(**error)


def _read_ended_by(document: Document) -> LeaseProof | None:
    proof = document.get("ended_by")
    return None if proof is None else LeaseProof(**proof)


def _read_retries_ended(document: Document) -> RetriesEnded | None:
    why = document.get("retries_ended")
    return None if why is None else RetriesEnded(why)


def _read_late_result(document: Document) -> LateResult | None:
    late = document.get("late_result")
    if late is None:
        return None
    return LateResult(
        attempt=late["attempt"],
        agent_id=late["agent_id"],
        fence=late["fence"],
        status=TaskStatus(late["status"]),
        time=late["time"],
        result=_read_raw(late, "result"),
        result_bytes=late.get("result_bytes"),
        error=_read_error(late),
    )


def _read_raw(document: Document, name: str) -> RawJson | None:
    encoded = document.get(name)
    return None if encoded is None else RawJson(bytes(encoded))
