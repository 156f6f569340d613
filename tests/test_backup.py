"""A hive goes into one file and comes out of it elsewhere: people and agents go on."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.backup import BackupError, BackupWriter, Manifest, read_backup, split_documents
from server.settings import PREFIX
from tests.servers import ROOT, ServerProcess, wait_until

PASSWORD = "a quiet river at night"
SETTINGS = {"RATE_LIMIT_ENABLED": "0", "LEASE_SECONDS": "60", "ADMIN_PASSWORD": PASSWORD}
MANIFEST = Manifest("0.1.0", "2026-11-22T09:00:00+00:00", {"version": 1}, "0002")


def command(data_dir: Path, *arguments: str) -> tuple[int, str]:
    """`agentzero ARGUMENTS` on that data directory: its exit code and what it said."""
    env = {n: v for n, v in os.environ.items() if not n.startswith(PREFIX)}
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments],
        cwd=ROOT,
        env={**env, f"{PREFIX}DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """The server that is backed up, and the one that goes on elsewhere."""
    both = [ServerProcess(tmp_path / name, **SETTINGS) for name in ("old", "new")]
    yield both
    for server in both:
        server.kill()


def _operator(server: ServerProcess) -> httpx.Client:
    found = server.data.find_running_server()
    assert found is not None
    headers = {"Authorization": f"Bearer {server.data.find_operator_key()}"}
    return httpx.Client(base_url=found.url, headers=headers, trust_env=False, timeout=10)


def _ask(client: httpx.Client, method: str, path: str, **given: Any) -> Any:
    answer = client.request(method, path, **given)
    assert answer.is_success, answer.text
    return answer.json()


ARTIFACT = bytes(range(256)) * 2000


def _work(client: httpx.Client) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """An agent that runs one of three tasks, has done another, and left a line and a file there."""
    body = {"name": "bee", "slots": 2, "capabilities": ["work"]}
    agent = _ask(client, "POST", "/api/v1/agents", json=body)
    first = _ask(client, "POST", "/api/v1/tasks", json={"name": "a", "priority": "critical"})
    second = _ask(client, "POST", "/api/v1/tasks", json={"name": "b", "priority": "high"})
    given = {"name": "c", "dependencies": [second["task_id"]], "parameters": {"$x": [1, 2.5]}}
    third = _ask(client, "POST", "/api/v1/tasks", json=given)
    key = {"Authorization": f"Bearer {agent['api_key']}"}
    leases = f"/api/v1/agents/{agent['agent_id']}/leases"
    done, running = _ask(client, "POST", leases, json={"max_leases": 2}, headers=key)
    line = {"fence": done["fence"], "lines": [{"message": "half"}]}
    _ask(client, "POST", f"/api/v1/leases/{done['lease_id']}/logs", json=line, headers=key)
    artifact = f"/api/v1/leases/{done['lease_id']}/artifacts/a.bin"
    octets = {**key, "Content-Type": "application/octet-stream"}
    proof = {"fence": done["fence"]}
    _ask(client, "PUT", artifact, params=proof, headers=octets, content=ARTIFACT)
    end = {"fence": done["fence"], "result": {"n": 1}}
    _ask(client, "POST", f"/api/v1/leases/{done['lease_id']}/complete", json=end, headers=key)
    return agent, running, [task["task_id"] for task in (first, second, third)]


def _until_recorded(client: httpx.Client, subject: str, event_type: str) -> list[dict[str, Any]]:
    """The whole log, once it has that event."""
    seen: list[dict[str, Any]] = []

    def recorded() -> bool:
        seen[:] = _ask(client, "GET", "/api/v1/events?limit=200&after=0")
        return any((e["subject"], e["type"]) == (subject, event_type) for e in seen)

    wait_until(recorded, f"{event_type} of {subject} is in the log")
    return seen


def _shown(task: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in task.items() if name != "lease"}


def test_a_restored_hive_goes_on(servers: list[ServerProcess], tmp_path: Path) -> None:
    """Made beside the running server: tasks, leases, passwords, keys, the log and its numbers."""
    old, new = servers
    file = tmp_path / "hive.backup"
    old.start()
    with _operator(old) as client:
        agent, lease, task_ids = _work(client)
        before = _until_recorded(client, task_ids[0], "task.completed")
        tasks = [_ask(client, "GET", f"/api/v1/tasks/{task_id}") for task_id in task_ids]
        code, output = command(old.data.path, "backup", "create", str(file))
        assert code == 0, output
        assert file.stat().st_mode & 0o777 == 0o600
    old.kill()
    code, output = command(new.data.path, "backup", "restore", str(file))
    assert code == 0, output
    assert new.data.find_secret_key() == old.data.find_secret_key()
    new.start()
    with _operator(new) as client:
        # The log goes on behind its end, and says that history was lost.
        after = _until_recorded(client, "log", "log.reset")
        assert [(e["seq"], e["id"]) for e in after[: len(before)]] == [
            (e["seq"], e["id"]) for e in before
        ]
        assert [int(e["seq"]) for e in after] == list(range(1, len(after) + 1))
        found = [_ask(client, "GET", f"/api/v1/tasks/{task_id}") for task_id in task_ids]
        assert [_shown(task) for task in found] == [_shown(task) for task in tasks]
        log = _ask(client, "GET", f"/api/v1/tasks/{task_ids[0]}/logs")
        assert [line["message"] for line in log["logs"]] == ["half"]
        assert client.get(found[0]["artifacts"][0]["url"]).content == ARTIFACT
        # The agent goes on under its key and its lease, and its end sets the dependent free.
        key = {"Authorization": f"Bearer {agent['api_key']}"}
        path = f"/api/v1/leases/{lease['lease_id']}/complete"
        _ask(client, "POST", path, json={"fence": lease["fence"]}, headers=key)
        claim = {"max_leases": 1, "wait_seconds": 10}
        leases = f"/api/v1/agents/{agent['agent_id']}/leases"
        (following,) = _ask(client, "POST", leases, json=claim, headers=key)
        assert following["task"]["task_id"] == task_ids[2]
        assert following["task"]["parameters"] == {"$x": [1, 2.5]}
        whole = _until_recorded(client, task_ids[2], "task.started")
        assert [int(e["seq"]) for e in whole] == list(range(1, len(whole) + 1))
        credentials = {"username": "admin", "password": PASSWORD}
        assert _ask(client, "POST", "/api/v1/auth/login", json=credentials)["access_token"]
    code, output = command(new.data.path, "audit", "verify")
    assert code == 0, output
    # Neither what is there nor who serves it is written over.
    assert command(new.data.path, "backup", "restore", str(file))[0] == 2
    code, output = command(new.data.path, "backup", "create", str(file))
    assert (code, "exists already" in output) == (2, True), output


def _make(path: Path, **members: bytes) -> Path:
    with BackupWriter(path) as writer:
        for name, content in members.items():
            writer.add(f"mongodb/{name}.bson", [content])
        writer.finish(MANIFEST)
    return path


def test_a_backup_says_what_it_holds(tmp_path: Path) -> None:
    """What went in comes out, in order; the draft is gone."""
    path = _make(tmp_path / "b", tasks=b"12345", agents=b"")
    backup = read_backup(path)
    assert backup.names("mongodb/") == ["tasks", "agents"]
    assert {name: file.read() for name, file in backup.members()} == {
        "mongodb/tasks.bson": b"12345",
        "mongodb/agents.bson": b"",
    }
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_backup_that_was_broken_off_leaves_nothing(tmp_path: Path) -> None:
    """Neither the file nor a part of it, and never another one's."""

    def parts() -> Iterator[bytes]:
        yield b"1"
        raise RuntimeError

    with pytest.raises(RuntimeError), BackupWriter(tmp_path / "b") as writer:
        writer.add("mongodb/tasks.bson", parts())
    assert not list(tmp_path.iterdir())
    there = _make(tmp_path / "b")
    with pytest.raises(BackupError, match="exists already"):
        _make(there)


@pytest.mark.parametrize("damage", ["cut off", "another byte", "no archive", "member", "not there"])
def test_a_damaged_backup_is_refused(damage: str, tmp_path: Path) -> None:
    """Before anything of it is used."""
    path = _make(tmp_path / "b", tasks=b"12345" * 1000)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "another byte":
        plain = gzip.decompress(path.read_bytes()).replace(b"12345", b"12355", 1)
        path.write_bytes(gzip.compress(plain))
    elif damage == "no archive":
        path.write_bytes(b"hello")
    elif damage == "member":
        with tarfile.open(path, "w:gz") as tar:
            evil = tarfile.TarInfo("../../etc/passwd")
            evil.type = tarfile.SYMTYPE
            tar.addfile(evil, io.BytesIO())
    else:
        path.unlink()
    with pytest.raises(BackupError):
        read_backup(path)


def test_documents_are_split_by_their_own_lengths() -> None:
    """Batches end behind a document, never in one."""
    documents = [size.to_bytes(4, "little") + b"x" * (size - 4) for size in (5, 9, 200, 6)]
    file = io.BytesIO(b"".join(documents))
    assert list(split_documents(file, 14)) == [documents[:2], documents[2:3], documents[3:]]
