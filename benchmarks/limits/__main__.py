"""How exact the shared rate limits are: `python -m benchmarks.limits`.

Three processes make a million decisions over a thousand keys on a Valkey of their own, at half to
five times the limit and with bursts at the very edges of windows. The log of all of them (key, time
of Redis, verdict) is then replayed through an exact reference. With `--keep` the report goes to
RESULTS.md beside this file. Ends with 1 when the bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hive.rate_limits import Charge, Policy
from storage.redis.client import RedisConnection
from storage.redis.rate_limits import RedisRateLimiter
from tests.servers import ROOT, running_redis

HERE = Path(__file__).resolve().parent
KEYS = 1_000
ADDRESSES = 50
PROCESSES = 3
CALLERS = 24
WINDOW_SECONDS = 20.0
# How many limits of its principals an address has: 20 of them share one, not all at their limit.
ADDRESS_FACTOR = 16
CALIBRATION = 15_000
LEAST_LIMIT = 4
LOADS = (0.5, 0.8, 1.0, 1.2, 2.0, 5.0)
MIN_ACCURACY = 0.999
EDGES = 0.02
# A decision of the log: microseconds of Redis, key, allowed, in the order of each process.
LINE = struct.Struct("<QHB")


def main() -> int:
    """Drive, replay and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--decisions", type=int, default=1_020_000, help="of all processes")
    parser.add_argument("--keep", action="store_true", help="write RESULTS.md")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        url, number, count, limit, log = given.worker
        asyncio.run(work(url, int(number), int(count), Policies(int(limit)), Path(log)))
        return 0
    with tempfile.TemporaryDirectory(prefix="agentzero-bench-") as folder:
        # So that the loads are what they are called, whatever the machine can do.
        trial = drive(Path(folder) / "trial", CALIBRATION, Policies(10**6))
        a_second = len(trial) / ((trial[-1][0] - trial[0][0]) / 1e6)
        limit = round(a_second * WINDOW_SECONDS / KEYS / (sum(LOADS) / len(LOADS)))
        policies = Policies(max(LEAST_LIMIT, limit))
        lines = drive(Path(folder) / "run", given.decisions, policies)
    found = replay(lines, policies)
    report = describe(found, policies, (lines[-1][0] - lines[0][0]) / 1e6)
    sys.stdout.write(report)
    if given.keep:
        (HERE / "RESULTS.md").write_text(report, encoding="utf-8")
    return 0 if found.accuracy >= MIN_ACCURACY and found.excess <= 1 else 1


class Policies:
    """Those of a principal and of an address."""

    def __init__(self, limit: int) -> None:
        self.read = Policy("read", limit, WINDOW_SECONDS)
        self.address = Policy("address", ADDRESS_FACTOR * limit, WINDOW_SECONDS)

    def charges(self, key: int) -> tuple[Charge, Charge]:
        """Who is charged: a principal, and the address that it shares with others."""
        return Charge(self.read, f"r:{key}"), Charge(self.address, f"a:{key % ADDRESSES}")


