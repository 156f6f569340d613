"""The nodes in MongoDB: one document each, written by its node alone, with the database's time.

Documents of nodes that were killed are deleted by a TTL index. Nothing decides by them: duties are
held by leases (`leadership.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pymongo import ASCENDING, IndexModel

from hive.nodes import ALIVE_SECONDS, LISTED_SECONDS, NodeInfo, NodeSign
from storage.mongo.client import Database, Document, guarded, make_indexes

INDEXES: Final = (
    IndexModel([("seen_at", ASCENDING)], name="expiry", expireAfterSeconds=int(LISTED_SECONDS)),
)


class MongoNodes:
    """The port `hive.nodes.NodeRegistry`."""

    def __init__(self, database: Database) -> None:
        self._nodes = database["nodes"]

    async def prepare(self) -> None:
        """Make the index. Idempotent."""
        await make_indexes(self._nodes, INDEXES)

    @guarded
    async def sign(self, node: NodeSign) -> None:
        same_boot = {"$eq": ["$boot", {"$literal": node.boot}]}
        said: Document = {
            "boot": {"$literal": node.boot},
            "version": {"$literal": node.version},
            "address": {"$literal": node.address},
            "duties": {"$literal": list(node.duties)},
            "is_draining": {"$literal": node.is_draining},
            "started_at": {"$cond": [same_boot, "$started_at", "$$NOW"]},
            "seen_at": "$$NOW",
        }
        await self._nodes.update_one({"_id": node.node_id}, [{"$set": said}], upsert=True)

    @guarded
    async def leave(self, node_id: str, boot: str) -> None:
        await self._nodes.delete_one({"_id": node_id, "boot": boot})

    @guarded
    async def list(self) -> Sequence[NodeInfo]:
        silence = {"$subtract": ["$$NOW", "$seen_at"]}
        found = await self._nodes.aggregate(
            [
                {"$set": {"silence": silence}},
                {"$match": {"silence": {"$lte": int(LISTED_SECONDS * 1000)}}},
                {"$sort": {"_id": ASCENDING}},
            ]
        )
        return [_read(document) async for document in found]


def _read(document: dict[str, Any]) -> NodeInfo:
    return NodeInfo(
        node_id=document["_id"],
        version=document["version"],
        address=document["address"],
        duties=tuple(document["duties"]),
        started_at=document["started_at"],
        seen_at=document["seen_at"],
        is_alive=document["silence"] <= ALIVE_SECONDS * 1000,
        is_draining=document["is_draining"],
    )
