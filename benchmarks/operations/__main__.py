"""How long every operation takes at 100 requests a second: `python -m benchmarks.operations`.

Starts a server of its own with its mongod on ephemeral ports, makes what the requests need, sends
them with k6 from the same machine in an order that is the same each time, prints a table by
operation and, with `--keep`, writes it to RESULTS.md beside this file. Rate limits are off.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.k6 import run_k6
from benchmarks.operations.plan import PASSWORD, Plan, Preparation
from benchmarks.operations.shares import HASHING, SHARES
from server.contract import Contract
from server.resources import openapi_path
from tests.servers import ServerProcess, running_mongod

HERE = Path(__file__).resolve().parent
MAX_P95_MS = 200
HASHING_PER_SECOND = 2
SETTLE_SECONDS = 2.0


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=__doc__)
    parser.add_argument("--rate", type=int, default=100, help="requests a second (default 100)")
    parser.add_argument("--seconds", type=int, default=120, help="of sending (default 120)")
    parser.add_argument("--keep", action="store_true", help="write RESULTS.md")
    given = parser.parse_args()
    check_complete()
    with tempfile.TemporaryDirectory(prefix="agentzero-bench-") as folder:
        figures = measure(Path(folder), given.rate, given.seconds)
    report = describe(figures, given)
    sys.stdout.write(report)
    if given.keep:
        (HERE / "RESULTS.md").write_text(report, encoding="utf-8")


def check_complete() -> None:
    """Fail when an operation of the contract is in no list, or one that is none."""
    measured = SHARES.keys() | HASHING.keys()
    contract = Contract.load(openapi_path()).operations.keys()
    assert measured == contract, f"not in the plan, or not in the contract: {measured ^ contract}"


def measure(folder: Path, rate: int, seconds: int) -> dict[str, Any]:
    """Run k6 against a new server; the figures of operations.js, in milliseconds."""
    with running_mongod(folder) as uri:
        server = ServerProcess(
            folder / "data",
            MONGODB_URI=uri,
            ADMIN_PASSWORD=PASSWORD,
            RATE_LIMIT_ENABLED="false",
            LEASE_SECONDS="3600",
        )
        try:
            url = server.start()
            plan = prepare(url, rate * seconds, HASHING_PER_SECOND * seconds)
            (folder / "plan.json").write_text(json.dumps(asdict(plan)), encoding="utf-8")
            # What the preparation left to do (events, audit records) is not what is measured.
            time.sleep(SETTLE_SECONDS)
            said = run_k6(
                HERE / "operations.js",
                {
                    "URL": url,
                    "PLAN": str(folder / "plan.json"),
                    "SUMMARY": str(folder / "figures.json"),
                    "RATE": str(rate),
                    "HASHING_PER_SECOND": str(HASHING_PER_SECOND),
                },
            )
            sys.stderr.write(said)
        finally:
            server.stop()
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    return figures


def prepare(url: str, count: int, hashing: int) -> Plan:
    """Make what the requests need; the requests."""
    with httpx.Client(base_url=url, timeout=30) as client:
        credentials = {"username": "admin", "password": PASSWORD}
        answer = client.post("/api/v1/auth/login", json=credentials).raise_for_status()
        return Preparation(client, answer.json()["access_token"]).plan(count, hashing)


def describe(figures: dict[str, Any], given: argparse.Namespace) -> str:
    """The figures as a page."""
    operations = Contract.load(openapi_path()).operations
    measured: dict[str, dict[str, float]] = figures["operations"]
    reads = [name for name in SHARES if not operations[name].mutates]
    writes = [name for name in SHARES if operations[name].mutates]
    slowest = max(SHARES, key=lambda name: measured[name]["p(95)"])
    worst = measured[slowest]["p(95)"]
    whole = figures["mixed"]
    return (
        "# Every operation\n\n"
        f"`python -m benchmarks.operations --rate {given.rate} --seconds {given.seconds} --keep`, "
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores for server, mongod and k6, "
        f"Python {platform.python_version()}, load average before the end "
        f"{os.getloadavg()[0]:.1f}. Milliseconds, as k6 saw them.\n\n"
        f"{given.rate} requests/s of all operations together, {whole['count']:,.0f} in all, and "
        f"beside them {HASHING_PER_SECOND}/s that hash passwords. "
        f"Failed: {figures['failed']:,.0f}; not started in time: {figures['dropped']:,.0f}.\n\n"
        f"- Highest p95: {worst:.1f} ms, `{slowest}` ({MAX_P95_MS} ms are allowed: "
        f"{'held' if worst < MAX_P95_MS and not figures['failed'] else 'missed'}).\n"
        f"- All together: p50 {whole['med']:.1f}, p95 {whole['p(95)']:.1f}, "
        f"p99 {whole['p(99)']:.1f}.\n"
        f"\n## Reads\n\n{table(reads, measured)}"
        f"\n## Writes\n\n{table(writes, measured)}"
        f"\n## Password hashing, slow on purpose\n\n{table(list(HASHING), measured)}"
    )


def table(names: list[str], measured: dict[str, dict[str, float]]) -> str:
    """One row for each operation."""
    rows = "".join(
        f"| {name} | {each['count']:,.0f} | {each['med']:.1f} | {each['p(95)']:.1f} "
        f"| {each['p(99)']:.1f} | {each['max']:.1f} |\n"
        for name, each in ((name, measured[name]) for name in names)
    )
    return f"| operation | count | p50 | p95 | p99 | most |\n|---|---|---|---|---|---|\n{rows}"


if __name__ == "__main__":
    main()
