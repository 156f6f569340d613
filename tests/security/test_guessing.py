"""Guessing passwords: few guesses are verified, and the owner gets in (bar A6)."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from hive.login_attempts import WINDOW
from hive.permissions import Role
from server.passwords import Passwords, Verdict
from storage.sql.login_failures import SqlLoginFailures
from tests.api.running import PASSWORD, Api, RunningNode, found, running_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOGIN = "/api/v1/auth/login"
HOME = "198.51.100.7"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxied(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[RunningNode]:
    """A node behind a proxy that it trusts, so that clients come from where a test says.

    How strong a hash is does not matter here; there are hundreds of them.
    """
    directory = tmp_path_factory.mktemp("proxied")
    proxies = ["127.0.0.1/32"]
    cheap = Passwords(memory_kib=64, passes=1)
    async with running_node(directory, mongodb_uri, trusted_proxies=proxies) as running:
        strong, running.accounts._passwords = running.accounts._passwords, cheap
        yield running
        running.accounts._passwords = strong
    cheap.close()


@pytest_asyncio.fixture(loop_scope="module")
async def owner(proxied: RunningNode) -> str:
    """The name of a user who has logged in from `HOME` before."""
    name = f"owner-{uuid.uuid4().hex[:8]}"
    await proxied.add_user(name, Role.USER)
    assert (await log_in(proxied.client(), name, PASSWORD, HOME)).status_code == 200
    return name


@pytest.fixture
def verified(proxied: RunningNode, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passwords that were compared with a hash, in their order."""
    passwords = proxied.accounts._passwords
    compared: list[str] = []
    verify = passwords.verify

    async def counted(password: str, stored: str | None, *, renew: bool = True) -> Verdict:
        compared.append(password)
        return await verify(password, stored, renew=renew)

    monkeypatch.setattr(passwords, "verify", counted)
    return compared


@pytest.fixture
def later(proxied: RunningNode) -> Iterator[list[timedelta]]:
    """What the database's clock is ahead by: add to it."""
    attempts = proxied.accounts._guard._attempts
    assert isinstance(attempts, SqlLoginFailures)
    ahead = [timedelta()]
    attempts._database._clock = lambda: datetime.now(UTC) + sum(ahead, timedelta())
    yield ahead
    attempts._database._clock = None


@pytest_asyncio.fixture(loop_scope="module")
async def crowd(proxied: RunningNode) -> AsyncIterator[httpx.AsyncClient]:
    """A client for many requests; those of the others are judged."""
    async with Api(proxied.url, judged=False, limits=httpx.Limits(max_connections=50)) as client:
        yield client


async def log_in(
    client: httpx.AsyncClient, username: str, password: str, address: str
) -> httpx.Response:
    """Try once, from the address."""
    return await client.post(
        LOGIN,
        json={"username": username, "password": password},
        headers={"X-Forwarded-For": address},
    )


def wrong(count: int) -> list[str]:
    """Passwords that nobody has."""
    return [f"wrong {random.getrandbits(64)}" for _ in range(count)]


def addresses(count: int) -> list[str]:
    """So many IPv4 addresses that no test had before."""
    numbers = random.sample(range(1, 2**16), count)
    return [f"10.{random.randint(0, 255)}.{number >> 8}.{number & 255}" for number in numbers]


