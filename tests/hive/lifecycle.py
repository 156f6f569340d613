"""The rules of a task's life, played at random against a world that keeps tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hive import task_machine as machine
from hive.attempts import LateReport, LostLease, keep_late_result
from hive.changes import Change, Without
from hive.errors import IllegalTransition, LeaseLost, SlotTaken
from hive.leases import LeaseProof, NewLease
from hive.ports import DecideTask
from hive.raw_json import RawJson
from hive.task_spec import Backoff, BackoffKind, DependencyPolicy, TaskPriority, TaskSpec
from hive.tasks import ENDED, LEGAL_MOVES, RetriesEnded, Task, TaskError, TaskStatus
from tests.hive.worlds import EPOCH

WAITING = frozenset({TaskStatus.SCHEDULED, TaskStatus.BLOCKED})
AGENTS = ("agt_1", "agt_2")
SLOTS = (1, 2)
PICK = st.integers(0, 1_000_000)


class World(Protocol):
    """Where the tasks are kept: memory, or MongoDB."""

    def clear(self) -> None:
        """Forget everything."""

    def insert(self, task_id: str, change: Change) -> Task:
        """As `Tasks.insert`."""

    def get(self, task_id: str) -> Task:
        """As `Tasks.get`."""

    def change(self, task_id: str, decide: DecideTask) -> Task:
        """As `Tasks.change`."""

    def claim(self, lease: NewLease) -> Task | None:
        """As `Queue.claim`, for tasks that need no capability."""

    def drop_dependency(self, task_id: str, mark: Without) -> None:
        """As `Sweeps.drop_ended`, of one task."""

    def place(self, task_id: str) -> tuple[float, str]:
        """Where a queued task stands in the queue: ascending."""

    def last_event(self, task_id: str) -> tuple[int, str]:
        """How many events the task has had, and the status that the newest one told."""


@dataclass
class Told:
    """What the world has told about one task so far."""

    task: Task
    fences: list[int] = field(default_factory=list)
    proofs: list[LeaseProof] = field(default_factory=list)
    ends: int = 0


def _as_decided(verdict: Change, _: Task) -> Change:
    return verdict


class Lifecycle(RuleBasedStateMachine):
    """Submits, claims, reports, loses, cancels and ends; each step must leave the world legal."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.told: dict[str, Told] = {}
        self.places: dict[str, tuple[float, str]] = {}
        self.leases = 0
        world.clear()

    def _any(self, pick: int) -> Told:
        return list(self.told.values())[pick % len(self.told)]

    def _running(self, pick: int) -> Told | None:
        running = [told for told in self.told.values() if told.task.lease is not None]
        return running[pick % len(running)] if running else None

    def _saw(self, task: Task) -> None:
        """Compare what the world tells now with what it told before."""
        told = self.told.get(task.task_id)
        if task.status is TaskStatus.QUEUED:
            self._stands(task, was_queued=told is not None and told.task.status is task.status)
        if told is None:
            assert task.version == 1
            self.told[task.task_id] = Told(task)
            return
        before, told.task = told.task, task
        steps = task.version - before.version
        assert steps in {0, 1}, "one change is one version"
        moved = task.status is not before.status
        assert moved <= steps, "a move is a change with an event"
        if moved:
            assert task.status in LEGAL_MOVES[before.status]
            if before.status is TaskStatus.FAILED:
                told.ends -= 1
            told.ends += task.status in ENDED
            assert told.ends == (task.status in ENDED)
        if task.fence != before.fence:
            assert task.status is TaskStatus.RUNNING
            assert before.status is TaskStatus.QUEUED
            assert task.fence > max(told.fences, default=0)
            told.fences.append(task.fence)

    def _stands(self, task: Task, *, was_queued: bool) -> None:
        """A task that waits keeps its place; one that was given back returns to it."""
        place, before = self.world.place(task.task_id), self.places.get(task.task_id)
        if before is not None:
            assert place == before if was_queued else place >= before
        self.places[task.task_id] = place

    def _decide(self, told: Told, decide: DecideTask) -> None:
        """Change a task; a refusal must leave it as it is."""
        try:
            self._saw(self.world.change(told.task.task_id, decide))
        except (IllegalTransition, LeaseLost):
            assert self.world.get(told.task.task_id) == told.task

    @rule(
        priority=st.sampled_from(TaskPriority),
        policy=st.sampled_from(DependencyPolicy),
        picks=st.lists(PICK, max_size=2),
        max_attempts=st.integers(1, 3),
        delay=st.sampled_from([0.0, 9.0]),
        later=st.booleans(),
        budget=st.sampled_from([None, 0.0, 3600.0]),
    )
    def submit(
        self,
        priority: TaskPriority,
        policy: DependencyPolicy,
        picks: list[int],
        max_attempts: int,
        delay: float,
        later: bool,  # noqa: FBT001 - Hypothesis passes by name
        budget: float | None,
    ) -> None:
        """A new task, which may wait on earlier ones or on its time."""
        chosen = [self._any(pick).task for pick in picks] if self.told else []
        known = {task.task_id: task.status for task in chosen}
        spec = TaskSpec(
            "random",
            priority=priority,
            dependencies=tuple(known),
            on_dependency_failure=policy,
            max_attempts=max_attempts,
            retry_seconds=budget,
            backoff=Backoff(BackoffKind.FIXED, delay, jitter=0.0),
            non_retryable=("fatal",),
            run_at=EPOCH if later else None,
        )
        waiting_on = tuple(name for name, status in known.items() if status not in ENDED)
        task_id = f"tsk_{len(self.told):04d}"
        self._saw(self.world.insert(task_id, machine.submit(spec, "usr_1", waiting_on)))

    @precondition(lambda self: self.told)
    @rule(agent_id=st.sampled_from(AGENTS), slot=st.sampled_from(SLOTS))
    def claim(self, agent_id: str, slot: int) -> None:
        """An agent asks for work with one of its slots."""
        self.leases += 1
        lease = NewLease(f"lse_{self.leases:04d}", agent_id, slot, 30.0)
        queued = [told.task for told in self.told.values() if told.task.status == "queued"]
        try:
            task = self.world.claim(lease)
        except SlotTaken:
            assert any(
                told.task.lease
                and (told.task.lease.agent_id, told.task.lease.slot) == (agent_id, slot)
                for told in self.told.values()
            )
            return
        assert (task is None) == (not queued)
        if task is None:
            return
        urgency = list(TaskPriority).index
        # A course takes less time than a level of priority is worth.
        most_urgent = max(urgency(each.spec.priority) for each in queued)
        assert urgency(task.spec.priority) == most_urgent
        head = next(each for each in queued if each.task_id == task.task_id)
        assert self.places[task.task_id] == min(self.places[each.task_id] for each in queued)
        assert task.attempt == head.attempt + 1
        self._saw(task)
        assert task.lease is not None
        self.told[task.task_id].proofs.append(LeaseProof(lease.lease_id, task.lease.fence))

    @precondition(lambda self: self._running(0))
    @rule(pick=PICK, percent=st.integers(0, 100))
    def progress(self, pick: int, percent: int) -> None:
        """The holder reports progress."""
        told = self._running(pick)
        assert told
        proof = told.proofs[-1]
        self._decide(
            told, lambda task: machine.report_progress(task, proof, {"percent": percent}, 30.0)
        )
        assert told.task.progress == {"percent": percent}

    @precondition(lambda self: self._running(0))
    @rule(pick=PICK)
    def complete(self, pick: int) -> None:
        """The holder completes, and asks again because the answer was lost."""
        told = self._running(pick)
        assert told
        proof = told.proofs[-1]
        for _ in range(2):
            self._decide(told, lambda task: machine.complete(task, proof, RawJson(b"[1]")))
            assert told.task.status is TaskStatus.COMPLETED
        assert told.task.result == RawJson(b"[1]")

    @precondition(lambda self: self._running(0))
    @rule(pick=PICK, code=st.sampled_from(["flaky", "fatal"]))
    def fail(self, pick: int, code: str) -> None:
        """The holder gives the attempt up."""
        told = self._running(pick)
        assert told
        proof, attempt = told.proofs[-1], told.task.attempt
        self._decide(told, lambda task: machine.fail(task, proof, TaskError(code, "x"), 0.0))
        final = code == "fatal" or attempt >= told.task.spec.max_attempts
        if told.task.retries_ended is RetriesEnded.BUDGET_USED:
            assert told.task.spec.retry_seconds is not None
            final = True
        assert told.task.has_ended == (final or told.task.cancel_requested)

    @precondition(lambda self: self._running(0))
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        """The holder gives the task back; the attempt does not count."""
        told = self._running(pick)
        assert told
        proof, attempt = told.proofs[-1], told.task.attempt
        self._decide(told, lambda task: machine.release(task, proof, None))
        assert told.task.has_ended or told.task.attempt == attempt - 1

    @precondition(lambda self: self._running(0))
    @rule(pick=PICK)
    def expire(self, pick: int) -> None:
        """The lease runs out."""
        told = self._running(pick)
        assert told
        self._decide(told, lambda task: machine.expire(task, 0.0))
        assert told.task.lease is None

    @precondition(lambda self: any(len(told.proofs) > 1 for told in self.told.values()))
    @rule(pick=PICK, report=st.sampled_from(["progress", "complete", "fail", "release"]))
    def report_late(self, pick: int, report: str) -> None:
        """A holder that was away reports with an old lease: refused, and nothing has changed."""
        stale = [told for told in self.told.values() if len(told.proofs) > 1]
        told = stale[pick % len(stale)]
        proof = told.proofs[pick % (len(told.proofs) - 1)]
        decisions: dict[str, DecideTask] = {
            "progress": lambda task: machine.report_progress(task, proof, {}, 30.0),
            "complete": lambda task: machine.complete(task, proof, None),
            "fail": lambda task: machine.fail(task, proof, TaskError("late", "x"), 0.0),
            "release": lambda task: machine.release(task, proof, None),
        }
        before = told.task
        self._decide(told, decisions[report])
        assert told.task == before

    @precondition(lambda self: self.told)
    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        """Somebody retries a task by hand, in whatever state it is."""
        told = self._any(pick)
        failed = told.task.status is TaskStatus.FAILED
        self._decide(told, machine.retry)
        if failed:
            assert told.task.status is TaskStatus.QUEUED
            assert told.task.spec.max_attempts > told.task.attempt

    @precondition(lambda self: any(told.proofs for told in self.told.values()))
    @rule(pick=PICK)
    def keep_late_result(self, pick: int) -> None:
        """What comes late is kept, the newest fence of it, and moves nothing."""
        leased = [told for told in self.told.values() if told.proofs]
        told = leased[pick % len(leased)]
        before, fence = told.task, told.proofs[pick % len(told.proofs)].fence
        lease, report = LostLease("agt_1", fence, 1), LateReport(TaskStatus.COMPLETED)
        self._decide(told, lambda task: keep_late_result(task, lease, report))
        late = told.task.late_result
        assert late is not None
        assert late.fence == max(fence, before.late_result.fence if before.late_result else 0)
        assert told.task.status is before.status

    @precondition(lambda self: self.told)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        """Somebody cancels a task, in whatever state it is."""
        self._decide(self._any(pick), machine.cancel)

    @precondition(lambda self: self.told)
    @rule(
        pick=PICK,
        sweep=st.sampled_from(
            ["revoke", "promote", "unblock", "queue", "execution", "total", "retry"]
        ),
    )
    def sweep(self, pick: int, sweep: str) -> None:
        """The reaper looks at a task for one of its reasons, which may be out of date."""
        decisions: dict[str, DecideTask] = {
            "revoke": machine.revoke,
            "promote": machine.promote,
            "unblock": machine.unblock,
        }
        self._decide(
            self._any(pick),
            decisions.get(sweep) or (lambda task: machine.time_out(task, sweep, 0.0)),
        )

    @precondition(lambda self: any(told.task.waiting_on for told in self.told.values()))
    @rule()
    def release_dependents(self) -> None:
        """Every task that waits on an ended one is told, as the releaser does."""
        for told in list(self.told.values()):
            for dependency in told.task.waiting_on:
                status = self.told[dependency].task.status
                if status not in ENDED:
                    continue
                verdict = machine.dependency_ended(told.task, dependency, status)
                if isinstance(verdict, Without):
                    self.world.drop_dependency(told.task.task_id, verdict)
                    self._saw(self.world.get(told.task.task_id))
                    self._decide(told, machine.unblock)
                elif verdict is not None:
                    self._decide(told, partial(_as_decided, verdict))

    @invariant()
    def every_task_is_whole(self) -> None:
        """What must hold of each task at all times."""
        held = []
        for told in self.told.values():
            task = told.task
            assert (task.lease is not None) == (task.status is TaskStatus.RUNNING)
            if task.lease is not None:
                assert task.lease.fence == task.fence == told.fences[-1]
                held.append((task.lease.agent_id, task.lease.slot))
            assert not task.waiting_on or task.status in WAITING
            assert 0 <= task.attempt <= task.spec.max_attempts
            assert len(told.fences) == task.fence
            assert (task.ended_at is not None) == task.has_ended
            assert told.ends == task.has_ended
            events, status = self.world.last_event(task.task_id)
            assert (events, status) == (task.version, task.status), "one event a version"
        assert len(held) == len(set(held)), "a slot belongs to one lease"