def drive(folder: Path, decisions: int, policies: Policies) -> list[tuple[int, int, int]]:
    """Run the processes against a new Valkey; the lines of all logs in the order of time."""
    folder.mkdir()
    logs = [folder / f"{number}.log" for number in range(PROCESSES)]
    with running_redis(folder / "redis") as redis:
        program = [sys.executable, "-m", "benchmarks.limits", "--worker", redis.url]
        processes = [
            subprocess.Popen(  # noqa: S603 - ourselves
                [
                    *program,
                    *map(str, (number, decisions // PROCESSES, policies.read.limit, log)),
                ],
                cwd=ROOT,
            )
            for number, log in enumerate(logs)
        ]
        codes = [process.wait() for process in processes]
    assert codes == [0] * PROCESSES, codes
    return sorted(line for log in logs for line in LINE.iter_unpack(log.read_bytes()))


async def work(url: str, number: int, count: int, policies: Policies, log: Path) -> None:
    """Make `count` decisions and write each down."""
    # Nothing may be left out of the log, so a decision has all the time that it needs.
    connection = RedisConnection(url, timeout_seconds=60)
    limiter = RedisRateLimiter(connection, timeout_seconds=60)
    left = iter(range(count))
    with log.open("wb") as lines:

        async def decide(key: int) -> float:
            """One decision, written down; how long to wait."""
            verdict = await limiter.decide(policies.charges(key))
            lines.write(LINE.pack(verdict.decided_at_us, key, verdict.allowed))
            return verdict.wait_seconds

        async def call(seed: int) -> None:
            chosen = random.Random(seed)  # noqa: S311 - load, no secret
            for key, pause in load(chosen):
                if next(left, None) is None:
                    return
                wait = await decide(key)
                # Whoever was refused comes back at the very edge, with a burst.
                if wait and chosen.random() < EDGES:
                    await asyncio.sleep(min(wait, 1.0))
                    for _ in range(chosen.randrange(1, 12)):
                        if next(left, None) is None:
                            return
                        await decide(key)
                elif pause:
                    await asyncio.sleep(pause)

        await asyncio.gather(*(call(number * CALLERS + one) for one in range(CALLERS)))
    await connection.stop()


def load(chosen: random.Random) -> Iterator[tuple[int, float]]:
    """Keys, each asked for half to five times its limit; bursts, then a pause.

    A key belongs to a load. All keys are asked for by all processes.
    """
    weights = [LOADS[key % len(LOADS)] for key in range(KEYS)]
    while True:
        for key in chosen.choices(range(KEYS), weights, k=64):
            for _ in range(chosen.choice((1, 1, 1, 3, 10))):
                yield key, 0.0
        yield chosen.randrange(KEYS), 0.001


@dataclass(slots=True)
class Window:
    """The times at which units were taken, oldest first; `start` is the oldest that counts."""

    policy: Policy
    taken: list[int] = field(default_factory=list)
    start: int = 0

    def count(self, now: int) -> int:
        """How many count now."""
        edge = now - self.policy.window_us
        while self.start < len(self.taken) and self.taken[self.start] <= edge:
            self.start += 1
        return len(self.taken) - self.start


@dataclass(slots=True)
class Found:
    """What the replay found."""

    allowed: int = 0
    refused: int = 0
    false_allows: int = 0
    false_denials: int = 0
    excess: int = -(2**62)
    keys: set[int] = field(default_factory=set)

    @property
    def accuracy(self) -> float:
        """1 - (false allows + false denials) / decisions."""
        wrong = self.false_allows + self.false_denials
        return 1 - wrong / (self.allowed + self.refused)


def replay(lines: list[tuple[int, int, int]], policies: Policies) -> Found:
    """Hold every verdict against the definition: fewer than the limit in the window before it."""
    users = [Window(policies.read) for _ in range(KEYS)]
    places = [Window(policies.address) for _ in range(ADDRESSES)]
    found = Found()
    for now, key, allowed in lines:
        windows = (users[key], places[key % ADDRESSES])
        fits = all(one.count(now) < one.policy.limit for one in windows)
        found.keys.add(key)
        if allowed:
            found.allowed += 1
            found.false_allows += not fits
            for one in windows:
                one.taken.append(now)
                found.excess = max(found.excess, one.count(now) - one.policy.limit)
        else:
            found.refused += 1
            found.false_denials += fits
    return found


def describe(found: Found, policies: Policies, seconds: float) -> str:
    """The report."""
    decisions = found.allowed + found.refused
    return f"""# How exact the shared rate limits are

`python -m benchmarks.limits --keep`, {datetime.now(UTC):%Y-%m-%d},
Python {platform.python_version()} on {platform.machine()}; {PROCESSES} processes with {CALLERS}
callers each, one Valkey. Every decision charges a principal ({policies.read.limit} in
{WINDOW_SECONDS:g} s, asked for {min(LOADS):g} to {max(LOADS):g} times that) and its address
({policies.address.limit:,} in {WINDOW_SECONDS:g} s).

| | |
|---|---|
| decisions | {decisions:,} in {seconds:.0f} s |
| keys | {len(found.keys):,} |
| allowed | {found.allowed:,} |
| refused | {found.refused:,} |
| false allows | {found.false_allows} |
| false denials | {found.false_denials} |
| accuracy, 1 - (false allows + false denials) / decisions | {100 * found.accuracy:.4f} % |
| most allowed in any window, above the limit | {found.excess:+d} |
"""


if __name__ == "__main__":
    sys.exit(main())
