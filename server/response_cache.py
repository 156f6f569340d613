"""Answers that are given more than once (`x-cache` in the contract; docs/caching.md).

The cache stands behind authentication, limits and permission, so nobody reads what they may not
ask for. Without `vary: principal` the handler does not learn who asks (`server/rest.py`), so its
answer can't depend on that. Requests for one answer at one time wait for one making of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Final

import orjson

from hive.permissions import Principal
from hive.response_cache import ResponseStore
from server.answer_rules import CacheRule, read_cache_rule
from server.answers import Answer
from server.invalidation import Invalidation, Moment, Stamp
from server.operations import Operation

MAX_ENTRY_BYTES: Final = 1024 * 1024
SLACK_SECONDS: Final = 1.0
"""What the sending of an entry to a shared store may add to its life."""

Make = Callable[[], Awaitable[Answer]]


class ResponseCache:
    """The port `server.pipeline.CachesAnswers`.

    `shared` is what all nodes of this release look into; what is immutable stays in `own`.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        own: ResponseStore,
        shared: ResponseStore | None = None,
        *,
        tail: Callable[[], int],
    ) -> None:
        rules = {one.operation_id: read_cache_rule(one) for one in operations}
        self._rules = {name: rule for name, rule in rules.items() if rule is not None}
        self._own = own
        self._shared = shared or own
        live = [rule for rule in self._rules.values() if not rule.is_immutable]
        longest = max((rule.seconds for rule in live), default=0.0)
        self.invalidation = Invalidation(
            (pattern for rule in live for pattern in rule.events),
            tail,
            pending_seconds=longest + SLACK_SECONDS,
        )
        self._flights: dict[tuple[str, int, int], asyncio.Future[Answer | None]] = {}

    async def answer(
        self,
        operation: Operation,
        principal: Principal | None,
        arguments: Mapping[str, Any],
        make: Make,
    ) -> Answer:
        """Give a kept answer that is still true, or make one. Raises what `make` raises."""
        rule = self._rules.get(operation.operation_id)
        if rule is None:
            return await make()
        key = _key(operation, rule, principal, arguments)
        # Before anything is looked at: an answer must not be kept as newer than its beginning.
        moment = self.invalidation.look(rule.events)
        store = self._own if rule.is_immutable else self._shared
        kept = await store.find(key)
        if kept is not None:
            age = rule.seconds - kept.seconds_left
            answer = _read(kept.encoded, moment, age)
            if answer is not None:
                return answer
        return await self._make_once(key, rule, moment, make, store)

    async def _make_once(
        self, key: str, rule: CacheRule, moment: Moment, make: Make, store: ResponseStore
    ) -> Answer:
        flight = (key, moment.newest, moment.stamp.commits)
        making = self._flights.get(flight)
        if making is not None:
            # Shielded: one who leaves takes the answer from nobody.
            made = await asyncio.shield(making)
            # What failed for the first may not fail for the next.
            return await make() if made is None else made
        making = self._flights[flight] = asyncio.get_running_loop().create_future()
        answer: Answer | None = None
        began = time.monotonic()
        try:
            answer = await make()
            if _may_be_kept(answer):
                left = rule.seconds - (time.monotonic() - began)
                await store.keep(key, _write(answer, moment.stamp), seconds=left)
        finally:
            del self._flights[flight]
            making.set_result(answer if answer is not None and _may_be_kept(answer) else None)
        return answer


def _key(
    operation: Operation,
    rule: CacheRule,
    principal: Principal | None,
    arguments: Mapping[str, Any],
) -> str:
    caller: list[Any] = []
    if rule.by_principal and principal is not None:
        # What a handler can ask of its caller, and not only who it is.
        caller = [
            principal.principal_id,
            principal.role,
            principal.confined,
            principal.agent_id or "",
            principal.session_id or "",
            principal.key_id or "",
            sorted(principal.permissions),
        ]
    asked = orjson.dumps([arguments, caller], option=orjson.OPT_SORT_KEYS)
    return f"{operation.operation_id}:{blake2b(asked, digest_size=20).hexdigest()}"


def _may_be_kept(answer: Answer) -> bool:
    return (
        answer.status == HTTPStatus.OK
        and "Set-Cookie" not in answer.headers
        and len(answer.body) <= MAX_ENTRY_BYTES
    )


def _write(answer: Answer, stamp: Stamp) -> bytes:
    head = [stamp.node, stamp.tail, stamp.commits, dict(answer.headers), answer.content_type]
    return orjson.dumps(head) + b"\n" + answer.body


def _read(encoded: bytes, moment: Moment, age: float) -> Answer | None:
    head, _, body = encoded.partition(b"\n")
    try:
        node, tail, commits, headers, content_type = orjson.loads(head)
    except ValueError:
        # Nobody but this class writes here, but the store is another process.
        return None
    if not moment.admits(Stamp(node, tail, commits)):
        return None
    aged = {**headers, "Age": str(max(0, int(age)))}
    return Answer(HTTPStatus.OK.value, aged, body, content_type)


__all__ = ["ResponseCache"]
