"""The server is killed in the middle of making a batch, and started again: all of it or nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.edge.dying_batch_server import PART
from tests.servers import ServerProcess, wait_until

PATH = "/api/v1/tasks/batch"
SIZE = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that is told later where to die."""
    process = ServerProcess(tmp_path / "var", RATE_LIMIT_ENABLED="false")
    yield process
    process.kill()


def fan(name: str) -> dict[str, Any]:
    """One task, ten that wait for it, and one that waits for these, which comes first."""
    base = {"name": name, "required_capabilities": ["nobody-has-this"]}
    sides = [f"side-{n}" for n in range(SIZE - 2)]
    return {
        "tasks": [
            {**base, "depends_on": sides},
            *({**base, "key": side, "depends_on": ["top"]} for side in sides),
            {**base, "key": "top"},
        ]
    }


@pytest.mark.more
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("place", "before"), [("accept", 0), ("first", PART), ("last", SIZE)])
def test_killed_in_the_middle_of_a_batch_all_or_nothing_is_there(
    server: ServerProcess, place: str, before: int
) -> None:
    """What was accepted is finished by the reaper; a repetition gets the receipts of the same."""
    server.program = ("-m", "tests.edge.dying_batch_server", place)
    url = server.start()
    headers = {
        "Authorization": f"Bearer {server.data.find_operator_key()}",
        "Idempotency-Key": str(uuid.uuid4()),
    }
    body = fan("whole")
    with pytest.raises(httpx.TransportError):
        httpx.post(url + PATH, json=body, headers=headers, timeout=30)
    server.kill()
    server.program = ServerProcess.program
    url = server.start()

    def look(path: str) -> list[dict[str, Any]]:
        answer = httpx.get(url + path, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    def whole() -> bool:
        return len(look("/api/v1/tasks?name=whole&limit=50")) == SIZE

    there = look("/api/v1/tasks?name=whole&limit=50")
    assert len(there) in (before, SIZE if before else 0)
    if before:
        wait_until(whole, "the batch is whole", 30)
    again = httpx.post(url + PATH, json=body, headers=headers, timeout=30)
    assert again.status_code == 200, again.text
    tasks = again.json()["tasks"]
    assert [task["status"] for task in tasks] == ["blocked"] * (SIZE - 1) + ["queued"]
    made = {task["task_id"] for task in look("/api/v1/tasks?name=whole&limit=50")}
    assert made == {task["task_id"] for task in tasks}
    assert {task["task_id"] for task in there} <= made

    def told() -> bool:
        events = look("/api/v1/events?type=task.created&limit=200")
        return sorted(event["subject"] for event in events) == sorted(made)

    wait_until(told, "one event for each", 30)
