"""Requests that are sent again, and what came of them."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Any

import httpx

from tests.api.running import NOBODY_HAS_THIS, Api, RunningNode, found

TASKS = "/api/v1/tasks"
REPLAYED = "idempotency-replayed"


def new_key() -> str:
    """A key that nobody has used."""
    return str(uuid.uuid4())


def work(**more: Any) -> dict[str, Any]:
    """A task that nobody can run, under a name of its own."""
    return {"name": f"once-{new_key()}", "required_capabilities": [NOBODY_HAS_THIS], **more}


async def send(api: Api, path: str, body: dict[str, Any], key: str) -> httpx.Response:
    """POST under the key."""
    return await api.post(path, json=body, headers={"Idempotency-Key": key})


def code_of(answer: httpx.Response) -> str:
    """`made`, or why not."""
    return "made" if answer.is_success else str(answer.json()["code"])


async def crowd(
    node: RunningNode, api: Api, path: str, body: dict[str, Any], key: str, *, size: int
) -> list[httpx.Response]:
    """So many at once under one key; on a busy machine some are shed, or a store is too slow."""
    unjudged = node.client(api.credential, judged=False)
    answers = await asyncio.gather(*(send(unjudged, path, body, key) for _ in range(size)))
    codes = Counter(code_of(answer) for answer in answers)
    assert codes.keys() <= {"made", "idempotency-in-flight", "overloaded", "unavailable"}, codes
    for answer in answers:
        if code_of(answer) == "idempotency-in-flight":
            assert answer.headers["retry-after"] == "1"
    return answers


async def tasks_named(api: Api, name: str) -> list[str]:
    """The identifiers of the tasks of this name."""
    return [task["task_id"] for task in await api.ok("GET", f"{TASKS}?name={name}")]


async def events_of(api: Api, subject: str, kind: str) -> list[dict[str, Any]]:
    """The events of a subject once one of this type is there."""

    async def look() -> list[dict[str, Any]]:
        events = await api.pages(f"/api/v1/events?subject={subject}")
        return [event for event in events if event["type"] == kind]

    return await found(look, bool, f"{kind} of {subject}")


def same(first: httpx.Response, again: httpx.Response) -> bool:
    """Whether the repetition got the answer, and was told so."""
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    assert again.headers.get("location") == first.headers.get("location")
    return (again.status_code, again.content) == (first.status_code, first.content)