async def all_at_once(
    tries: Iterable[Coroutine[Any, Any, httpx.Response]], at_once: int = 50
) -> list[httpx.Response]:
    """The answers to all, of which so many are under way at any time."""
    room = asyncio.Semaphore(at_once)

    async def one(each: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        async with room:
            return await each

    return await asyncio.gather(*map(one, tries))


async def exhaust(crowd: httpx.AsyncClient, name: str) -> None:
    """Use up what unknown places may guess on an account."""
    for place in addresses(2):
        for password in wrong(6):
            await log_in(crowd, name, password, place)


@pytest.mark.parametrize("count", [250, pytest.param(1_000, marks=pytest.mark.soak)])
async def test_guesses_from_fifty_places_verify_ten(
    proxied: RunningNode, crowd: httpx.AsyncClient, owner: str, verified: list[str], count: int
) -> None:
    """Fifty at a time, over all addresses; the owner gets in at once, from home, meanwhile."""
    places = addresses(50)

    guesses = wrong(count)
    guessing = asyncio.create_task(
        all_at_once(
            log_in(crowd, owner, each, places[number % 50]) for number, each in enumerate(guesses)
        )
    )
    at_home = await found(
        lambda: log_in(proxied.client(), owner, PASSWORD, HOME),
        # A node that has too much to do says 503: then it is asked again.
        lambda answer: answer.status_code != 503,
        "the owner is answered",
    )
    answers = await guessing
    assert at_home.status_code == 200
    assert len(set(verified) & set(guesses)) == 10
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[401] == 10
    # A busy machine sends some away before it counts them: 503 verifies nothing either.
    assert statuses[429] + statuses[503] == count - 10
    assert statuses[429] > 0
    refused = [answer for answer in answers if answer.status_code in (429, 503)]
    assert all(1 <= int(answer.headers["Retry-After"]) <= 900 for answer in refused)
    assert (await log_in(proxied.client(), owner, PASSWORD, HOME)).status_code == 200


async def test_fifty_parallel_guesses_verify_no_more(
    crowd: httpx.AsyncClient, owner: str, verified: list[str]
) -> None:
    """Each is on record before it is verified, so none slips through between."""
    await asyncio.gather(
        *(
            log_in(crowd, owner, each, place)
            for each, place in zip(wrong(50), addresses(50), strict=True)
        )
    )
    assert len(verified) == 10


async def test_right_password_from_elsewhere_is_refused_like_a_wrong_one(
    proxied: RunningNode, crowd: httpx.AsyncClient, owner: str, verified: list[str]
) -> None:
    """And like one for a user whom nobody knows: status, headers and body tell nothing."""
    nobody = f"nobody-{uuid.uuid4().hex[:8]}"
    for name in (owner, nobody):
        await exhaust(crowd, name)
    del verified[:]
    (place,) = addresses(1)
    client = proxied.client()
    answers = [
        await log_in(client, owner, PASSWORD, place),
        await log_in(client, owner, "wrong", place),
        await log_in(client, nobody, PASSWORD, place),
    ]
    assert {answer.status_code for answer in answers} == {429}
    assert not verified
    problems = [answer.json() for answer in answers]
    for problem in problems:
        assert problem.pop("request_id")
    assert problems[0] == problems[1] == problems[2]
    assert problems[0]["code"] == "too-many-attempts"
    told = [set(answer.headers) for answer in answers]
    assert told[0] == told[1] == told[2]


async def test_budget_comes_back_with_time(
    crowd: httpx.AsyncClient, owner: str, later: list[timedelta]
) -> None:
    """Refused attempts don't count: after a quarter of an hour the right password works."""
    await exhaust(crowd, owner)
    (place,) = addresses(1)
    later.append(WINDOW - timedelta(seconds=5))
    for _ in range(20):
        assert (await log_in(crowd, owner, PASSWORD, place)).status_code == 429
    later.append(timedelta(seconds=10))
    assert (await log_in(crowd, owner, PASSWORD, place)).status_code == 200


async def test_hundred_failures_in_a_row_close_the_account_to_strangers(
    proxied: RunningNode,
    crowd: httpx.AsyncClient,
    owner: str,
    verified: list[str],
    later: list[timedelta],
) -> None:
    """However slowly; a success from home, or an admin who resets the password, opens it."""
    for _ in range(12):
        await exhaust(crowd, owner)
        later.append(WINDOW)
    assert len(verified) == 100
    (place,) = addresses(1)
    closed = await log_in(proxied.client(), owner, PASSWORD, place)
    assert (closed.status_code, closed.headers["Retry-After"]) == (429, "900")
    assert (await log_in(crowd, owner, PASSWORD, HOME)).status_code == 200
    assert (await log_in(crowd, owner, PASSWORD, place)).status_code == 200


async def test_forgiven_account_is_open_again(
    proxied: RunningNode, crowd: httpx.AsyncClient, owner: str
) -> None:
    """What an admin's reset of the password does."""
    await exhaust(crowd, owner)
    (place,) = addresses(1)
    assert (await log_in(crowd, owner, PASSWORD, place)).status_code == 429
    await proxied.accounts._guard.forgive(owner.upper())
    assert (await log_in(crowd, owner, PASSWORD, place)).status_code == 200


async def test_known_place_has_its_own_bound(
    crowd: httpx.AsyncClient, owner: str, verified: list[str]
) -> None:
    """Who guesses at the owner's desk is stopped as well, and stops nobody elsewhere."""
    for password in wrong(15):
        await log_in(crowd, owner, password, HOME)
    assert len(verified) == 10
    (place,) = addresses(1)
    assert (await log_in(crowd, owner, PASSWORD, HOME)).status_code == 429
    assert (await log_in(crowd, owner, PASSWORD, place)).status_code == 200


async def test_network_fails_thirty_times_over_all_accounts(
    crowd: httpx.AsyncClient, owner: str, verified: list[str]
) -> None:
    """A /64 of IPv6 is one network, whichever addresses of it are used."""
    prefix = f"2001:db8:{random.getrandbits(16):x}:7"
    for number in range(60):
        name = f"anybody-{uuid.uuid4().hex[:8]}"
        await log_in(crowd, name, "wrong", f"{prefix}::{number + 1:x}")
    assert len(verified) == 30
    assert (await log_in(crowd, owner, PASSWORD, f"{prefix}::ffff")).status_code == 429
    neighbour = prefix.removesuffix("7") + "8::1"
    assert (await log_in(crowd, owner, PASSWORD, neighbour)).status_code == 200


async def test_rush_of_right_passwords_is_no_guessing(crowd: httpx.AsyncClient, owner: str) -> None:
    """Twenty logins of one user at once, from a new place, all get in."""
    (place,) = addresses(1)
    answers = await asyncio.gather(*(log_in(crowd, owner, PASSWORD, place) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize(
    ("count", "networks"),
    [(120, 3), pytest.param(1_000, 25, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
async def test_one_password_on_many_accounts_is_noticed(
    crowd: httpx.AsyncClient, verified: list[str], count: int, networks: int
) -> None:
    """From many addresses: one warning a minute, without the password or a name."""
    secret = f"Winter-{uuid.uuid4().hex[:8]}"
    names = [f"staff-{uuid.uuid4().hex[:8]}" for _ in range(count)]
    places = addresses(networks)
    began = time.monotonic()
    with capture_logs() as logs:
        await all_at_once(
            log_in(crowd, name, secret, places[number % networks])
            for number, name in enumerate(names)
        )
    minutes = 1 + (time.monotonic() - began) // 60
    warnings = [entry for entry in logs if entry["event"] == "login.spray_suspected"]
    of_password = [entry for entry in warnings if entry["one"] == "password"]
    assert 1 <= len(of_password) <= minutes
    assert of_password[0]["accounts"] >= 10
    told = Counter(entry["network"] for entry in warnings if entry["one"] == "network")
    assert set(told) == set(places)
    assert max(told.values()) <= minutes
    assert secret not in str(logs)
    assert not [name for name in names if name in str(logs)]
    assert len(verified) <= networks * 30
