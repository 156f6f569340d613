"""The server is killed between the effects of requests and their answers, and started again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import ServerProcess, wait_until

TASKS, USERS, AGENTS, API_KEYS = (
    f"/api/v1/{name}" for name in ("tasks", "users", "agents", "api-keys")
)
NOBODY_HAS_THIS = ["nobody-has-this"]
WISHES: list[tuple[str, str, dict[str, Any]]] = [
    ("task.created", TASKS, {"name": "once", "required_capabilities": NOBODY_HAS_THIS}),
    ("user.created", USERS, {"username": "once", "password": "correct horse battery staple"}),
    ("api_key.created", API_KEYS, {"name": "once"}),
    ("agent.registered", AGENTS, {"name": "once"}),
]
OF_OTHERS = {"user.created": 1, "api_key.created": 2}
"""Events beside those: of the first admin, of the operator's key and of the agent's."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that dies when all four answers are about to be kept."""
    process = ServerProcess(tmp_path / "var", RATE_LIMIT_ENABLED="false")
    process.program = ("-m", "tests.edge.dying_server", str(len(WISHES)))
    yield process
    process.kill()


def send(url: str, bearer: str, path: str, body: dict[str, Any], key: str) -> httpx.Response:
    """POST under the key."""
    headers = {"Authorization": f"Bearer {bearer}", "Idempotency-Key": key}
    return httpx.post(url + path, json=body, headers=headers, timeout=30)


def look(url: str, bearer: str, path: str) -> Any:
    """What is there."""
    answer = httpx.get(url + path, headers={"Authorization": f"Bearer {bearer}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def identifier_of(answer: httpx.Response) -> str:
    """What an answer made."""
    return answer.headers["Location"].rpartition("/")[2]


@pytest.mark.timeout(240)
def test_killed_between_effect_and_answer_each_is_made_once(server: ServerProcess) -> None:
    """The repetitions get the answers of what is there: in MongoDB, in SQL and in both.

    So they get the credentials, which nobody has seen yet; a second repetition does not.
    """
    url = server.start()
    bearer = str(server.data.find_operator_key())
    keys = [str(uuid.uuid4()) for _ in WISHES]

    def ask(number: int) -> None:
        _, path, body = WISHES[number]
        with pytest.raises(httpx.TransportError):
            send(url, bearer, path, body, keys[number])

    with ThreadPoolExecutor(len(WISHES)) as threads:
        list(threads.map(ask, range(len(WISHES))))
    server.kill()
    server.program = ServerProcess.program
    url = server.start()
    before = {
        event["subject"]
        for kind, _, _ in WISHES
        for event in created(url, bearer, kind, 1 + OF_OTHERS.get(kind, 0))
    }
    for (kind, path, body), key in zip(WISHES, keys, strict=True):
        first = send(url, bearer, path, body, key)
        assert first.status_code in (200, 201), first.text
        made = identifier_of(first)
        assert made in before, "it was made under another identifier"
        assert len([e for e in created(url, bearer, kind, 1) if e["subject"] == made]) == 1
        assert "Idempotency-Replayed" not in first.headers
        again = send(url, bearer, path, body, key)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert identifier_of(again) == made
        if "api_key" in first.json():
            assert again.json()["code"] == "secret-not-replayed"
            assert look(url, first.json()["api_key"], "/api/v1/auth/me")["principal_id"]
        else:
            assert again.content == first.content
    assert [one["name"] for one in look(url, bearer, f"{TASKS}?name=once")] == ["once"]
    assert [one["name"] for one in look(url, bearer, AGENTS)] == ["once"]
    assert [one["username"] for one in look(url, bearer, USERS)].count("once") == 1
    owned = look(url, bearer, f"{API_KEYS}?limit=200")
    assert [one["name"] for one in owned].count("once") == 2, "the admin's and the agent's"
    (task,) = look(url, bearer, f"{TASKS}?name=once")

    def recorded() -> bool:
        records = look(url, bearer, f"/api/v1/audit?resource={task['task_id']}")
        return sorted(record["outcome"] for record in records) == [
            "recovered",
            "success",
            "success",
        ]

    wait_until(recorded, "one record for each call, that of the dead one too", 20)


def created(url: str, bearer: str, kind: str, least: int) -> list[dict[str, Any]]:
    """The events of this type, once the log has so many."""
    seen: list[dict[str, Any]] = []

    def arrived() -> bool:
        seen[:] = look(url, bearer, f"/api/v1/events?type={kind}&limit=200")
        return len(seen) >= least

    wait_until(arrived, kind, 20)
    return seen
