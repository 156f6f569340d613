"""Hashing of passwords: strong, bounded, and off the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator

import pytest

from hive.errors import Unavailable
from server.passwords import NICE, Passwords, UnusablePassword


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    """As the server makes them."""
    made = Passwords()
    yield made
    made.close()


@pytest.fixture
async def cheap() -> AsyncIterator[Passwords]:
    """Weaker parameters, as an older release may have had."""
    made = Passwords(memory_kib=64, passes=1)
    yield made
    made.close()


async def test_parameters_are_the_recommended_minimum(passwords: Passwords) -> None:
    """argon2id with 19 MiB, two passes and one lane; every hash has its own salt."""
    one, two = await passwords.hash("a password"), await passwords.hash("a password")
    assert one.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert one != two


@pytest.mark.parametrize(
    "password",
    ["x", "p" * 64, "pässwörd 密码 🐝", "a\0b", " spaces ", "q" * 4096],
    ids=["short", "64", "unicode", "nul", "spaces", "4-kib"],
)
async def test_any_text_up_to_4_kib_is_a_password(cheap: Passwords, password: str) -> None:
    """It verifies, and one character more or less does not."""
    stored = await cheap.hash(password)
    assert (await cheap.verify(password, stored)).correct
    assert not (await cheap.verify(password[:-1], stored)).correct


async def test_two_ways_to_type_a_password_are_one(cheap: Passwords) -> None:
    """A composed and a decomposed letter are the same to the person who types."""
    assert (await cheap.verify("Zu\u0308rich", await cheap.hash("Z\u00fcrich"))).correct


@pytest.mark.parametrize("password", ["x" * 4097, "é" * 2049, "x" * 1_048_576, "\ud800"])
async def test_oversize_and_broken_text_is_refused_before_hashing(
    cheap: Passwords, password: str
) -> None:
    """More than 4 KiB in UTF-8 never reaches a hashing thread."""
    cheap.close()
    with pytest.raises(UnusablePassword):
        await cheap.verify(password, None)
    with pytest.raises(UnusablePassword):
        await cheap.hash(password)
    with pytest.raises(Unavailable):
        await cheap.hash("a password")


async def test_unknown_user_costs_a_verification_and_is_never_right(cheap: Passwords) -> None:
    """Without a stored hash nothing is correct, and nothing is to be replaced."""
    verdict = await cheap.verify("anything", None)
    assert (verdict.correct, verdict.replacement) == (False, None)


async def test_older_parameters_are_replaced_when_the_password_is_right(
    cheap: Passwords, passwords: Passwords
) -> None:
    """Only a right password gives a stronger hash, and that one needs no other."""
    old = await cheap.hash("a password")
    assert (await passwords.verify("wrong", old)).replacement is None
    verdict = await passwords.verify("a password", old)
    assert verdict.correct
    assert verdict.replacement is not None
    assert (await passwords.verify("a password", verdict.replacement)).replacement is None
    assert (await passwords.verify("a password", old, renew=False)).replacement is None


async def test_two_hundred_logins_are_bounded_and_leave_the_loop_alone() -> None:
    """What finds no room is refused at once; the loop goes on ticking while the rest is hashed."""
    passwords = Passwords(threads=2, waiting=8)
    lags: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - before - 0.001)

    ticking = asyncio.create_task(tick())
    started = time.perf_counter()
    # No hash ends, and so makes room, before all two hundred have come.
    all_have_come = threading.Event()
    for _ in range(2):
        passwords._threads.submit(all_have_come.wait, 10)
    attempts = [asyncio.create_task(passwords.verify("x" * 4096, None)) for _ in range(200)]
    await asyncio.sleep(0)
    all_have_come.set()
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    took = time.perf_counter() - started
    ticking.cancel()
    passwords.close()
    refused = [answer for answer in answers if isinstance(answer, Unavailable)]
    assert len(refused) == 190
    assert {error.retry_after_seconds for error in refused} == {5}
    assert took < 10
    lags.sort()
    # 20 ms is the goal; the margin is for a machine that is busy with other tests.
    assert lags[int(len(lags) * 0.99)] < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no niceness")
async def test_hashing_gives_way_to_the_loop(cheap: Passwords) -> None:
    """The threads that hash are nicer than the rest of the process."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    theirs = await cheap._run(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert theirs == min(19, own + NICE)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own


async def test_room_comes_back(cheap: Passwords) -> None:
    """After a rush, and after callers that went away, everybody is served again."""
    small = Passwords(threads=1, waiting=1, memory_kib=64, passes=1)
    for _ in range(20):
        task = asyncio.create_task(small.verify("x", None))
        await asyncio.wait([task], timeout=0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        while True:
            try:
                await small.verify("x", None)
                break
            except Unavailable:
                await asyncio.sleep(0)
    small.close()
    with pytest.raises(Unavailable):
        await small.verify("x", None)
