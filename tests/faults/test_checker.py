"""The checker itself: a good history passes, and each planted violation is named."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.faults.checker import check
from tests.faults.history import Found, Grant, History, Outcome, Reading, Report, Submission, Verb

ONE, TWO = "tsk_1", "tsk_2"
ANNA, BOB = "agt_anna", "agt_bob"


@dataclass
class World:
    """A history and what was found, to be spoilt by a test."""

    history: History
    found: Found

    def rules(self) -> set[str]:
        """The rules that it breaks."""
        return {violation.rule for violation in check(self.history, self.found)}

    def event(self, identifier: str) -> dict[str, Any]:
        """The event of this identifier."""
        return next(event for event in self.found.events if event["id"] == identifier)

    def drop(self, identifier: str) -> None:
        """The log without an event, and without a hole in `seq`."""
        self.found.events.remove(self.event(identifier))
        self.history.watched.clear()
        for seq, event in enumerate(self.found.events, start=1):
            event["seq"] = str(seq)

    def add(self, kind: str, status: str, actor: str) -> None:
        """One more event of the first task, and its document with it."""
        document = self.found.tasks[0]
        document["version"] += 1
        document["status"] = status
        self.found.events.append(_event(len(self.found.events) + 1, document, kind, actor))

    def report(self, index: int, **changed: Any) -> None:
        """Change what an agent remembers of a report."""
        self.history.reports[index] = replace(self.history.reports[index], **changed)


def _event(seq: int, document: dict[str, Any], kind: str, actor: str) -> dict[str, Any]:
    task_id = document["task_id"]
    return {
        "id": f"{task_id}:{document['version']}",
        "seq": str(seq),
        "subject": task_id,
        "type": kind,
        # Two seconds between two events.
        "time": f"2026-11-21T09:00:{2 * seq:02}.000Z",
        "actor": actor,
        "data": deepcopy(document),
    }


@pytest.fixture
def world() -> World:
    """Task 1 is lost by Anna after progress and completed by Bob; task 2 runs after it."""
    documents: dict[str, dict[str, Any]] = {
        task_id: {
            "task_id": task_id,
            "name": f"name of {task_id}",
            "dependencies": [ONE] if task_id == TWO else [],
            "on_dependency_failure": "fail",
            "agent_id": None,
            "progress": None,
        }
        for task_id in (ONE, TWO)
    }
    events: list[dict[str, Any]] = []
    for task_id, kind, status, actor in (
        (ONE, "task.created", "queued", "usr_1"),
        (TWO, "task.created", "blocked", "usr_1"),
        (ONE, "task.started", "running", ANNA),
        (ONE, "task.progress", "running", ANNA),
        (ONE, "task.retrying", "queued", "system:reaper"),
        (ONE, "task.started", "running", BOB),
        (ONE, "task.completed", "completed", BOB),
        (TWO, "task.queued", "queued", "system:releaser"),
        (TWO, "task.started", "running", BOB),
        (TWO, "task.completed", "completed", BOB),
    ):
        document = documents[task_id]
        document["version"] = document.get("version", 0) + 1
        document["status"] = status
        if kind == "task.started":
            document["agent_id"] = actor
            document["progress"] = None
        if kind == "task.progress":
            document["progress"] = {"fraction": 0.5, "message": "half"}
        if kind == "task.retrying":
            document["error"] = {"code": "lease-expired", "message": "It was not renewed."}
        events.append(_event(len(events) + 1, document, kind, actor))
    late = Grant(ONE, "lse_1", 1, ANNA, began=2, answered=3)
    good = Grant(ONE, "lse_2", 2, BOB, began=5, answered=6)
    last = Grant(TWO, "lse_3", 1, BOB, began=8, answered=9)
    history = History(
        submissions=[Submission(f"name of {ONE}", ONE), Submission(f"name of {TWO}", TWO)],
        grants=[late, good, last],
        reports=[
            Report(late, Verb.PROGRESS, Outcome.ACCEPTED, began=4, message="half"),
            Report(late, Verb.LOGS, Outcome.ACCEPTED, began=4, message="a line"),
            Report(good, Verb.COMPLETE, Outcome.ACCEPTED, began=7),
            Report(late, Verb.COMPLETE, Outcome.REFUSED, began=8),
            Report(last, Verb.COMPLETE, Outcome.ACCEPTED, began=10),
        ],
        readings=[Reading(ONE, 2, 3, 4), Reading(ONE, 5, 7, 8)],
        watched={int(event["seq"]): event["id"] for event in events},
        lease_seconds=2.0,
    )
    return World(history, Found(list(documents.values()), events, {ONE: ["a line"]}))


def test_good_history_breaks_no_rule(world: World) -> None:
    """The checker has no complaint of its own."""
    assert check(world.history, world.found) == []


def test_unanswered_submission_may_exist_or_not(world: World) -> None:
    """Unknown is neither lost nor unexpected."""
    world.history.submissions[1] = Submission(f"name of {TWO}", None)
    world.history.submissions.append(Submission("never arrived", None))
    assert world.rules() == set()


def _lose_a_task(world: World) -> None:
    world.history.submissions.append(Submission("accepted", "tsk_9"))


def _make_up_a_task(world: World) -> None:
    del world.history.submissions[1]


def _submit_twice(world: World) -> None:
    name = world.found.tasks[0]["name"]
    world.history.submissions[0] = Submission(name, None)
    twin = {**world.found.tasks[0], "task_id": "tsk_3"}
    world.found.tasks.append(twin)


def _leave_a_task_running(world: World) -> None:
    world.drop(f"{TWO}:4")
    world.found.tasks[1] |= {"status": "running", "version": 3}


def _end_twice(world: World) -> None:
    world.add("task.failed", "failed", "system:reaper")


def _drop_the_start(world: World) -> None:
    world.drop(f"{ONE}:1")


def _drop_an_event(world: World) -> None:
    world.drop(f"{ONE}:3")


def _drop_the_last_event(world: World) -> None:
    world.drop(f"{TWO}:4")


def _leave_a_hole_in_seq(world: World) -> None:
    world.history.watched.clear()
    for event in world.found.events[4:]:
        event["seq"] = str(int(event["seq"]) + 1)


def _swap_versions(world: World) -> None:
    first, second = world.event(f"{ONE}:2"), world.event(f"{ONE}:3")
    first["seq"], second["seq"] = second["seq"], first["seq"]
    world.found.events.sort(key=lambda event: int(event["seq"]))


def _repeat_an_event(world: World) -> None:
    again = {**world.event(f"{TWO}:4"), "seq": str(len(world.found.events) + 1)}
    world.found.events.append(again)


def _reset_the_log(world: World) -> None:
    seq = str(len(world.found.events) + 1)
    reset = {"id": f"log:{seq}", "seq": seq, "subject": "log", "type": "log.reset", "data": {}}
    world.found.events.append(reset)


def _move_a_seen_event(world: World) -> None:
    world.history.watched[4] = "tsk_8:1"


def _start_what_runs(world: World) -> None:
    world.event(f"{ONE}:4")["data"]["status"] = "running"


def _go_back_from_the_end(world: World) -> None:
    world.add("task.queued", "queued", "system:reaper")


def _start_before_the_dependency(world: World) -> None:
    started, ended = world.event(f"{TWO}:3"), world.event(f"{ONE}:6")
    started["seq"], ended["seq"] = ended["seq"], started["seq"]


def _start_despite_a_failure(world: World) -> None:
    world.found.tasks[0]["status"] = "failed"


def _change_the_document(world: World) -> None:
    world.found.tasks[0]["version"] = 7


def _grant_the_same_fence(world: World) -> None:
    world.history.grants[1] = replace(world.history.grants[1], fence=1)


def _grant_an_older_fence(world: World) -> None:
    world.history.grants[0] = replace(world.history.grants[0], fence=3)


def _take_back_too_early(world: World) -> None:
    world.event(f"{ONE}:4")["time"] = "2026-11-21T09:00:09.999Z"


def _accept_an_old_fence(world: World) -> None:
    world.report(3, outcome=Outcome.ACCEPTED)


def _let_a_stranger_write(world: World) -> None:
    world.event(f"{ONE}:6")["actor"] = ANNA


def _lose_a_completion(world: World) -> None:
    event = world.event(f"{TWO}:4")
    event["type"] = "task.failed"
    event["data"]["status"] = world.found.tasks[1]["status"] = "failed"


def _lose_progress(world: World) -> None:
    world.event(f"{ONE}:3")["data"]["progress"] = {"fraction": 0.5, "message": "another"}


def _lose_a_grant(world: World) -> None:
    world.history.grants.append(Grant(TWO, "lse_4", 2, ANNA, began=10, answered=11))


def _do_what_was_refused(world: World) -> None:
    world.report(4, outcome=Outcome.REFUSED)


def _lose_a_line(world: World) -> None:
    world.found.logs[ONE].clear()


def _lose_a_cancellation(world: World) -> None:
    world.history.cancelled.append(ONE)


def _read_backwards(world: World) -> None:
    world.history.readings.append(Reading(ONE, 4, 9, 10))


def _answer_with_a_fault(world: World) -> None:
    world.history.surprises.append("claim: 500")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_lose_a_task, "lost-task"),
        (_make_up_a_task, "unexpected-task"),
        (_submit_twice, "unexpected-task"),
        (_leave_a_task_running, "not-ended"),
        (_leave_a_task_running, "ended-not-once"),
        (_end_twice, "ended-not-once"),
        (_end_twice, "illegal-move"),
        (_drop_the_start, "version-hole"),
        (_drop_the_start, "illegal-move"),
        (_drop_an_event, "version-hole"),
        (_drop_the_last_event, "document-differs"),
        (_leave_a_hole_in_seq, "seq-hole"),
        (_swap_versions, "version-hole"),
        (_repeat_an_event, "event-repeated"),
        (_reset_the_log, "log-reset"),
        (_move_a_seen_event, "event-changed"),
        (_start_what_runs, "illegal-move"),
        (_go_back_from_the_end, "illegal-move"),
        (_start_before_the_dependency, "started-early"),
        (_start_despite_a_failure, "started-anyway"),
        (_change_the_document, "document-differs"),
        (_grant_the_same_fence, "fence-not-increasing"),
        (_grant_an_older_fence, "fence-not-increasing"),
        (_take_back_too_early, "lease-cut-short"),
        (_accept_an_old_fence, "stale-write"),
        (_let_a_stranger_write, "foreign-write"),
        (_lose_a_completion, "lost-report"),
        (_lose_progress, "lost-report"),
        (_lose_a_grant, "lost-grant"),
        (_do_what_was_refused, "refused-and-done"),
        (_lose_a_line, "lost-line"),
        (_lose_a_cancellation, "lost-cancel"),
        (_read_backwards, "backward-read"),
        (_answer_with_a_fault, "unexpected-answer"),
    ],
)
def test_planted_violation_is_named(
    world: World, spoil: Callable[[World], None], rule: str
) -> None:
    """Each way to break the history is seen as what it is."""
    spoil(world)
    assert rule in world.rules()
