"""Keys of access tokens begin and end by time, without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hive.token_keys import TokenAlgorithm, TokenKey
from server import key_material
from server.token_ring import RingEntry, TokenRing


def test_time_ends_a_key_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that can't read the ring any more lets keys begin and end as it knew they would."""
    old, new = (key_material.generate(TokenAlgorithm.EDDSA) for _ in range(2))
    ring = TokenRing([RingEntry(old, verifies_until=20), RingEntry(new, signs_from=10)])
    for now, signer, published in ((9.9, old, 2), (10.0, new, 2), (20.0, new, 1)):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        assert ring.signer() is signer
        assert len(ring.public_keys()) == published
        assert (ring.find(old.kid) is old) is (published == 2)
        assert ring.find(new.kid) is new


def test_key_says_when_it_has_ended() -> None:
    """At the instant of `verifies_until`, and never without one."""
    now = datetime.now(UTC)
    key = TokenKey("k", TokenAlgorithm.HS256, b"", now, now)
    assert not key.has_ended(now)
    assert replace(key, verifies_until=now).has_ended(now)
