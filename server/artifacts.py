"""Takes files for tasks and gives them back: the bytes first, then the change that names them.

    looked at -> written -> named by the task, under the fence -> what it replaced is deleted

Whoever is killed in between leaves a file that no task names; the duty `retention` deletes it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from hive.artifacts import Artifact, ArtifactFiles, ArtifactNotFound, Bytes, NewArtifact, Upload
from hive.attaching import attach, find_artifact
from hive.changes import Actor, Change
from hive.errors import HiveError, Unavailable
from hive.leases import LeaseProof
from hive.ports import Identifiers, Tasks
from hive.tasks import Task
from server.turns import LARGE_BYTES

LOOKS = 3


class NodeArtifacts:
    """The port `hive.artifacts.Artifacts`."""

    def __init__(
        self, tasks: Tasks, files: ArtifactFiles, identifiers: Identifiers, *, most_bytes: int
    ) -> None:
        """`most_bytes` are those that all artifacts of one task may have."""
        self._tasks = tasks
        self._files = files
        self._identifiers = identifiers
        self._most_bytes = most_bytes

    async def attach(
        self, proof: LeaseProof, upload: Upload, actor: Actor, *, agent_id: str | None
    ) -> tuple[str, Artifact]:
        """As the port says."""
        new = NewArtifact(
            upload.name,
            self._identifiers.new("art"),
            len(upload.content),
            await _sha256(upload.content),
            upload.content_type,
        )
        decide = partial(attach, proof=proof, new=new, most_bytes=self._most_bytes)
        wanted: list[Change | None] = []

        def look(task: Task) -> None:
            wanted.append(decide(task))

        # Refused before anything is written, if it is to be refused.
        task = await self._tasks.change_leased(proof, look, actor, agent_id=agent_id)
        if wanted[-1] is not None:
            await self._files.write(new.file_id, task.task_id, proof, upload.content)
            task = await self._name(proof, decide, actor, agent_id, new.file_id)
        return task.task_id, find_artifact(task, new.name)

    async def _name(
        self,
        proof: LeaseProof,
        decide: partial[Change | None],
        actor: Actor,
        agent_id: str | None,
        file_id: str,
    ) -> Task:
        try:
            task = await self._tasks.change_leased(proof, decide, actor, agent_id=agent_id)
        except Unavailable:
            # It may be named all the same: the sweep finds out.
            raise
        except HiveError:
            with suppress(Unavailable):
                await self._files.delete(file_id)
            raise
        with suppress(Unavailable):
            await self._files.settle(task.task_id, file_id)
        return task

    async def open(self, task_id: str, name: str) -> tuple[Artifact, Bytes]:
        """As the port says."""
        for _ in range(LOOKS):
            artifact = find_artifact(await self._tasks.get(task_id), name)
            first = await self._files.read(artifact.file_id, 0) if artifact.size else b""
            # Otherwise it was replaced since the task was read.
            if first is not None:
                return artifact, Bytes(artifact.size, self._pieces(artifact, first))
        raise ArtifactNotFound

    async def _pieces(self, artifact: Artifact, first: bytes) -> AsyncIterator[bytes]:
        left, number, piece = artifact.size, 0, first
        while left > 0:
            yield piece
            left -= len(piece)
            if left > 0:
                number += 1
                found = await self._files.read(artifact.file_id, number)
                if found is None:
                    raise ArtifactNotFound
                piece = found


async def _sha256(content: bytes) -> str:
    digest = partial(hashlib.sha256, content)
    if len(content) < LARGE_BYTES:
        return digest().hexdigest()
    return (await asyncio.to_thread(digest)).hexdigest()
