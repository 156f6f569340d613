"""Artifacts over the wire: handed over under a lease, read by everybody who may read the task."""

from __future__ import annotations

import asyncio
import hashlib
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gridfs import AsyncGridFSBucket
from pymongo import AsyncMongoClient

import agentzero_client as client_package
from storage.mongo.artifacts import CHUNK_BYTES
from tests.api.running import Agent, Api, Lease, RunningNode, found, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1024 * 1024
OCTETS = {"Content-Type": "application/octet-stream"}
Database = Any


@pytest.fixture(scope="module")
def limits() -> dict[str, int]:
    """Small ones: they have the same answers."""
    return {"max_artifact_bytes": 2 * MIB, "max_task_artifact_bytes": 3 * MIB}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str, limits: dict[str, int]
) -> AsyncIterator[RunningNode]:
    """A node of its own, for its limits."""
    directory = tmp_path_factory.mktemp("artifacts")
    async with running_node(directory, mongodb_uri, **limits) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(node: RunningNode, mongodb_uri: str) -> AsyncIterator[Database]:
    """What the node stores."""
    async with AsyncMongoClient[dict[str, Any]](mongodb_uri) as client:
        yield client[node.settings.mongodb_database]


@pytest_asyncio.fixture(loop_scope="module")
async def lease(node: RunningNode, admin: Api, user: Api) -> Lease:
    """A new task in the hands of a new agent."""
    capability = f"cap-{uuid.uuid4().hex[:8]}"
    agent = await node.add_agent(admin, capabilities=[capability])
    return await agent.lease(await user.submit(required_capabilities=[capability]))


async def put(lease: Lease, name: str, content: bytes, **query: Any) -> httpx.Response:
    """Hand a file over."""
    params = {"fence": lease.fence, **query}
    path = lease.path(f"artifacts/{name}")
    return await lease.api.put(path, params=params, content=content, headers=OCTETS)


