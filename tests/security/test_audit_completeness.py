"""Bar L1: one record for each call, also when the server is killed in the middle of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from server.embedded import EmbeddedMongo
from tests.security.audit_load import PASSWORD, Load
from tests.servers import ROOT, ServerProcess, wait_until

# Records of reads are written within a second of the server's own time, which other work can take.
KILL_MARGIN_SECONDS = 3.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that was not started yet; it is ended after the test."""
    process = ServerProcess(tmp_path / "var", RATE_LIMIT_ENABLED="false", ADMIN_PASSWORD=PASSWORD)
    yield process
    process.kill()


def database(server: ServerProcess) -> Any:
    """The documents behind the running server."""
    uri = EmbeddedMongo(server.data.mongo_path, server.data.mongo_log_path).uri
    return MongoClient[dict[str, Any]](uri)


def verify(server: ServerProcess) -> tuple[int, str]:
    """`agentzero audit verify` as an operator runs it: exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "audit", "verify"],
        cwd=ROOT,
        env={**os.environ, "AGENTZERO_DATA_DIR": str(server.data.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def run_and_count(server: ServerProcess, calls: int) -> Load:
    """Load and kill the server; every call that was answered has exactly one record."""
    load = Load(server, seed=7)
    asyncio.run(load.run(calls, kill_after=calls // 2))
    with database(server) as client:
        mongo = client["agentzero"]

        def unrecorded() -> set[str]:
            named = {
                event["call_id"] for event in mongo["events"].find({"call_id": {"$exists": 1}})
            }
            return named - set(mongo["audit"].distinct("record_id"))

        def unrecorded_since() -> set[str]:
            # An answer of before the kill may be read long after it, when the machine is busy.
            later = (one for one in load.sent if one.sent_at > load.killed_at)
            answered = {one.request_id for one in later if one.status is not None}
            return answered - set(mongo["audit"].distinct("request_id"))

        wait_until(lambda: not unrecorded(), "every event's call has a record", 20)
        wait_until(lambda: not unrecorded_since(), "every read after the kill has a record", 20)
        records = list(mongo["audit"].find())
    by_request = Counter(record.get("request_id") for record in records)
    status = {record.get("request_id"): record.get("status") for record in records}
    unanswered = 0
    for one in load.sent:
        count = by_request[one.request_id]
        assert count <= 1, f"{one} has {count} records"
        unanswered += one.status is None
        is_of_before = one.sent_at <= load.killed_at
        was_lost = is_of_before and one.answered_at > load.killed_at - KILL_MARGIN_SECONDS
        if one.status is not None and (one.mutates or not was_lost):
            before = load.killed_at - one.answered_at
            assert count == 1, f"{one}, {before:.3f} s before the kill, has no record"
            assert status[one.request_id] == one.status, one
    assert unanswered, "the kill hit nothing: it proves nothing"
    beats = [one for one in records if one.get("operation") == "heartbeat_agent"]
    assert load.beats_answered <= len(beats) <= load.beats_sent
    assert all(beat["channel"] == "websocket" for beat in beats)
    links = [one for one in records if one.get("operation") == "connect_agent"]
    assert len(links) >= load.links_opened - 1, "the last one before the kill may be missing"
    assert {one["status"] for one in links} <= {101, 1006}
    return load


def test_calls_have_one_record_each_over_a_kill(server: ServerProcess) -> None:
    """Six hundred mixed calls and a SIGKILL; then the chains verify, running and stopped."""
    run_and_count(server, 600)
    code, said = verify(server)
    assert (code, "whole" in said) == (0, True), said
    assert server.stop() == 0
    code, said = verify(server)
    assert (code, "whole" in said) == (0, True), said
    assert "2 chains" in said
    break_a_record(server)
    code, said = verify(server)
    assert code == 1, said
    assert "record 3: its content does not match its hash" in said


def break_a_record(server: ServerProcess) -> None:
    """Change record 3 of the second chain, with the server on again."""
    server.start()
    with database(server) as client:
        audit = client["agentzero"]["audit"]
        boots = sorted(client["agentzero"]["audit"].distinct("_id.boot"))
        assert len(boots) >= 2
        changed = audit.update_one(
            {"_id": {"boot": boots[1], "n": 3}}, {"$set": {"address": "203.0.113.9"}}
        )
        assert changed.modified_count == 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_ten_thousand_calls_have_one_record_each_over_a_kill(server: ServerProcess) -> None:
    """The full number."""
    run_and_count(server, 10_000)
    code, said = verify(server)
    assert code == 0, said


def test_verify_without_data_says_so(tmp_path: Path) -> None:
    """Exit code 2: nothing was looked at."""
    code, said = verify(ServerProcess(tmp_path / "nothing"))
    assert code == 2
    assert "has no data of a server" in said
    assert not (tmp_path / "nothing").exists()


def test_the_canonical_export_verifies_by_itself(server: ServerProcess) -> None:
    """Whoever exports can check the hashes without this program: sort, join, hash."""
    url = server.start()
    headers = {"Authorization": f"Bearer {server.data.find_operator_key()}"}
    for _ in range(5):
        httpx.get(f"{url}/api/v1/tasks", headers=headers)
    script = (
        "import hashlib, json, sys\n"
        "last = {}\n"
        "for line in sys.stdin:\n"
        "    r = json.loads(line); h = r.pop('hash')\n"
        "    c = json.dumps(r, sort_keys=True, separators=(',', ':'), ensure_ascii=False)\n"
        "    assert hashlib.sha256(c.encode()).hexdigest() == h, r['n']\n"
        "    first = hashlib.sha256(b'agentzero/audit/' + r['boot'].encode()).hexdigest()\n"
        "    assert r['prev_hash'] == last.get(r['boot'], first), r['n']\n"
        "    last[r['boot']] = h\n"
        "print(len(last))\n"
    )

    def exported() -> str:
        answer = httpx.get(f"{url}/api/v1/audit/export", headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.text

    wait_until(lambda: exported().count("list_tasks") == 5, "the reads are recorded")
    checked = subprocess.run(
        [sys.executable, "-c", script],
        input=exported(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "1\n"), checked.stderr
