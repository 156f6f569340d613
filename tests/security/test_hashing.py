"""Logins can't starve the server: strong hashes in bounded threads, off the loop (bar A7)."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from ipaddress import IPv4Address

import httpx
import pytest
import pytest_asyncio

from hive.errors import HiveError
from hive.permissions import Role
from server.login_guard import MAX_UNDER_WAY
from server.passwords import Passwords, Verdict
from tests.api.running import PASSWORD, Api, RunningNode, found

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOGIN = "/api/v1/auth/login"
KIB = 1024
LOGINS = 200
# What is sent, and the one answer to all of it; None where some of it is hashed.
RUSHES: dict[str, tuple[str, int | None]] = {
    "4 KiB": ("x" * (4 * KIB), None),
    "4 KiB in UTF-8": ("é" * (2 * KIB), None),
    "over 4 KiB": ("x" * (4 * KIB + 1), 400),
    "over 4 KiB in UTF-8": ("é" * (2 * KIB) + "x", 400),
    "nearly 1 MiB": ("x" * (KIB * KIB - 200), 400),
    "1 MiB": ("x" * (KIB * KIB), 413),
}


ALWAYS = {"4 KiB", "over 4 KiB", "nearly 1 MiB"}


@pytest_asyncio.fixture(loop_scope="module")
async def aftermath(admin: Api) -> AsyncIterator[None]:
    """Once a rush is over, what changes something is taken again: the stores have caught up."""
    yield

    async def change() -> int:
        return (await admin.post("/api/v1/auth/ws-tickets", json={})).status_code

    await found(change, lambda status: status == 200, "the stores have caught up")


@pytest.mark.usefixtures("aftermath")
@pytest.mark.parametrize(
    ("password", "answer"),
    [
        pytest.param(*rush, id=name, marks=() if name in ALWAYS else pytest.mark.more)
        for name, rush in RUSHES.items()
    ],
)
async def test_two_hundred_logins_at_once_are_answered(
    node: RunningNode, password: str, answer: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashed, or refused without being hashed; and afterwards all is as before."""
    hashed: list[str] = []
    passwords = node.accounts._passwords
    verify = passwords.verify

    async def counted(given: str, stored: str | None, *, renew: bool = True) -> Verdict:
        hashed.append(given)
        return await verify(given, stored, renew=renew)

    monkeypatch.setattr(passwords, "verify", counted)
    # In a thread: what the crowd itself has to do is not on the server's loop.
    answers = await asyncio.to_thread(asyncio.run, fail_to_log_in(node.url, password))
    statuses = Counter(each.status_code for each in answers)
    if answer is not None:
        assert statuses == {answer: LOGINS}
        assert not hashed
        return
    assert set(statuses) <= {401, 429, 503}
    # One address fails thirty times in all; nothing else reaches a hashing thread.
    assert len(hashed) == statuses[401] <= 30
    excess = [each for each in answers if each.status_code != 401]
    assert all(int(each.headers["Retry-After"]) >= 1 for each in excess)
    name = f"calm-{uuid.uuid4().hex[:8]}"
    await node.add_user(name, Role.USER)
    assert node.accounts._guard._under_way == 0


async def test_pool_and_queue_are_bounded(node: RunningNode) -> None:
    """A core is left to everybody else, and every login that the guard lets in finds room."""
    passwords = node.accounts._passwords
    threads = passwords._threads._max_workers
    assert threads == max(1, (os.cpu_count() or 1) - 1)
    assert MAX_UNDER_WAY <= passwords._room._value <= threads + MAX_UNDER_WAY


@pytest.mark.parametrize(
    "password", ["p" * 64, "пароль 密码 🐝 Zürich", "w " * 128], ids=["64", "unicode", "256"]
)
async def test_long_and_foreign_passwords_work(
    home: Callable[[], Api], node: RunningNode, password: str
) -> None:
    """Sixty-four characters, other scripts, the longest that the policy takes."""
    name = f"long-{uuid.uuid4().hex[:8]}"
    hashed = await node.accounts._passwords.hash(password)
    await node.accounts._store.create_user(name, hashed, Role.USER)
    await home().ok("POST", LOGIN, json={"username": name, "password": password})
    await home().refused(401, "POST", LOGIN, json={"username": name, "password": password[:-1]})


async def test_login_renews_a_weaker_hash(home: Callable[[], Api], node: RunningNode) -> None:
    """A password that was set under older parameters has today's after the next login."""
    weaker = Passwords(memory_kib=64, passes=1)
    name = f"old-{uuid.uuid4().hex[:8]}"
    await node.accounts._store.create_user(name, await weaker.hash(PASSWORD), Role.USER)
    weaker.close()
    for _ in range(2):
        await home().ok("POST", LOGIN, json={"username": name, "password": PASSWORD})
        kept = await node.accounts._store.find_credentials(name)
        assert kept is not None
        assert kept[1].startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.soak
async def test_loop_stays_free(node: RunningNode) -> None:
    """Two hundred logins at once, for a while: the event loop lags by 20 ms at most (p99)."""
    lags: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - before - 0.001)

    async def fail() -> None:
        with suppress(HiveError):
            await node.accounts.login(uuid.uuid4().hex, "x" * 4096, address=new_address())

    ticking = asyncio.create_task(tick())
    for _ in range(10):
        await asyncio.gather(*(fail() for _ in range(LOGINS)))
    ticking.cancel()
    lags.sort()
    p99 = 1000 * lags[int(len(lags) * 0.99)]
    # What a soak run is for.
    print(f"lag of the loop: p99 {p99:.1f} ms, most {1000 * lags[-1]:.1f} ms")  # noqa: T201
    assert p99 <= 20


@pytest.fixture
def home(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Api]:
    """A client whose logins come from an address that has not failed yet."""
    resolver = node.node.app.pipeline.addresses
    monkeypatch.setattr(resolver, "resolve", lambda *_: new_address())
    return node.client


async def fail_to_log_in(url: str, password: str) -> list[httpx.Response]:
    """Try as many whom nobody knows, all at once."""
    limits = httpx.Limits(max_connections=LOGINS)
    async with Api(url, judged=False, limits=limits) as crowd:
        return await asyncio.gather(
            *(
                crowd.post(LOGIN, json={"username": uuid.uuid4().hex, "password": password})
                for _ in range(LOGINS)
            )
        )


def new_address() -> str:
    """One that no test had before."""
    return str(IPv4Address(0x0A000000 + random.getrandbits(24)))
