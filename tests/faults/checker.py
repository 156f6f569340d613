"""Judges a run: what clients were told, what the tasks are, and what the event log says.

`check` is pure. It knows the machine (`hive.tasks.LEGAL_MOVES`) and nothing of the server. Between
two `task.started` events of a task lies one lease, and the n-th of them has fence n: that is how an
acknowledged report is found again in the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hive.tasks import ENDED, LEGAL_MOVES, TaskStatus
from tests.faults.history import Found, Grant, History, Outcome, Report, Verb

Json = Mapping[str, Any]
ENDINGS = frozenset({"task.completed", "task.failed", "task.cancelled"})
STAYING = frozenset({"task.progress", "task.log", "task.cancelling"})
"""Events of a task that stays where it is."""
LOSSES = frozenset({"task.retrying", "task.failed"})
EVENTS_OF = {
    Verb.PROGRESS: frozenset({"task.progress"}),
    Verb.COMPLETE: frozenset({"task.completed"}),
    Verb.FAIL: frozenset({"task.failed", "task.retrying", "task.cancelled"}),
    Verb.RELEASE: frozenset({"task.released", "task.cancelled"}),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that the run broke."""

    rule: str
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule} {self.subject}: {self.detail}"


# What changes in SQL is announced in order, too; no version stands in those identifiers.
VERSIONED = ("agt_", "tsk_")


@dataclass(slots=True)
class _Lease:
    """The events between one `task.started` and the next."""

    started: Json
    events: list[Json] = field(default_factory=list)

    @property
    def agent_id(self) -> str:
        """Who held it."""
        agent_id: str = self.started["data"]["agent_id"]
        return agent_id


def check(history: History, found: Found) -> list[Violation]:
    """Every violation of the run, none when all is well."""
    documents = {task["task_id"]: task for task in found.tasks}
    by_subject: defaultdict[str, list[Json]] = defaultdict(list)
    for event in found.events:
        by_subject[event["subject"]].append(event)
    task_events = {name: by_subject[name] for name in by_subject if name.startswith("tsk_")}
    leases = {task_id: _leases(events) for task_id, events in task_events.items()}
    return [
        *(Violation("unexpected-answer", "client", text) for text in history.surprises),
        *_check_log(found.events, history.watched),
        *_check_acceptance(history, documents),
        *(v for subject, events in by_subject.items() for v in _check_versions(subject, events)),
        *(v for task_id, events in task_events.items() for v in _check_moves(task_id, events)),
        *(v for task_id, task in documents.items() for v in _check_end(task, by_subject[task_id])),
        *_check_dependencies(documents, task_events),
        *_check_fences(history),
        *(v for held in leases.values() for v in _check_periods(held, history.lease_seconds)),
        *(v for grant in history.grants for v in _check_grant(grant, leases)),
        *(v for report in history.reports for v in _check_report(report, leases)),
        *_check_lines(history, found.logs),
        *(v for task_id in history.cancelled for v in _check_cancelled(task_id, by_subject)),
        *_check_readings(history),
    ]


def _check_log(events: Sequence[Json], watched: Mapping[int, str]) -> Iterator[Violation]:
    """`seq` dense from 1, identifiers unique, and no event moves once it was seen."""
    seen: set[str] = set()
    for expected, event in enumerate(events, start=1):
        if event["seq"] != str(expected):
            yield Violation("seq-hole", event["id"], f"expected seq {expected}, got {event['seq']}")
            break
    for event in events:
        if event["id"] in seen:
            yield Violation("event-repeated", event["id"], f"again at seq {event['seq']}")
        seen.add(event["id"])
        if event["type"] == "log.reset":
            yield Violation("log-reset", event["id"], "the recorder lost the history")
    places = {int(event["seq"]): event["id"] for event in events}
    for seq, identifier in watched.items():
        if places.get(seq) != identifier:
            detail = f"seq {seq} was {identifier}, is {places.get(seq)}"
            yield Violation("event-changed", identifier, detail)


def _check_acceptance(history: History, documents: Mapping[str, Json]) -> Iterator[Violation]:
    """Each receipt has its task, and each task was asked for, once."""
    receipts = {s.task_id for s in history.submissions if s.task_id is not None}
    for submission in history.submissions:
        if submission.task_id is not None and submission.task_id not in documents:
            yield Violation("lost-task", submission.task_id, f"accepted as {submission.name}")
    unanswered = {s.name for s in history.submissions if s.task_id is None}
    for task_id, task in documents.items():
        if task_id in receipts:
            continue
        if task["name"] not in unanswered:
            yield Violation("unexpected-task", task_id, f"nobody asked for {task['name']}")
        unanswered.discard(task["name"])


