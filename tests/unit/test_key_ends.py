"""What a change of an API key does to its connections, by what the store says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from hive.api_key_ports import SeenKey
from hive.api_keys import KeyStatus
from hive.errors import Unavailable
from hive.identity import ApiKey, PrincipalKind
from hive.permissions import Role
from server.key_ends import KeyEnds
from server.peers import Peers
from tests.servers import eventually

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def seen(status: KeyStatus, expires_at: datetime | None = None) -> SeenKey:
    """A key of this status."""
    kind, role = PrincipalKind.USER, Role.USER
    key = ApiKey("key_1", "k", "azk_", kind, role, frozenset(), NOW, "usr_1", None, expires_at)
    return SeenKey(key, status)


@dataclass
class Store:
    """Says one thing, and how often it was asked."""

    answer: SeenKey | None
    down: bool = False
    asked: int = 0

    async def find(self, key_id: str) -> SeenKey | None:
        """The key."""
        self.asked += 1
        if self.down:
            raise Unavailable(key_id=key_id)
        return self.answer


@dataclass
class Connections:
    """Notes what is done to those of `key_1`."""

    done: list[tuple[str, object]] = field(default_factory=list)

    def has(self, key_id: str) -> bool:
        """Only this one."""
        return key_id == "key_1"

    def revoke(self, subject_id: str) -> None:
        """End them now."""
        self.done.append(("revoke", subject_id))

    def expire(self, key_id: str, expires_at: float) -> None:
        """End them then."""
        self.done.append((key_id, expires_at))


@pytest.mark.parametrize(
    ("store", "done"),
    [
        (Store(seen(KeyStatus.REVOKED)), ("revoke", "key_1")),
        (Store(seen(KeyStatus.EXPIRED, NOW)), ("revoke", "key_1")),
        (Store(None), ("revoke", "key_1")),
        (Store(None, down=True), ("revoke", "key_1")),
        (Store(seen(KeyStatus.ACTIVE, LATER)), ("key_1", LATER.timestamp())),
    ],
)
async def test_connections_end_with_their_key(store: Store, done: tuple[str, object]) -> None:
    """Now when it has ended or nobody knows, at its end when it has one."""
    connections = Connections()
    ends = KeyEnds(store, cast(Peers, connections))
    ends.changed("key_1")
    await eventually(lambda: connections.done, "something is done")
    await ends.stop()
    assert connections.done == [done]


async def test_keys_without_connections_cost_nothing() -> None:
    """The store is asked about keys that have connections here; others' subjects go on as ever."""
    store, connections = Store(None), Connections()
    ends = KeyEnds(store, cast(Peers, connections))
    ends.changed("key_2")
    ends.changed("ses_1")
    await ends.stop()
    assert (store.asked, connections.done) == (0, [("revoke", "ses_1")])
