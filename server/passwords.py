"""Hashing and verifying passwords: argon2id (RFC 9106) in threads of its own, with a bound.

One verification takes about 45 ms of a core and 19 MiB, so logins are the cheapest way to starve a
server. What does not find room in the queue is refused at once.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, cast

from passlib.context import CryptContext

from hive.errors import Malformed, Unavailable

T = TypeVar("T")

MAX_PASSWORD_BYTES = 4096
# The minimum of OWASP's password storage cheat sheet; 46 ms here.
MEMORY_KIB = 19_456
PASSES = 2
LANES = 1
# What a request waits beside a rush of logins (benchmarks/login): on 2 cores its p99 rises by 39 ms
# with a hash on every core at equal rights, by 25 ms when they give way, and by 7 to 12 ms when a
# core is left to everybody else as well. Nicer threads would starve beside other work.
NICE = 10


class UnusablePassword(Malformed):
    """Over 4 KiB in UTF-8, or no Unicode text: it can't be anybody's password (400)."""

    pointer = "/password"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password is right, and a new hash when the stored one has older parameters."""

    correct: bool
    replacement: str | None = None


class Passwords:
    """A bounded pool: `threads` hash at once (default: all cores but one), `waiting` may wait."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        waiting: int = 64,
        memory_kib: int = MEMORY_KIB,
        passes: int = PASSES,
    ) -> None:
        count = threads or max(1, (os.cpu_count() or 1) - 1)
        self._context = CryptContext(
            schemes=["argon2"],
            argon2__type="ID",
            argon2__memory_cost=memory_kib,
            argon2__time_cost=passes,
            argon2__parallelism=LANES,
        )
        # Verified when there is no such user, so that both answers take as long.
        self._decoy = self._context.hash(secrets.token_urlsafe(32))
        self._threads = ThreadPoolExecutor(
            count, thread_name_prefix="argon2", initializer=_give_way
        )
        self._room = threading.BoundedSemaphore(count + waiting)

    async def hash(self, password: str) -> str:
        """Hash a new password. Raises UnusablePassword and Unavailable (no room)."""
        prepared = prepare_password(password)
        return await self._run(lambda: cast(str, self._context.hash(prepared)))

    async def verify(self, password: str, stored: str | None, *, renew: bool = True) -> Verdict:
        """Compare with a stored hash; None costs as much and is never right. Raises like `hash`.

        With `renew`, a right password with older parameters is hashed again.
        """
        prepared = prepare_password(password)

        def work() -> Verdict:
            correct = bool(self._context.verify(prepared, stored or self._decoy)) and bool(stored)
            outdated = correct and renew and self._context.needs_update(stored)
            return Verdict(correct, self._context.hash(prepared) if outdated else None)

        return await self._run(work)

    def close(self) -> None:
        """Finish the hashes that are being computed and drop those that wait."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._room.acquire(blocking=False):
            raise Unavailable("Too many logins are waiting. Try again.", retry_after_seconds=5)
        try:
            future = self._threads.submit(work)
        except RuntimeError as error:
            self._room.release()
            raise Unavailable(reason="the hashing threads are closed") from error
        # A caller that goes away does not stop the hash: only its end makes room.
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)


def _give_way() -> None:
    """Let the event loop's thread go first; on Linux alone has a thread a niceness of its own."""
    if sys.platform == "linux":
        os.nice(NICE)


def prepare_password(password: str) -> str:
    """One form for all ways to type the same characters (NFKC, as NIST SP 800-63B asks).

    Raises UnusablePassword.
    """
    try:
        size = len(password.encode())
    except UnicodeEncodeError as error:
        raise UnusablePassword("The password is not valid Unicode.") from error
    if size > MAX_PASSWORD_BYTES:
        raise UnusablePassword(f"A password has at most {MAX_PASSWORD_BYTES} bytes in UTF-8.")
    return unicodedata.normalize("NFKC", password)
