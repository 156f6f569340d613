"""Which artifacts a task takes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hive.artifacts import (
    LONGEST_NAME,
    MOST_ARTIFACTS,
    Artifact,
    ArtifactNotFound,
    InvalidArtifactName,
    NewArtifact,
    TooManyArtifacts,
    check_name,
)
from hive.attaching import attach, find_artifact
from hive.changes import Change
from hive.errors import LeaseLost
from hive.leases import LeaseProof, TaskLease
from hive.task_spec import TaskSpec
from hive.tasks import Task, TaskStatus

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
PROOF = LeaseProof("lse_1", 3)
NEW = NewArtifact("a.csv", "art_9", 10, "ff", "text/csv")


def running(*names: str, size: int = 1) -> Task:
    """A running task in its second attempt, with artifacts of the first one."""
    there = tuple(Artifact(name, f"art_{name}", size, "00", "text/csv", 1, NOW) for name in names)
    lease = TaskLease("lse_1", "agt_1", 1, 3, NOW)
    return Task(
        "tsk_1", TaskSpec("work"), "usr_1", TaskStatus.RUNNING, 7, NOW, NOW,
        attempt=2, fence=3, lease=lease, artifacts=there,
    )  # fmt: skip


def added(task: Task, new: NewArtifact = NEW, most_bytes: int = 100) -> Change:
    """The change, which there has to be."""
    change = attach(task, PROOF, new, most_bytes=most_bytes)
    assert change is not None
    return change


def names(change: Change) -> list[str]:
    """The names that the task has after it."""
    listed: list[Any] = change.fields["artifacts"]
    return [one["name"] if isinstance(one, dict) else one.name for one in listed]


def test_a_file_is_named_behind_the_others() -> None:
    """With the attempt that made it, and the number of all."""
    change = added(running("b.csv"))
    assert change.event == "task.artifact_added"
    assert names(change) == ["b.csv", "a.csv"]
    assert change.fields["artifacts"][-1]["attempt"] == 2
    assert change.fields["artifact_count"] == 2


def test_the_same_name_is_replaced() -> None:
    """By another file, or in a later attempt."""
    assert names(added(running("a.csv", "b.csv"))) == ["b.csv", "a.csv"]


def test_the_same_file_in_the_same_attempt_changes_nothing() -> None:
    """Type and bytes are what make it the same."""
    there = Artifact("a.csv", "art_1", 10, "ff", "text/csv", 2, NOW)
    task = replace(running(), artifacts=(there,))
    assert attach(task, PROOF, NEW, most_bytes=100) is None
    assert names(added(task, replace(NEW, content_type="text/plain"))) == ["a.csv"]
    assert names(added(replace(task, attempt=3))) == ["a.csv"]


@pytest.mark.parametrize("proof", [LeaseProof("lse_1", 2), LeaseProof("lse_0", 3)])
def test_a_lost_lease_names_nothing(proof: LeaseProof) -> None:
    """An older fence, or another lease; a task without one neither."""
    with pytest.raises(LeaseLost):
        attach(running(), proof, NEW, most_bytes=100)
    with pytest.raises(LeaseLost):
        attach(replace(running(), lease=None), PROOF, NEW, most_bytes=100)


def test_a_task_has_so_many_artifacts() -> None:
    """One more is refused; one in the place of another is not."""
    full = running(*(f"{n}.csv" for n in range(MOST_ARTIFACTS)))
    with pytest.raises(TooManyArtifacts):
        attach(full, PROOF, NEW, most_bytes=1000)
    assert len(names(added(full, replace(NEW, name="0.csv"), 1000))) == MOST_ARTIFACTS


def test_a_task_has_so_many_bytes() -> None:
    """What is replaced does not count."""
    task = running("a.csv", "b.csv", size=45)
    assert names(added(task, replace(NEW, size=55))) == ["b.csv", "a.csv"]
    with pytest.raises(TooManyArtifacts):
        attach(task, PROOF, replace(NEW, size=56), most_bytes=100)


def test_an_artifact_is_found_by_its_name() -> None:
    """And none by another."""
    assert find_artifact(running("a.csv"), "a.csv").file_id == "art_a.csv"
    with pytest.raises(ArtifactNotFound):
        find_artifact(running("a.csv"), "A.csv")


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-D", "a" * LONGEST_NAME, "a..b"])
def test_names_of_files_are_taken(name: str) -> None:
    """What every file system and header can carry."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a b", 'a"', "a/b", "ä", "a\n", "a" * (LONGEST_NAME + 1)]
)
def test_other_names_are_refused(name: str) -> None:
    """Hidden ones, options, paths, quotes, what is not ASCII, and what is too long."""
    with pytest.raises(InvalidArtifactName):
        check_name(name)