async def attached(lease: Lease, name: str, content: bytes, **query: Any) -> dict[str, Any]:
    """The artifact that has to come of it."""
    answer = await put(lease, name, content, **query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def bytes_of(size: int, seed: int = 1) -> bytes:
    """Bytes that don't repeat themselves."""
    return random.Random(seed).randbytes(size)


async def files_of(database: Database, task_id: str) -> set[str]:
    """The identifiers of the files that are stored for a task."""
    found = database["artifacts.files"].find({"metadata.task_id": task_id})
    return {entry["_id"] async for entry in found}


async def test_an_artifact_is_in_the_task_and_comes_back_as_it_was(
    user: Api, lease: Lease, database: Database
) -> None:
    """Over several chunks; its name, size, hash, type and attempt are told, with a link."""
    content = bytes_of(MIB + 12_345)
    made = await attached(lease, "report.csv", content, content_type="text/csv")
    assert made["url"] == f"/api/v1/tasks/{lease.task_id}/artifacts/report.csv"
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert (made["size"], made["content_type"], made["attempt"]) == (len(content), "text/csv", 1)
    task = await user.task(lease.task_id)
    assert task["artifacts"] == [made]
    assert task["artifact_count"] == 1
    listed = await user.ok("GET", f"/api/v1/tasks/{lease.task_id}/artifacts")
    assert listed == {"task_id": lease.task_id, "artifacts": [made]}
    answer = await user.get(made["url"])
    assert answer.content == content
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="report.csv"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["ETag"] == f'"{made["sha256"]}"'
    head = await user.head(made["url"])
    assert head.headers["Content-Length"] == str(len(content))
    (file_id,) = await files_of(database, lease.task_id)
    async with await AsyncGridFSBucket(database, "artifacts").open_download_stream(file_id) as file:
        assert await file.read() == content


async def test_what_the_client_has_is_not_sent_again(user: Api, lease: Lease) -> None:
    """`If-None-Match` with the hash is 304; with another it is not."""
    made = await attached(lease, "a.bin", b"abc")
    known = await user.get(made["url"], headers={"If-None-Match": f'"{made["sha256"]}"'})
    assert (known.status_code, known.content) == (304, b"")
    other = await user.get(made["url"], headers={"If-None-Match": '"0"'})
    assert (other.status_code, other.content) == (200, b"abc")


async def test_an_artifact_may_be_empty(user: Api, lease: Lease) -> None:
    """No body at all is a file without bytes."""
    path = lease.path("artifacts/empty")
    made = await lease.api.ok("PUT", path, params={"fence": lease.fence})
    assert made["size"] == 0
    assert made["content_type"] == "application/octet-stream"
    assert (await user.get(made["url"])).content == b""


async def test_the_same_name_replaces_and_the_same_bytes_change_nothing(
    user: Api, lease: Lease, database: Database
) -> None:
    """One file is left of two; a repetition makes no event and no version."""
    await attached(lease, "a.bin", b"first")
    made = await attached(lease, "a.bin", b"second")
    before = await user.task(lease.task_id)
    assert before["artifacts"] == [made]
    assert await attached(lease, "a.bin", b"second") == made
    assert await user.task(lease.task_id) == before
    assert (await user.get(made["url"])).content == b"second"
    assert len(await files_of(database, lease.task_id)) == 1


async def test_an_artifact_is_an_event(user: Api, lease: Lease) -> None:
    """With the number of them, in the data of a task."""
    await attached(lease, "a.bin", b"1")
    await attached(lease, "b.bin", b"2")
    events = await found(
        lambda: user.pages(f"/api/v1/events?subject={lease.task_id}&type=task.artifact_added"),
        lambda seen: len(seen) == 2,
        "two events",
    )
    assert [event["data"]["artifact_count"] for event in events] == [1, 2]


async def test_artifacts_stay_when_the_task_ends_and_at_the_next_attempt(
    user: Api, lease: Lease, node: RunningNode, admin: Api
) -> None:
    """The second attempt sees what the first one left, and may replace it."""
    await attached(lease, "a.bin", b"first")
    await attached(lease, "b.bin", b"kept")
    await lease.ok("release")
    (again,) = (await lease_again(user, lease, node, admin),)
    made = await attached(again, "a.bin", b"second")
    await again.ok("complete", result=1)
    task = await user.task(lease.task_id)
    assert {one["name"] for one in task["artifacts"]} == {"a.bin", "b.bin"}
    assert (await user.get(made["url"])).content == b"second"


async def lease_again(user: Api, lease: Lease, node: RunningNode, admin: Api) -> Lease:
    """The next lease on the same task, for another agent."""
    needed = (await user.task(lease.task_id))["required_capabilities"]
    agent: Agent = await node.add_agent(admin, capabilities=needed)
    return await agent.lease(lease.task_id)


async def test_a_stale_fence_leaves_nothing(
    user: Api, lease: Lease, node: RunningNode, admin: Api, database: Database
) -> None:
    """409 `lease-lost`; neither a name nor a file."""
    await lease.ok("release")
    again = await lease_again(user, lease, node, admin)
    stale = Lease(again.api, again.lease_id, lease.fence, lease.task_id)
    for one in (lease, stale):
        problem = (await put(one, "a.bin", b"late")).json()
        assert (problem["status"], problem["code"]) == (409, "lease-lost")
    assert "artifacts" not in await user.task(lease.task_id)
    assert await files_of(database, lease.task_id) == set()


async def test_a_lease_that_is_lost_while_the_file_is_written_leaves_nothing(
    user: Api,
    lease: Lease,
    node: RunningNode,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fence is looked at again by the very write that would make it visible."""
    files = node.node.store.artifact_files
    write = files.write

    async def lose_meanwhile(*given: Any) -> None:
        await write(*given)
        await lease.ok("release")

    monkeypatch.setattr(files, "write", lose_meanwhile)
    problem = (await put(lease, "a.bin", b"late")).json()
    assert (problem["status"], problem["code"]) == (409, "lease-lost")
    assert "artifacts" not in await user.task(lease.task_id)
    assert await files_of(database, lease.task_id) == set()


async def test_parallel_uploads_of_one_name_leave_one(
    user: Api, lease: Lease, database: Database
) -> None:
    """Each is answered; what is there is one of them, whole, and nothing else is stored."""
    contents = [bytes_of(CHUNK_BYTES + n, seed=n) for n in range(6)]
    answers = await asyncio.gather(*(put(lease, "a.bin", content) for content in contents))
    assert [answer.status_code for answer in answers] == [200] * 6
    (artifact,) = (await user.task(lease.task_id))["artifacts"]
    content = (await user.get(artifact["url"])).content
    assert content in contents
    assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
    assert len(await files_of(database, lease.task_id)) == 1


async def test_too_large_is_413_and_nothing_is_kept(
    user: Api, lease: Lease, node: RunningNode
) -> None:
    """One byte over the limit of an artifact; at the limit it is taken."""
    problem = (await put(lease, "a.bin", bytes(2 * MIB + 1))).json()
    assert (problem["status"], problem["code"]) == (413, "content-too-large")
    assert str(2 * MIB) in problem["detail"]
    await attached(lease, "a.bin", bytes(2 * MIB))
    assert node.node.app.pipeline.large_bodies.room == 8 * MIB


async def test_a_task_has_so_many_bytes_and_no_more(user: Api, lease: Lease) -> None:
    """409 for one byte too many; replacing counts what is left then."""
    await attached(lease, "a.bin", bytes(2 * MIB))
    await attached(lease, "b.bin", bytes(MIB))
    problem = (await put(lease, "c.bin", b"1")).json()
    assert (problem["status"], problem["code"]) == (409, "too-many-artifacts")
    await attached(lease, "a.bin", bytes(MIB))
    await attached(lease, "c.bin", b"1")
    assert (await user.task(lease.task_id))["artifact_count"] == 3


async def test_a_handler_hands_files_over(
    user: Api, admin: Api, node: RunningNode, tmp_path: Path
) -> None:
    """From bytes and from a path, in a coroutine and in a thread; the client reads them again."""
    identity = await node.add_agent(admin, capabilities=["count", "sort"])
    agent = client_package.Agent(
        "worker",
        server=node.url,
        agent_id=identity.agent_id,
        api_key=identity.api.credential,
        state_directory=tmp_path / "state",
    )
    content = bytes_of(MIB + 1)
    (tmp_path / "words.bin").write_bytes(content)

    @agent.task("count")
    async def count(ctx: client_package.TaskContext) -> str:
        await ctx.attach("empty", b"")
        return (await ctx.attach("words.bin", tmp_path / "words.bin", "text/plain")).sha256

    @agent.task("sort")
    def sort(ctx: client_package.TaskContext) -> str:
        with pytest.raises(TypeError):
            ctx.attach_blocking("words.bin", "words.bin")  # type: ignore[arg-type]
        return ctx.attach_blocking("words.bin", content[:10]).sha256

    serving = asyncio.create_task(agent.serve())
    try:
        async with client_package.AsyncClient(node.url, token=user.credential) as client:
            counting, sorting = [
                await client.tasks.submit(name, required_capabilities=[name])
                for name in ("count", "sort")
            ]
            counted = await client.tasks.wait(counting.task_id, timeout=20)
            assert [one.name for one in counted.artifacts] == ["empty", "words.bin"]
            assert counted.result == counted.artifacts[1].sha256
            assert counted.artifact_count == 2
            assert await client.tasks.artifacts(counting.task_id) == counted.artifacts
            assert await client.tasks.artifact(counting.task_id, "words.bin") == content
            assert await client.tasks.artifact(counting.task_id, "empty") == b""
            await client.tasks.wait(sorting.task_id, timeout=20)
            assert await client.tasks.artifact(sorting.task_id, "words.bin") == content[:10]
            with pytest.raises(client_package.NotFoundError):
                await client.tasks.artifact(sorting.task_id, "none")
    finally:
        agent.stop()
        agent.stop()
        await asyncio.wait({serving}, timeout=10)


async def test_a_name_that_is_none_is_422(lease: Lease) -> None:
    """The refusal says what a name is."""
    for name in (".hidden", "a b", "a" * 129, "%C3%A4"):
        problem = (await put(lease, name, b"x")).json()
        assert (problem["status"], problem["code"]) == (422, "invalid-artifact-name")


async def test_what_is_not_there_is_404(user: Api, lease: Lease, viewer: Api) -> None:
    """A task, an artifact, a lease; the lease of another agent does not exist for this one."""
    base = f"/api/v1/tasks/{lease.task_id}/artifacts"
    assert (await viewer.ok("GET", base))["artifacts"] == []
    problem = await user.refused(404, "GET", f"{base}/none")
    assert problem["code"] == "artifact-not-found"
    await user.refused(404, "GET", "/api/v1/tasks/tsk_none/artifacts")
    await user.refused(404, "GET", "/api/v1/tasks/tsk_none/artifacts/none")
    nobody = Lease(lease.api, "lse_none", 1, lease.task_id)
    assert (await put(nobody, "a.bin", b"x")).status_code == 404


async def test_a_download_that_is_replaced_on_the_way_is_cut_off(
    user: Api, lease: Lease, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sees that something is missing, and gets all of the new one when it asks again."""
    made = await attached(lease, "a.bin", bytes_of(4 * CHUNK_BYTES))
    files = node.node.store.artifact_files
    read = files.read

    async def replace_meanwhile(file_id: str, number: int) -> bytes | None:
        if number == 2:
            monkeypatch.setattr(files, "read", read)
            await attached(lease, "a.bin", b"new")
        return await read(file_id, number)

    monkeypatch.setattr(files, "read", replace_meanwhile)
    with pytest.raises(httpx.RemoteProtocolError):
        await user.get(made["url"])
    assert (await user.get(made["url"])).content == b"new"
