"""An agent of the demo, a process of its own: `python -m server.demo.agent NAME`.

It profiles files by path, and merges the profiles of a task's dependencies into the report. Server
and identity come from the environment, as for every agent.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from agentzero_client import (
    Agent,
    AgentIdentityError,
    AgentStoppedError,
    TaskCancelledError,
    TaskContext,
    TaskError,
)
from server.demo.crew import SLOTS, capabilities_of
from server.demo.csv_profile import profile_csv
from server.demo.merging import MERGE, merge_dependencies
from server.demo.reading import Cancelled, UnreadableFile
from server.demo.sources import CSV, TEXT, path_from_text
from server.demo.text_profile import profile_text

LARGEST_RESULT_BYTES = 1_000_000
DRAIN_SECONDS = 5.0

FAILED = 1
TURNED_AWAY = 3


def make_agent(name: str, leader: str) -> Agent:
    """The agent with its handlers; `leader` is the first agent of its crew."""
    agent = Agent(
        name,
        capabilities=capabilities_of(leader),
        slots=SLOTS,
        agent_type="demo",
        drain_seconds=DRAIN_SECONDS,
        trust_env=False,
    )

    @agent.task(TEXT)
    def profile_text_file(context: TaskContext, *, path: str, name: str) -> dict[str, Any]:
        return _profile(profile_text, context, path, name)

    @agent.task(CSV)
    def profile_csv_file(context: TaskContext, *, path: str, name: str) -> dict[str, Any]:
        return _profile(profile_csv, context, path, name)

    @agent.task(MERGE)
    async def merge_reports(context: TaskContext, *, output: str | None = None) -> dict[str, Any]:
        return await merge_dependencies(context, output)

    return agent


def _profile(
    profile: Callable[..., dict[str, Any]], context: TaskContext, path: str, name: str
) -> dict[str, Any]:
    context.log(f"Reading {name}.")

    def report(fraction: float) -> None:
        if fraction < 1.0:  # The end of the task says it all.
            context.progress(fraction)

    try:
        found = profile(
            path_from_text(path),
            progress=report,
            cancelled=lambda: context.cancelled,
        )
    except Cancelled:
        raise TaskCancelledError from None
    except UnreadableFile as error:
        raise TaskError("unreadable-file", str(error), retryable=False) from error
    size = len(json.dumps(found, ensure_ascii=False).encode())
    if size > LARGEST_RESULT_BYTES:
        columns = f", for {len(found['columns']):,} columns" if "columns" in found else ""
        message = f"The profile of {name} is too large: {size:,} bytes{columns}."
        raise TaskError("profile-too-large", message, retryable=False)
    return found


def main(name: str, leader: str) -> int:
    """Work until SIGTERM; the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        make_agent(name, leader).run()
    except (AgentIdentityError, AgentStoppedError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the last words of a program
        return TURNED_AWAY
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
