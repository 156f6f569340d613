"""Artifacts: files that agents hand over with their tasks.

The bytes are a file of their own, written first. The task names it by its identifier, and what no
task names is not there for anybody.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from hive.changes import Actor
from hive.errors import Conflict, Invalid, NotFound
from hive.leases import LeaseProof

MOST_ARTIFACTS: Final = 64
"""Of one task."""
LONGEST_NAME: Final = 128
OCTETS: Final = "application/octet-stream"
"""What an artifact is unless its agent says better."""
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")


class InvalidArtifactName(Invalid):
    """The name could not be the name of a file everywhere (422)."""

    code = "invalid-artifact-name"
    title = "Invalid artifact name"
    default_detail = (
        f"The name of an artifact has 1 to {LONGEST_NAME} letters, digits, dots, dashes and"
        " underscores, and begins with a letter or a digit."
    )


class ArtifactNotFound(NotFound):
    """The task has no artifact of this name."""

    code = "artifact-not-found"
    title = "Artifact not found"
    default_detail = "Artifact not found"


class TooManyArtifacts(Conflict):
    """The task has as many artifacts, or as many bytes of them, as it may (409)."""

    code = "too-many-artifacts"
    title = "Too many artifacts"


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """A file that is written and that the task is to name."""

    name: str
    file_id: str
    size: int
    sha256: str
    content_type: str = OCTETS


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that the task names. `sha256` is in hexadecimal, `attempt` the one that made it."""

    name: str
    file_id: str
    size: int
    sha256: str
    content_type: str
    attempt: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Bytes:
    """What is sent piece by piece: so many bytes in all."""

    size: int
    pieces: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Upload:
    """What an agent sends under the name of an artifact."""

    name: str
    content: bytes
    content_type: str = OCTETS


def check_name(name: str) -> str:
    """Give the name back. Raises InvalidArtifactName."""
    if not _NAME.fullmatch(name):
        raise InvalidArtifactName
    return name


class Artifacts(Protocol):
    """The artifacts of tasks. All methods raise Unavailable."""

    async def attach(
        self, proof: LeaseProof, upload: Upload, actor: Actor, *, agent_id: str | None
    ) -> tuple[str, Artifact]:
        """Add an artifact to the task of a current lease; the task's identifier, and the artifact.

        One of the same name is replaced. The same bytes again, in the same attempt, change nothing.
        Raises LeaseNotFound, LeaseLost, TooManyArtifacts, WriteConflict: then nothing is visible.
        """

    async def open(self, task_id: str, name: str) -> tuple[Artifact, Bytes]:
        """An artifact and its bytes. Raises TaskNotFound, ArtifactNotFound.

        The pieces end with ArtifactNotFound when it is replaced or deleted while they are read.
        """


class ArtifactFiles(Protocol):
    """The files behind artifacts, in pieces. All methods raise Unavailable."""

    async def write(self, file_id: str, task_id: str, proof: LeaseProof, content: bytes) -> None:
        """Write a file that belongs to the task; until `settle` it counts as under way."""

    async def read(self, file_id: str, number: int) -> bytes | None:
        """One piece by its number from 0; None behind the last, and of a file that has gone."""

    async def delete(self, file_id: str) -> None:
        """Delete one file. Idempotent."""

    async def settle(self, task_id: str, file_id: str) -> None:
        """Look which of its files the task names, now that it was told of this one.

        What it does not name any more is deleted, and this one too if it does not name it; a file
        that is under way for a lease that is current stays. Idempotent.
        """