def _check_versions(subject: str, events: Sequence[Json]) -> Iterator[Violation]:
    """The events of an agent or a task are its versions 1..n, in this order, without a hole."""
    if not subject.startswith(VERSIONED):
        return
    for expected, event in enumerate(events, start=1):
        version = event["data"].get("version")
        if version != expected or event["id"] != f"{subject}:{expected}":
            detail = f"expected version {expected}, got {version} ({event['id']} {event['type']})"
            yield Violation("version-hole", subject, detail)
            return


def _check_moves(task_id: str, events: Sequence[Json]) -> Iterator[Violation]:
    """Every move is in the table."""
    if events[0]["type"] != "task.created":
        yield Violation("illegal-move", task_id, f"begins with {events[0]['type']}")
    statuses = [TaskStatus(event["data"]["status"]) for event in events]
    for before, after, event in zip(statuses, statuses[1:], events[1:], strict=False):
        stays = after is before and before not in ENDED and event["type"] in STAYING
        # What comes late is kept beside a task that has ended, too.
        stays = stays or (after is before and event["type"] == "task.late_result")
        if not stays and after not in LEGAL_MOVES[before]:
            yield Violation("illegal-move", event["id"], f"{before} to {after} ({event['type']})")


def _check_end(task: Json, events: Sequence[Json]) -> Iterator[Violation]:
    """Ended, once; and the document is what its last event says."""
    task_id = task["task_id"]
    if TaskStatus(task["status"]) not in ENDED:
        yield Violation("not-ended", task_id, f"still {task['status']}")
    endings = [event["type"] for event in events if event["type"] in ENDINGS]
    if len(endings) != 1:
        yield Violation("ended-not-once", task_id, f"terminal events: {endings}")
    if not events:
        yield Violation("no-event", task_id, "the log does not know the task")
        return
    last = events[-1]["data"]
    for name, value in task.items():
        # An error's view has fewer members than its event.
        if name != "error" and last.get(name) != value:
            detail = f"{name} is {value!r}, its last event says {last.get(name)!r}"
            yield Violation("document-differs", task_id, detail)


def _check_dependencies(
    documents: Mapping[str, Json], task_events: Mapping[str, Sequence[Json]]
) -> Iterator[Violation]:
    """A task starts behind the end of all that it depends on, and only where its policy lets it."""
    ended_at = {
        task_id: int(event["seq"])
        for task_id, events in task_events.items()
        for event in events
        if event["type"] in ENDINGS
    }
    for task_id, task in documents.items():
        started = [e for e in task_events.get(task_id, ()) if e["type"] == "task.started"]
        for dependency in task["dependencies"] if started else ():
            if ended_at.get(dependency, 0) > int(started[0]["seq"]) or dependency not in ended_at:
                yield Violation("started-early", task_id, f"before {dependency} had ended")
            status = documents.get(dependency, {}).get("status")
            if status != "completed" and task["on_dependency_failure"] != "run":
                yield Violation("started-anyway", task_id, f"though {dependency} is {status}")


def _check_fences(history: History) -> Iterator[Violation]:
    """Fences grow, and nothing is accepted under one that is known to be old."""
    granted: defaultdict[str, list[Grant]] = defaultdict(list)
    for grant in history.grants:
        for other in granted[grant.task_id]:
            first, second = sorted((grant, other), key=lambda each: each.fence)
            # What one asked for before the other had its answer may have been given in any order.
            if first.fence == second.fence or second.answered < first.began:
                detail = f"fence {first.fence} was granted after fence {second.fence}"
                yield Violation("fence-not-increasing", grant.task_id, detail)
        granted[grant.task_id].append(grant)
    for report in history.reports:
        fence = report.grant.fence
        newer = [
            grant.fence
            for grant in granted[report.grant.task_id]
            if grant.fence > fence and grant.answered < report.began
        ]
        if newer and report.outcome is Outcome.ACCEPTED:
            detail = f"{report.verb} under fence {fence} was accepted after fence {max(newer)}"
            yield Violation("stale-write", report.grant.task_id, detail)


def _leases(events: Sequence[Json]) -> list[_Lease]:
    leases: list[_Lease] = []
    for event in events:
        if event["type"] == "task.started":
            leases.append(_Lease(event))
        elif leases:
            leases[-1].events.append(event)
    return leases


