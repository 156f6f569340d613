"""Makes what takes new events from node to node, where the nodes have a Redis in common."""

from __future__ import annotations

from hashlib import blake2b

from server.doorbell import HubDoorbell
from server.hub import Hub
from server.keys import Keys
from server.settings import Settings
from storage.redis.client import RedisConnection
from storage.redis.doorbell import RedisDoorbell

PREFIX = "agentzero:events:"


def make_doorbell(
    settings: Settings, keys: Keys, hub: Hub, redis: RedisConnection | None
) -> HubDoorbell | None:
    """The doorbell of this installation; None without Redis."""
    if redis is None:
        return None
    # Two hives in one Redis are told apart by their database, and by their secret.
    installation = blake2b(b"channel", digest_size=12, key=keys.doorbell).hexdigest()
    channel = f"{PREFIX}{settings.mongodb_database}:{installation}"
    url = settings.redis_url.get_secret_value()
    return HubDoorbell(RedisDoorbell(redis, url, channel=channel, key=keys.doorbell), hub)
