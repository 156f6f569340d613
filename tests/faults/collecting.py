"""Reads all that the server has once a run is over, and keeps what is to be judged."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

from tests.faults.client import Client
from tests.faults.history import Found

TASKS = "/api/v1/tasks"
EVENTS = "/api/v1/events"
POLL_SECONDS = 0.1
SETTLED_SECONDS = 2.0
READERS = 8
TOLD = ("id", "seq", "subject", "type", "time", "actor")
JUDGED = ("version", "status", "agent_id", "progress", "error")
"""What is kept of the data of an event that is not the newest of its subject."""


async def collect(client: Client, key: str) -> Found:
    """Everything, once the log has come to rest."""
    loop = asyncio.get_running_loop()
    newest, since = "", loop.time()
    while loop.time() - since < SETTLED_SECONDS:
        answer = await client.insist("GET", f"{EVENTS}?order=desc&limit=1", key)
        seq = answer.body[0]["seq"] if answer.body else ""
        if seq != newest:
            newest, since = seq, loop.time()
        await asyncio.sleep(POLL_SECONDS)
    tasks = await client.read_all(TASKS, key, {})
    events: list[dict[str, Any]] = []
    last: dict[str, dict[str, Any]] = {}
    async for page in client.pages(EVENTS, key, {"after": 0}):
        events += (_judged(event, last) for event in page)
    return Found(tasks, events, await _read_logs(client, key, tasks))


def _judged(event: dict[str, Any], last: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The event without what nobody looks at; a long run has very many of them."""
    kept = {name: event[name] for name in TOLD if name in event}
    for name in ("subject", "type", "actor"):
        if name in kept:
            kept[name] = sys.intern(kept[name])
    before = last.get(kept["subject"])
    if before is not None:
        before["data"] = {name: before["data"][name] for name in JUDGED if name in before["data"]}
    kept["data"] = event["data"]
    last[kept["subject"]] = kept
    return kept


async def _read_logs(
    client: Client, key: str, tasks: Iterable[dict[str, Any]]
) -> dict[str, list[str]]:
    logs: dict[str, list[str]] = {}
    having = iter([task["task_id"] for task in tasks if task["log_count"]])

    async def read() -> None:
        for task_id in having:
            answer = await client.insist("GET", f"{TASKS}/{task_id}/logs?limit=1000", key)
            logs[task_id] = [line["message"] for line in answer.body["logs"]]

    await asyncio.gather(*(read() for _ in range(READERS)))
    return logs