def _check_periods(leases: Sequence[_Lease], seconds: float) -> Iterator[Violation]:
    """Nobody takes a lease back for its age before that is so much, by the database's clock."""
    for lease in leases:
        renewed = lease.started
        for event in lease.events:
            if event["type"] == "task.progress":
                renewed = event
            if event["type"] not in LOSSES or event["actor"] != "system:reaper":
                continue
            age = (_time(event) - _time(renewed)).total_seconds()
            if event["data"].get("error", {}).get("code") == "lease-expired" and age < seconds:
                detail = f"taken back {age:.3f} s after {renewed['type']} {renewed['id']}"
                yield Violation("lease-cut-short", event["id"], detail)


def _time(event: Json) -> datetime:
    return datetime.fromisoformat(event["time"])


def _check_grant(grant: Grant, leases: Mapping[str, Sequence[_Lease]]) -> Iterator[Violation]:
    """The n-th start in the log is the grant of fence n, and only its agent writes under it."""
    lease = _lease_of(grant, leases)
    if lease is None:
        yield Violation("lost-grant", grant.task_id, f"no start number {grant.fence} in the log")
        return
    if lease.agent_id != grant.agent_id:
        detail = f"fence {grant.fence} was {grant.agent_id}'s, the log says {lease.agent_id}"
        yield Violation("lost-grant", grant.task_id, detail)
    for event in lease.events:
        actor = event.get("actor", "")
        is_late = event["type"] == "task.late_result"
        if actor.startswith("agt_") and actor != lease.agent_id and not is_late:
            detail = f"{actor} wrote it under the lease of {lease.agent_id}"
            yield Violation("foreign-write", event["id"], detail)


def _check_report(report: Report, leases: Mapping[str, Sequence[_Lease]]) -> Iterator[Violation]:
    """What was acknowledged is in the log under its fence; what was refused is not."""
    if report.verb is Verb.LOGS:
        return
    lease = _lease_of(report.grant, leases)
    events = [
        event
        for event in (lease.events if lease else ())
        if event["type"] in EVENTS_OF[report.verb] and event.get("actor") == report.grant.agent_id
    ]
    if report.message is not None:
        events = [e for e in events if e["data"]["progress"].get("message") == report.message]
    what = f"{report.verb} under fence {report.grant.fence}"
    if report.outcome is Outcome.ACCEPTED and not events:
        yield Violation("lost-report", report.grant.task_id, f"{what} was acknowledged")
    # A repeated `complete` is answered as the first one; the other verbs only if the task ended.
    is_refused = report.outcome is Outcome.REFUSED
    if is_refused and events and (report.is_certain or report.verb is Verb.COMPLETE):
        yield Violation("refused-and-done", report.grant.task_id, f"{what} was refused")


def _lease_of(grant: Grant, leases: Mapping[str, Sequence[_Lease]]) -> _Lease | None:
    known = leases.get(grant.task_id, ())
    return known[grant.fence - 1] if 1 <= grant.fence <= len(known) else None


def _check_lines(history: History, logs: Mapping[str, Sequence[str]]) -> Iterator[Violation]:
    """Acknowledged log lines are there; refused ones are not."""
    for report in history.reports:
        if report.verb is not Verb.LOGS:
            continue
        times = logs.get(report.grant.task_id, []).count(report.message or "")
        if report.outcome is Outcome.ACCEPTED and not times:
            yield Violation("lost-line", report.grant.task_id, f"{report.message}")
        if report.outcome is Outcome.REFUSED and report.is_certain and times:
            yield Violation("refused-and-done", report.grant.task_id, f"line {report.message}")


def _check_cancelled(task_id: str, by_subject: Mapping[str, Sequence[Json]]) -> Iterator[Violation]:
    """An acknowledged cancellation is in the log: done, or asked of the agent."""
    types = {event["type"] for event in by_subject.get(task_id, ())}
    if not types & {"task.cancelled", "task.cancelling"}:
        yield Violation("lost-cancel", task_id, "the cancellation was acknowledged")


def _check_readings(history: History) -> Iterator[Violation]:
    """Nobody reads an older version than what was read before."""
    newest: dict[str, tuple[int, int]] = {}
    for reading in sorted(history.readings, key=lambda reading: reading.answered):
        version, answered = newest.get(reading.task_id, (0, 0))
        if answered < reading.began and reading.version < version:
            detail = f"version {reading.version} was read after version {version}"
            yield Violation("backward-read", reading.task_id, detail)
        if reading.version >= version:
            newest[reading.task_id] = (reading.version, reading.answered)
