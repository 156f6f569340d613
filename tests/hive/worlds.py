"""Tasks to decide about, and a world in memory that carries changes out as storage promises to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hive.changes import ABSENT, Actor, After, Append, Change, Plus, Without
from hive.errors import SlotTaken, TaskNotFound
from hive.leases import LeaseProof, NewLease, TaskLease
from hive.ports import DecideTask
from hive.task_machine import start
from hive.task_spec import TaskSpec
from hive.tasks import Task, TaskStatus
from storage.mongo.changes import plain
from storage.mongo.task_documents import read_task

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PROOF = LeaseProof("lse_held", 3)
HELD = TaskLease("lse_held", "agt_1", slot=1, fence=3, expires_at=EPOCH)
DUTY = Actor("system:test")
SPEC = TaskSpec("count words")


def task_of(status: TaskStatus, spec: TaskSpec = SPEC, **fields: Any) -> Task:
    """A task as it is in that status: a running one has a lease, a blocked one waits."""
    task = Task("tsk_1", spec, "usr_1", status, version=5, created_at=EPOCH, updated_at=EPOCH)
    usual: dict[str, Any] = {"attempt": 1, "fence": 3}
    if status is TaskStatus.RUNNING:
        usual |= {"lease": HELD, "agent_id": "agt_1"}
    if status is TaskStatus.BLOCKED:
        usual |= {"waiting_on": ("tsk_0",)}
    return replace(task, **{**usual, **fields})


def applied(document: Mapping[str, Any], change: Change, now: datetime) -> dict[str, Any]:
    """The document after the change: what the marks of `hive.changes` mean, in ten lines."""
    deadline = change.deadline
    if deadline is not None and deadline.name in document:
        over = now + timedelta(seconds=deadline.seconds) > document[deadline.name]
        change = deadline.otherwise if over else change

    def value(mark: Any) -> Any:
        match mark:
            case After(seconds, at_most):
                fewer = _at(document, at_most)
                return now + timedelta(seconds=seconds if fewer is None else min(seconds, fewer))
            case Plus(name, amount):
                return document.get(name, 0) + amount
            case Append(name, item, keep):
                return [*document.get(name, []), value(item)][-keep:]
            case Without(name, item):
                return [kept for kept in document.get(name, []) if kept != item]
            case Mapping():
                return {key: value(item) for key, item in mark.items()}
            case _:
                return plain(mark)

    changed = {name: value(mark) for name, mark in change.fields.items() if mark is not ABSENT}
    removed = {name for name, mark in change.fields.items() if mark is ABSENT}
    kept = {name: old for name, old in document.items() if name not in removed}
    return {**kept, **changed, "version": document.get("version", 0) + 1, "updated_at": now}


def _at(document: Mapping[str, Any], path: str | None) -> Any:
    if path is None:
        return None
    noun, _, name = path.partition(".")
    return document.get(noun, {}).get(name)


class MemoryWorld:
    """Tasks in a dictionary: what `hive.ports.Tasks` guarantees, for one caller."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[str]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.documents.clear()
        self.events.clear()

    def close(self) -> None:
        """Nothing is open."""

    def insert(self, task_id: str, change: Change) -> Task:
        """As `Tasks.insert`."""
        assert task_id not in self.documents
        return self._save(task_id, {"_id": task_id}, change)

    def get(self, task_id: str) -> Task:
        """As `Tasks.get`."""
        if task_id not in self.documents:
            raise TaskNotFound
        return read_task(self.documents[task_id])

    def change(self, task_id: str, decide: DecideTask) -> Task:
        """As `Tasks.change`."""
        change = decide(self.get(task_id))
        if change is None:
            return self.get(task_id)
        return self._save(task_id, self.documents[task_id], change)

    def claim(self, lease: NewLease) -> Task | None:
        """As `Queue.claim`, for tasks that need no capability."""
        queued = [row for row in self.documents.values() if row["status"] == TaskStatus.QUEUED]
        if not queued:
            return None
        held = [row["lease"] for row in self.documents.values() if "lease" in row]
        if any((used["agent_id"], used["slot"]) == (lease.agent_id, lease.slot) for used in held):
            raise SlotTaken
        head = min(queued, key=lambda row: self.place(row["_id"]))
        return self._save(head["_id"], head, start(lease))

    def drop_dependency(self, task_id: str, mark: Without) -> None:
        """As `Sweeps.drop_ended`, of one task."""
        row = self.documents[task_id]
        row[mark.name] = [item for item in row[mark.name] if item != mark.value]

    def place(self, task_id: str) -> tuple[float, str]:
        """Time stands still here: by priority alone, then by identifier."""
        return -self.documents[task_id]["rank"], task_id

    def last_event(self, task_id: str) -> tuple[int, str]:
        """How many events the task has had, and the status that the newest one told."""
        return len(self.events[task_id]), self.events[task_id][-1]

    def _save(self, task_id: str, document: Mapping[str, Any], change: Change) -> Task:
        saved = applied(document, change, EPOCH)
        self.documents[task_id] = saved
        self.events.setdefault(task_id, []).append(saved["status"])
        return read_task(saved)
