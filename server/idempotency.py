"""Carries a request with an `Idempotency-Key` out once, and gives its answer again.

The answer is kept before it is sent: one that somebody has seen is the one that every repetition
gets. Kept are successes, and refusals by the state of things (404, 409, 410, 422). After anything
else (401, 403, 503, a fault) a repetition runs again, under the identifiers that were chosen the
first time; so it does after the death of whoever ran it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import orjson
from tornado.httputil import HTTPHeaders
from typeid import TypeID

from hive.audit import holds_secret
from hive.errors import Unavailable, WriteConflict
from hive.idempotency import (
    Chosen,
    Claim,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    IdempotencyStore,
    KeptAnswer,
    KeyedRequest,
    Runner,
    SecretNotReplayed,
    Seed,
)
from hive.permissions import Principal
from server.answers import Answer
from server.contract import JSON, Operation
from server.problems import status_of

if TYPE_CHECKING:
    from server.rest import RestHandler

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotency-Replayed": "true"}
KEPT_REFUSALS: Final = frozenset({404, 409, 410, 422})
NONCE_BYTES: Final = 32
_TAKEN_OVER: Final = 2
_ESCAPED = re.compile(r"\\(.)")


class Idempotency:
    """One for each life of a node; `key` is the same on every node.

    `node_id` belongs to a data directory, which one server uses at a time.
    """

    def __init__(self, store: IdempotencyStore, *, key: bytes, node_id: str) -> None:
        self._store = store
        self._key = key
        self._node_id = node_id
        self._boot = secrets.token_hex(8)
        self._under_way: Counter[str] = Counter()

    async def answer(
        self,
        exchange: RestHandler,
        operation: Operation,
        principal: Principal,
        make: Callable[[Chosen | None], Awaitable[Answer]],
    ) -> Answer:
        """Make the answer, or give the one that was kept. Raises what `make` raises.

        Raises IdempotencyInFlight, IdempotencyKeyReused, SecretNotReplayed, Unavailable.
        """
        key = read_key(exchange.request.headers)
        if key is None:
            return await make(None)
        request = self._describe(exchange, operation, principal, key)
        record_id = request.record_id
        is_alone = not self._under_way[record_id]
        self._under_way[record_id] += 1
        try:
            runner = Runner(exchange.call.call_id, self._node_id, self._boot, is_alone)
            claim = await self._claim(request, runner)
            if not claim.is_held:
                return _give_again(exchange, request, claim)
            answer = await self._carry_out(exchange, request, claim, make)
            return await self._keep(exchange, operation, request, answer)
        finally:
            self._under_way[record_id] -= 1
            if not self._under_way[record_id]:
                del self._under_way[record_id]

    async def _claim(self, request: KeyedRequest, runner: Runner) -> Claim:
        return await self._store.claim(
            request, runner, TypeID().suffix, secrets.token_bytes(NONCE_BYTES)
        )

    async def _carry_out(
        self,
        exchange: RestHandler,
        request: KeyedRequest,
        claim: Claim,
        make: Callable[[Chosen | None], Awaitable[Answer]],
    ) -> Answer:
        try:
            return await make(SeededChoice(claim.suffix, claim.nonce, self._key))
        except Exception as error:
            if _is_kept(error):
                return exchange.refuse(error)
            # Whether anything was done is not known; the next one finds it by its identifier.
            with suppress(Unavailable):
                await self._store.release(request.record_id, exchange.call.call_id)
            raise

    async def _keep(
        self, exchange: RestHandler, operation: Operation, request: KeyedRequest, answer: Answer
    ) -> Answer:
        call_id = exchange.call.call_id
        kept = _to_keep(operation, answer)
        for _ in range(_TAKEN_OVER):
            if await self._store.finish(request.record_id, call_id, kept):
                return answer
            # We were slow, and somebody thought that we were gone: only one answer is given.
            runner = Runner(call_id, self._node_id, self._boot, is_alone=False)
            claim = await self._claim(request, runner)
            if not claim.is_held:
                return _give_again(exchange, request, claim)
        raise IdempotencyInFlight

    def _describe(
        self, exchange: RestHandler, operation: Operation, principal: Principal, key: str
    ) -> KeyedRequest:
        sent = exchange.request
        return KeyedRequest(
            record_id=self._digest(principal.principal_id, key),
            # A body may hold a password: without our key nobody can try which one.
            fingerprint=self._digest(
                operation.operation_id,
                sent.path,
                sent.query,
                hashlib.sha256(exchange.body).hexdigest(),
            ),
            principal_id=principal.principal_id,
            operation_id=operation.operation_id,
        )

    def _digest(self, *parts: str) -> str:
        return hmac.digest(self._key, orjson.dumps(parts), "sha256").hex()


class SeededChoice:
    """The port `hive.idempotency.Chosen`: the same seed gives the same, in the same order."""

    def __init__(self, suffix: str, nonce: bytes, key: bytes) -> None:
        self._suffix = suffix
        self._nonce = nonce
        self._key = key
        self._given: Counter[str] = Counter()

    def new_id(self, prefix: str) -> str:
        """The next identifier of this kind."""
        first = TypeID(prefix, self._suffix)
        number = first.uuid.int + self._given[prefix]
        self._given[prefix] += 1
        return str(TypeID.from_uuid(type(first.uuid)(int=number), prefix))

    def new_seed(self, prefix: str) -> Seed:
        """The next identifier with bytes that nobody can make again once the nonce is forgotten."""
        identifier = self.new_id(prefix)
        purpose = b"secret:" + identifier.encode()
        return Seed(identifier, hmac.digest(self._key, self._nonce + purpose, "sha256"))


def read_key(headers: HTTPHeaders) -> str | None:
    """The key of a request that matches the contract; a String of RFC 9651 without its quotes."""
    given = headers.get(HEADER)
    if given is None or not given.startswith('"'):
        return given
    return _ESCAPED.sub(r"\1", given[1:-1])


def _is_kept(error: Exception) -> bool:
    return status_of(error) in KEPT_REFUSALS and not isinstance(error, WriteConflict)


def _to_keep(operation: Operation, answer: Answer) -> KeptAnswer:
    withheld = _holds_secret(operation, answer)
    return KeptAnswer(
        answer.status,
        dict(answer.headers),
        b"" if withheld else answer.body,
        answer.content_type,
        answer.code,
        withheld=withheld,
    )


def _holds_secret(operation: Operation, answer: Answer) -> bool:
    declared = operation.responses.get(answer.status)
    members = declared.secret_members if declared and answer.content_type == JSON else frozenset()
    if members and members & orjson.loads(answer.body).keys():
        return True
    # The contract may have forgotten one.
    return holds_secret(answer.body.decode())


def _give_again(exchange: RestHandler, request: KeyedRequest, claim: Claim) -> Answer:
    if claim.fingerprint != request.fingerprint:
        raise IdempotencyKeyReused
    kept = claim.answer
    if kept is None:
        raise IdempotencyInFlight
    exchange.call.learn(None, kept.headers)
    if kept.withheld:
        raise SecretNotReplayed(kept.headers.get("Location"))
    headers = {**kept.headers, **REPLAYED}
    return Answer(kept.status, headers, kept.body, kept.content_type, kept.code)


__all__ = ["HEADER", "Idempotency", "SeededChoice", "read_key"]
