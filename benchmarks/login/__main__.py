"""How long a login takes, and what 20 at once cost everybody else: `python -m benchmarks.login`.

Starts a server of its own with its mongod on ephemeral ports, measures with k6 on the same machine,
prints the figures and, with `--keep`, writes them to RESULTS.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.k6 import run_k6
from tests.servers import ServerProcess, running_mongod

HERE = Path(__file__).resolve().parent
PASSWORD = "correct horse battery staple"  # noqa: S105 - of users that live for two minutes
LOGINS = 20
TASKS = 50
MAX_LOGIN_P95_MS = 100
MAX_ADDED_P99_MS = 20


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.login", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each turn (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="of both turns (default 3)")
    parser.add_argument("--rate", type=int, default=50, help="of other requests (default 50/s)")
    parser.add_argument("--keep", action="store_true", help="write RESULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentzero-bench-") as folder:
        figures = measure(Path(folder), given.seconds, given.rounds, given.rate)
    report = describe(figures, given)
    sys.stdout.write(report)
    if given.keep:
        (HERE / "RESULTS.md").write_text(report, encoding="utf-8")


def measure(folder: Path, seconds: int, rounds: int, rate: int) -> dict[str, Any]:
    """Run k6 against a new server; the figures of login.js, in milliseconds."""
    with running_mongod(folder) as uri:
        server = ServerProcess(
            folder / "data",
            MONGODB_URI=uri,
            ADMIN_PASSWORD=PASSWORD,
            RATE_LIMIT_ENABLED="false",
        )
        try:
            url = server.start()
            environment = {
                "URL": url,
                "TOKEN": prepare(url),
                "PASSWORD": PASSWORD,
                "SUMMARY": str(folder / "figures.json"),
                "SECONDS": str(seconds),
                "ROUNDS": str(rounds),
                "LOGINS": str(LOGINS),
                "RATE": str(rate),
            }
            sys.stderr.write(run_k6(HERE / "login.js", environment))
        finally:
            server.stop()
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert figures["failed"] == 0, f"{figures['failed']} requests failed"
    return figures


def prepare(url: str) -> str:
    """Make the users who log in and tasks to list; the admin's access token."""
    with httpx.Client(base_url=url, timeout=30) as client:
        credentials = {"username": "admin", "password": PASSWORD}
        token = created(client.post("/api/v1/auth/login", json=credentials))["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        for number in range(LOGINS):
            user = {"username": f"bench-{number}", "password": PASSWORD, "role": "user"}
            created(client.post("/api/v1/users", json=user))
        for number in range(TASKS):
            created(client.post("/api/v1/tasks", json={"name": f"task {number}"}))
    return str(token)


def created(response: httpx.Response) -> Any:
    """The JSON of a success."""
    response.raise_for_status()
    return response.json()


def describe(figures: dict[str, Any], given: argparse.Namespace) -> str:
    """The figures as a page."""
    command = f"python -m benchmarks.login --seconds {given.seconds} --rounds {given.rounds}"
    added = figures["other_beside"]["p(99)"] - figures["other_alone"]["p(99)"]
    titles = {
        "login_idle": "a login, nothing else running",
        "login_rush": f"a login, {LOGINS} at once",
        "other_alone": f"other requests, {given.rate}/s, no logins",
        "other_beside": f"other requests, {given.rate}/s, beside {LOGINS} logins at once",
    }
    rows = "".join(
        f"| {title} | {each['count']:,.0f} | {each['med']:.1f} | {each['p(95)']:.1f} "
        f"| {each['p(99)']:.1f} | {each['max']:.1f} |\n"
        for title, each in ((title, figures[name]) for name, title in titles.items())
    )
    idle = figures["login_idle"]["p(95)"]
    return (
        "# Logins\n\n"
        f"`{command} --rate {given.rate} --keep`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{os.cpu_count()} cores for server, mongod and k6, Python {platform.python_version()}, "
        f"load average before the end {os.getloadavg()[0]:.1f}. Milliseconds, as k6 saw them.\n\n"
        "| what | count | median | p95 | p99 | most |\n|---|---|---|---|---|---|\n"
        f"{rows}\n"
        f"- p95 of a login on an idle server: {idle:.1f} ms ({MAX_LOGIN_P95_MS} ms are wanted: "
        f"{'held' if idle < MAX_LOGIN_P95_MS else 'missed'}).\n"
        f"- p99 of other requests beside {LOGINS} logins: {added:+.1f} ms ({MAX_ADDED_P99_MS} ms "
        f"are wanted: {'held' if added <= MAX_ADDED_P99_MS else 'missed'}).\n"
        f"- Other requests that k6 could not start in time: {figures['dropped']:,.0f}.\n"
    )


if __name__ == "__main__":
    main()
