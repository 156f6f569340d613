"""The decision that makes a task name an artifact. Pure, as those of `hive/task_machine.py`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hive.artifacts import MOST_ARTIFACTS, Artifact, ArtifactNotFound, NewArtifact, TooManyArtifacts
from hive.changes import NOW, Change
from hive.leases import LeaseProof
from hive.task_machine import require_lease
from hive.tasks import Task


def attach(task: Task, proof: LeaseProof, new: NewArtifact, *, most_bytes: int) -> Change | None:
    """Name the file in the task, in the place of one of the same name.

    None when this attempt has handed the same bytes over already. `most_bytes` are those that all
    artifacts of a task may have. Raises LeaseLost, TooManyArtifacts.
    """
    require_lease(task, proof)
    kept = [one for one in task.artifacts if one.name != new.name]
    replaced = next((one for one in task.artifacts if one.name == new.name), None)
    if replaced is not None and _is_same(replaced, new, task.attempt):
        return None
    if len(kept) >= MOST_ARTIFACTS:
        raise TooManyArtifacts(f"The task has {MOST_ARTIFACTS} artifacts already.")
    if sum(one.size for one in kept) + new.size > most_bytes:
        raise TooManyArtifacts(f"The artifacts of a task have {most_bytes} bytes at most.")
    named: list[Any] = [*kept, {**asdict(new), "attempt": task.attempt, "created_at": NOW}]
    return Change("task.artifact_added", {"artifacts": named, "artifact_count": len(named)})


def find_artifact(task: Task, name: str) -> Artifact:
    """The artifact of the name. Raises ArtifactNotFound."""
    for one in task.artifacts:
        if one.name == name:
            return one
    raise ArtifactNotFound


def _is_same(there: Artifact, new: NewArtifact, attempt: int) -> bool:
    known = (there.sha256, there.size, there.content_type, there.attempt)
    return known == (new.sha256, new.size, new.content_type, attempt)
