"""The decisions about refresh tokens, and what a credential may do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hive.identity import (
    REFRESH_GRACE,
    REFRESH_IDLE,
    Exchange,
    RefreshToken,
    Session,
    User,
    decide_exchange,
    permissions_of,
    refresh_expiry,
    role_within,
    username_key,
)
from hive.permissions import ROLE_PERMISSIONS, Role

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
USER = User("usr_1", "ann", Role.USER, disabled=False, created_at=NOW, password_changed_at=NOW)
SESSION = Session("ses_1", "usr_1", NOW, NOW, expires_at=NOW + timedelta(days=30))
LIVE = RefreshToken("first", "ses_1", NOW, expires_at=NOW + REFRESH_IDLE)
USED = replace(LIVE, used_at=NOW, successor_hash="second")
NEXT = RefreshToken("second", "ses_1", NOW, expires_at=NOW + REFRESH_IDLE)


def _decide(
    token: RefreshToken | None,
    *,
    session: Session | None = SESSION,
    user: User | None = USER,
    successor: RefreshToken | None = NEXT,
    successor_hash: str = "second",
    now: datetime = NOW,
) -> Exchange:
    return decide_exchange(token, session, user, successor, successor_hash=successor_hash, now=now)


def test_live_token_rotates() -> None:
    """A token that was never used gives its successor."""
    assert _decide(LIVE, successor=None) is Exchange.ROTATE


def test_lost_answer_is_repeated_within_the_grace() -> None:
    """Up to and including ten seconds the same successor is given again."""
    assert _decide(USED, now=NOW + REFRESH_GRACE) is Exchange.REPEAT


def test_reuse_after_the_grace_revokes() -> None:
    """A moment later somebody else may hold the token, so the family ends."""
    assert _decide(USED, now=NOW + REFRESH_GRACE + timedelta(milliseconds=1)) is Exchange.REVOKE


def test_reuse_revokes_as_soon_as_the_successor_was_used() -> None:
    """A client that used the successor has had the answer; a repeat comes from another one."""
    assert _decide(USED, successor=replace(NEXT, used_at=NOW)) is Exchange.REVOKE


def test_a_rotated_server_key_refuses_without_revoking() -> None:
    """After a change of the server's key the same successor can't be made, and nobody did wrong."""
    assert _decide(USED, successor_hash="other") is Exchange.REFUSE


@pytest.mark.parametrize(
    ("token", "session", "user"),
    [
        (None, SESSION, USER),
        (LIVE, None, USER),
        (LIVE, SESSION, None),
        (LIVE, replace(SESSION, revoked_at=NOW), USER),
        (LIVE, replace(SESSION, expires_at=NOW), USER),
        (replace(LIVE, expires_at=NOW), SESSION, USER),
        (LIVE, SESSION, replace(USER, disabled=True)),
        (USED, replace(SESSION, revoked_at=NOW), USER),
    ],
    ids=["unknown", "no-session", "no-user", "revoked", "too-old", "idle", "disabled", "used"],
)
def test_dead_tokens_are_refused(
    token: RefreshToken | None, session: Session | None, user: User | None
) -> None:
    """Nothing comes of a token whose session, user or time is over."""
    assert _decide(token, session=session, user=user) is Exchange.REFUSE


def test_refresh_token_never_outlives_its_session() -> None:
    """Idle for a week, but not past the session's absolute end."""
    assert refresh_expiry(NOW, NOW + timedelta(days=30)) == NOW + timedelta(days=7)
    assert refresh_expiry(NOW, NOW + SECOND) == NOW + SECOND


def test_scopes_only_narrow() -> None:
    """A scope that the role lacks gives nothing; none stand for all."""
    assert permissions_of(Role.VIEWER) == ROLE_PERMISSIONS[Role.VIEWER]
    scopes = frozenset({"tasks:read", "agents:write"})
    assert permissions_of(Role.VIEWER, scopes) == {"tasks:read"}


def test_a_key_never_exceeds_its_owner() -> None:
    """A key made by an admin who is a viewer now is a viewer's."""
    assert role_within(Role.ADMIN, Role.VIEWER) is Role.VIEWER
    assert role_within(Role.VIEWER, Role.ADMIN) is Role.VIEWER
    assert role_within(Role.ADMIN, Role.ADMIN) is Role.ADMIN


def test_usernames_compare_without_case() -> None:
    """Two spellings of a name are one user."""
    assert username_key(" Straße ") == username_key("STRASSE")
