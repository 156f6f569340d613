"""Nobody learns which users exist: one answer and one time for all failed logins (bar A5)."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Iterable

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session as SqlSession

from hive.changes import Actor
from hive.errors import InvalidCredentials
from hive.permissions import Role
from hive.users import UserChange
from server.passwords import Passwords
from storage.sql.models import LoginFailureRow, LoginStreakRow
from tests.api.running import PASSWORD, Api, RunningNode
from tests.identity.node import Node, build, running

LOGIN = "/api/v1/auth/login"
KINDS = ("existing", "missing", "disabled")
ADMIN = Actor("test")
MAX_T = 4.5
MAX_GAP_SECONDS = 0.001
SOAK = (pytest.mark.soak, pytest.mark.timeout(3_000))


@pytest.fixture
async def identity(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """Users without HTTP around them, where a difference in time is easiest to see."""
    folder = tmp_path_factory.mktemp("identity")
    async with running(build(f"sqlite:///{folder / 'identity.db'}")) as node:
        yield node


@pytest.mark.asyncio(loop_scope="module")
async def test_answers_are_the_same_byte_by_byte(node: RunningNode, anonymous: Api) -> None:
    """Status, headers and body of a missing and a disabled user are those of a wrong password."""
    tag = uuid.uuid4().hex[:8]
    await node.add_user(f"existing-{tag}", Role.USER)
    disabled = await node.add_user(f"disabled-{tag}", Role.USER)
    await node.node.services.users.update(disabled, UserChange(disabled=True), ADMIN)
    told = set()
    for name, password in (
        (f"existing-{tag}", "not this one"),
        (f"disabled-{tag}", "not this one"),
        (f"disabled-{tag}", PASSWORD),
        (f"missing-{tag}", PASSWORD),
        (f"missing-{tag}", "not this one"),
    ):
        answer = await anonymous.post(
            LOGIN,
            json={"username": name, "password": password},
            headers={"X-Request-Id": "the-same"},
        )
        headers = {n: value for n, value in answer.headers.items() if n != "date"}
        told.add((answer.status_code, tuple(sorted(headers.items())), answer.content))
    ((status, _, body),) = told
    assert status == 401
    assert b"Invalid credentials" in body


@pytest.mark.parametrize(
    ("rounds", "strong"),
    [
        pytest.param(250, False, id="cheap", marks=SOAK),
        pytest.param(5_000, False, id="cheap-5000", marks=SOAK),
        pytest.param(5_000, True, id="strong-5000", marks=SOAK),
    ],
)
async def test_failed_logins_take_the_same_time(
    identity: Node, rounds: int, *, strong: bool
) -> None:
    """Interleaved in random order: no difference that statistics could see.

    A cheap hash shows what differs around it; the strong one is what the product uses.
    """
    if strong:
        identity.passwords.close()
        identity.accounts._passwords = Passwords()
    for kind in ("existing", "disabled"):
        hashed = await identity.accounts._passwords.hash(PASSWORD)
        user = await identity.store.create_user(kind, hashed, Role.USER)
        if kind == "disabled":
            await identity.users.update(user.user_id, UserChange(disabled=True), ADMIN)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        password = "not this one" if number % 2 else "nor this"
        for kind in random.sample(KINDS, len(KINDS)):
            given = PASSWORD if kind == "disabled" and number % 2 else password
            seconds[kind].append(await time_of_failure(identity, kind, given))
        await forget_failures(identity)
    identity.accounts._passwords.close()
    compare(seconds)


async def test_hash_of_nobody_costs_what_all_others_cost() -> None:
    """The same algorithm, memory, passes and lanes as a password that is set now."""
    passwords = Passwords(memory_kib=128, passes=3)
    hashes = (passwords._decoy, await passwords.hash(PASSWORD))
    parameters = {tuple(each.split("$")[1:4]) for each in hashes}
    passwords.close()
    assert len(parameters) == 1


async def time_of_failure(identity: Node, username: str, password: str) -> float:
    """How many seconds the refusal took."""
    began = time.perf_counter()
    with pytest.raises(InvalidCredentials):
        await identity.accounts.login(username, password, address="192.0.2.1")
    return time.perf_counter() - began


async def forget_failures(identity: Node) -> None:
    """Begin again: what is refused without being verified is not to be measured."""

    def work(sql: SqlSession) -> None:
        sql.execute(delete(LoginFailureRow))
        sql.execute(delete(LoginStreakRow))

    await identity.database.write(work)


def compare(seconds: dict[str, list[float]]) -> None:
    """Fail when two of the kinds differ: by Welch's t or by a millisecond between the medians."""
    for one, other in itertools.combinations(seconds, 2):
        t = welch_t(seconds[one], seconds[other])
        gap = abs(statistics.median(seconds[one]) - statistics.median(seconds[other]))
        # What a soak is run for.
        print(f"{one} / {other}: t = {t:.2f}, gap {1000 * gap:.3f} ms")  # noqa: T201
        assert abs(t) < MAX_T, f"{one} and {other} can be told apart: t = {t:.2f}"
        assert gap < MAX_GAP_SECONDS, f"{one} and {other} differ by {1000 * gap:.3f} ms"


def welch_t(one: list[float], other: list[float]) -> float:
    """Welch's t of two samples, without the twentieth that was held up by something else."""

    def prepared(values: list[float]) -> Iterable[float]:
        return sorted(values)[: int(len(values) * 0.95)]

    left, right = list(prepared(one)), list(prepared(other))
    error = math.sqrt(
        statistics.variance(left) / len(left) + statistics.variance(right) / len(right)
    )
    return (statistics.fmean(left) - statistics.fmean(right)) / error
