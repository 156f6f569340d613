"""Makes the response cache of a node as the settings want it."""

from __future__ import annotations

import importlib.metadata
from hashlib import blake2b

from server.bootstrap.stores import Store
from server.contract import Contract
from server.hub import Hub
from server.keys import Keys
from server.response_cache import ResponseCache
from server.settings import Settings
from storage.memory.response_cache import MemoryResponses
from storage.redis.client import RedisConnection
from storage.redis.response_cache import RedisResponses


def open_response_cache(
    settings: Settings,
    keys: Keys,
    contract: Contract,
    store: Store,
    hub: Hub,
    redis: RedisConnection | None,
) -> ResponseCache | None:
    """Make it, and have it hear of the events and of this node's changes; None when it is off."""
    if settings.response_cache == "off":
        return None
    shared = None
    if settings.response_cache == "redis" and redis is not None:
        # Nodes of one installation and of one release, and nobody else.
        release = importlib.metadata.version("agentzero-api").encode()
        told = release + b"\0" + contract.read("openapi.yaml")
        installation = blake2b(told, digest_size=12, key=keys.cursors).hexdigest()
        prefix = f"agentzero:answer:{settings.mongodb_database}:{installation}:"
        shared = RedisResponses(redis, prefix)
    cache = ResponseCache(
        contract.operations.values(), MemoryResponses(), shared, tail=lambda: hub.tail
    )
    hub.subscribe(cache.invalidation.heard)
    for resources in (store.agents, store.tasks, store.hive):
        resources.on_commit(cache.invalidation.committed)
    return cache
