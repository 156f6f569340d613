"""Requests under an `Idempotency-Key`: one document each, deleted by MongoDB when its time is over.

A document says what the request is (`fingerprint`, `principal_id`, `operation_id`, `expires_at`),
its seed (`suffix`, and `nonce` until it is answered), who carries it out until then (`call_id`,
`node_id`, `boot`, `held_until`), and what came of it (`answer`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from hive.changes import After
from hive.errors import Unavailable
from hive.idempotency import (
    HELD_SECONDS,
    KEPT_SECONDS,
    Claim,
    KeptAnswer,
    KeyedRequest,
    Runner,
)
from storage.mongo.changes import expression
from storage.mongo.client import Database, Document, guarded, make_indexes

ATTEMPTS: Final = 5

INDEXES = (IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0),)


class MongoIdempotency:
    """The port `hive.idempotency.IdempotencyStore`."""

    def __init__(
        self,
        database: Database,
        *,
        kept_seconds: float = KEPT_SECONDS,
        held_seconds: float = HELD_SECONDS,
    ) -> None:
        self._requests = database["idempotency"]
        self._kept_seconds = kept_seconds
        self._held_seconds = held_seconds

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await make_indexes(self._requests, INDEXES)

    @guarded
    async def claim(
        self, request: KeyedRequest, runner: Runner, suffix: str, nonce: bytes
    ) -> Claim:
        held = {
            "call_id": _literal(runner.call_id),
            "node_id": _literal(runner.node_id),
            "boot": _literal(runner.boot),
            "held_until": expression(After(self._held_seconds)),
        }
        new = {
            "_id": "$_id",
            "fingerprint": _literal(request.fingerprint),
            "principal_id": _literal(request.principal_id),
            "operation_id": _literal(request.operation_id),
            "expires_at": expression(After(self._kept_seconds)),
            "suffix": _literal(suffix),
            "nonce": _literal(nonce),
            **held,
        }
        taken = {"$mergeObjects": ["$$ROOT", held]}
        given_up = {"$and": [_same(request), _unanswered(), {"$or": _gone(runner)}]}
        kept = {"$cond": [given_up, taken, "$$ROOT"]}
        found = await self._upsert(
            request.record_id, [{"$replaceWith": {"$cond": [_is_new(), new, kept]}}]
        )
        return Claim(
            fingerprint=found["fingerprint"],
            is_held=found.get("call_id") == runner.call_id,
            suffix=found["suffix"],
            nonce=found.get("nonce", b""),
            answer=KeptAnswer(**found["answer"]) if "answer" in found else None,
        )

    @guarded
    async def finish(self, record_id: str, call_id: str, answer: KeptAnswer) -> bool:
        done = await self._requests.update_one(
            {"_id": record_id, "call_id": call_id},
            {
                "$set": {"answer": {**asdict(answer), "headers": dict(answer.headers)}},
                "$unset": {"nonce": 1, "call_id": 1, "node_id": 1, "boot": 1, "held_until": 1},
            },
        )
        return done.matched_count == 1

    @guarded
    async def release(self, record_id: str, call_id: str) -> None:
        await self._requests.update_one(
            {"_id": record_id, "call_id": call_id},
            [{"$set": {"held_until": "$$NOW"}}],
        )

    async def _upsert(self, record_id: str, pipeline: list[Document]) -> Document:
        for _ in range(ATTEMPTS):
            try:
                document = await self._requests.find_one_and_update(
                    {"_id": record_id}, pipeline, upsert=True, return_document=ReturnDocument.AFTER
                )
            except DuplicateKeyError:
                # Two of the first at once: the one that lost finds what the other one wrote.
                continue
            if document is not None:
                return document
        raise Unavailable(store="mongodb", reason="too many claims of one key at once")


def _is_new() -> Document:
    """Nothing is there, or what is there is too old to count: MongoDB deletes once a minute."""
    missing = {"$eq": [{"$type": "$fingerprint"}, "missing"]}
    return {"$or": [missing, {"$lte": ["$expires_at", "$$NOW"]}]}


def _same(request: KeyedRequest) -> Document:
    return {"$eq": ["$fingerprint", _literal(request.fingerprint)]}


def _unanswered() -> Document:
    return {"$eq": [{"$type": "$answer"}, "missing"]}


def _gone(runner: Runner) -> list[Document]:
    """The ways in which whoever holds a request is known not to carry it out any more."""
    same_node = {"$eq": ["$node_id", _literal(runner.node_id)]}
    same_boot = {"$eq": ["$boot", _literal(runner.boot)]}
    ways: list[Document] = [
        {"$lte": ["$held_until", "$$NOW"]},
        # A node has its data directory for itself: another life of it is over.
        {"$and": [same_node, {"$not": [same_boot]}]},
    ]
    if runner.is_alone:
        ways.append({"$and": [same_node, same_boot]})
    return ways


def _literal(value: Any) -> Document:
    return {"$literal": value}
