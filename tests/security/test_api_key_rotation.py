"""A9: a key is rotated under load; both keys work until the overlap ends, and the old not longer.

Time is the wall's, which the nodes share with the test; a request counts from its beginning.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.api.running import PASSWORD, Api, found
from tests.identity.conftest import postgres_server
from tests.realtime.client import open_socket
from tests.security.two_nodes import Answered, Load, node_processes, nodes_in_process

__all__ = ["postgres_server"]

PATH = "/api/v1/api-keys"
ASKED = "/api/v1/auth/me"
ALLOWED_SECONDS = 1.0
TOKEN_EXPIRED = 4100
ACCEPTED, REFUSED = 200, 401


@dataclass(frozen=True)
class Size:
    """How much load there is, in requests a second over both keys and nodes, and how long."""

    per_second: float
    overlap_seconds: int


async def rotate_under_load(urls: list[str], size: Size) -> None:
    """Rotate on the first node while both ask both; then revoke the successor."""
    async with _admin(urls) as admin:
        old = await admin.ok("POST", PATH, json={"name": "steady", "expires_in_days": 30})
        before = Load(urls, old["api_key"], size.per_second / 2)
        async with before.going(ASKED), open_socket(urls[1], token=old["api_key"]) as socket:
            await socket.send("connect")
            await socket.until("welcome")
            overlap = {"overlap_seconds": size.overlap_seconds}
            new = await admin.ok("POST", f"{PATH}/{old['key_id']}/rotate", json=overlap)
            after = Load(urls, new["api_key"], size.per_second / 2)
            async with after.going(ASKED):
                ends_at = await _end_of(admin, old)
                assert ends_at - time.monotonic() <= size.overlap_seconds
                closed = asyncio.create_task(_closed(socket))
                await asyncio.sleep(ends_at - time.monotonic() + 2 * ALLOWED_SECONDS)
                code, closed_at = await asyncio.wait_for(closed, 1)
                used = await _used(admin, old, new)
                revoking = time.monotonic()
                await admin.ok("DELETE", f"{PATH}/{new['key_id']}")
                revoked_at = time.monotonic()
                await asyncio.sleep(2 * ALLOWED_SECONDS)
        assert {answer.status for answer in before.answers if answer.ended < ends_at} == {ACCEPTED}
        _ends(before.answers, ends_at)
        assert {answer.status for answer in after.answers if answer.ended < revoking} == {ACCEPTED}
        _ends(after.answers, revoked_at)
        assert {answer.node for answer in before.answers + after.answers} == {0, 1}
        seconds = size.overlap_seconds
        assert len(before.answers) > 0.5 * seconds * size.per_second / 2
        assert code == TOKEN_EXPIRED
        assert closed_at - ends_at + 0.05 >= 0
        assert closed_at - ends_at < ALLOWED_SECONDS
        assert all(used.values()), used
        await _audited(admin, old, new)


def _ends(answers: list[Answered], at: float) -> None:
    """Refused on every node a second later, and never accepted again."""
    late = [answer for answer in answers if answer.began > at + ALLOWED_SECONDS]
    assert {answer.node for answer in late} == {0, 1}
    assert {answer.status for answer in late} == {REFUSED}
    assert {answer.status for answer in answers} == {ACCEPTED, REFUSED}


@asynccontextmanager
async def _admin(urls: list[str]) -> AsyncIterator[Api]:
    async with Api(urls[0]) as anonymous:
        credentials = {"username": "admin", "password": PASSWORD}
        tokens = await anonymous.ok("POST", "/api/v1/auth/login", json=credentials)
    async with Api(urls[0], tokens["access_token"]) as admin:
        yield admin


async def _end_of(admin: Api, key: dict[str, Any]) -> float:
    """The monotonic time of the key's end."""
    seen = await admin.ok("GET", f"{PATH}/{key['key_id']}")
    ends_at = datetime.fromisoformat(seen["expires_at"]).timestamp()
    return ends_at - time.time() + time.monotonic()


async def _closed(socket: Any) -> tuple[int | None, float]:
    """How and when the socket ended, however long that takes."""
    while True:
        try:
            return await socket.close_code(), time.monotonic()
        except TimeoutError:
            await socket.send("ping")


async def _used(admin: Api, *keys: dict[str, Any]) -> dict[str, bool]:
    """Whether each key says when it was used last."""
    seen = [await admin.ok("GET", f"{PATH}/{key['key_id']}") for key in keys]
    return {key["key_id"]: "last_used_at" in key for key in seen}


async def _audited(admin: Api, old: dict[str, Any], new: dict[str, Any]) -> None:
    """The rotation and the revocation are on record, once each."""
    for key, operation in ((old, "rotate_api_key"), (new, "revoke_api_key")):
        wanted = {"operation": operation, "resource": key["key_id"]}

        async def records(wanted: dict[str, str] = wanted) -> list[Any]:
            return list(await admin.ok("GET", "/api/v1/audit", params=wanted))

        (record,) = await found(records, bool, f"{operation} is on record")
        assert record["outcome"] == "success"


async def test_rotation_under_load_loses_nothing_and_ends_in_time(
    tmp_path: Path, mongodb_uri: str
) -> None:
    """Two nodes, both keys, sockets of the other node: nothing fails in the overlap."""
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    async with nodes_in_process(tmp_path, mongodb_uri, url) as urls:
        await rotate_under_load(urls, Size(per_second=40, overlap_seconds=3))


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_rotation_at_two_hundred_a_second(
    tmp_path: Path, mongodb_uri: str, database: str, request: pytest.FixtureRequest
) -> None:
    """The full measure, on two processes: 200 requests a second, an overlap of a minute."""
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    if database == "postgresql":
        url = str(request.getfixturevalue("postgres_server")).format("postgres")
    with node_processes(tmp_path, mongodb_uri, url) as urls:
        await rotate_under_load(urls, Size(per_second=200, overlap_seconds=60))
