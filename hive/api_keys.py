"""API keys: whose they are, what a new one may do, and what a rotation puts in their place.

A key never exceeds who made it. Made in a session it may do what the user may; made with another
key it keeps within the scopes, the addresses and the life of that key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from hive.errors import Conflict, Forbidden, Invalid, InvalidToken, NotFound
from hive.identity import ApiKey, PrincipalKind, Session, User, permissions_of, role_within
from hive.networks import covers, read_networks
from hive.permissions import PERMISSIONS, Role

EXPIRING_WITHIN = timedelta(days=7)
MOST_KEYS = 100


class KeyStatus(StrEnum):
    """Whether a key still works, and why it does not."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class ApiKeyNotFound(NotFound):
    """No API key of this identifier exists, or not for this principal."""

    code = "api-key-not-found"
    title = "API key not found"
    default_detail = "API key not found"


class ApiKeyEnded(Conflict):
    """The key is revoked or expired."""

    code = "api-key-ended"
    title = "API key ended"
    default_detail = "This API key has ended. Make a new one."


class ApiKeyRotated(Conflict):
    """The key has a successor already."""

    code = "api-key-rotated"
    title = "API key rotated"


class TooManyApiKeys(Conflict):
    """The user has as many live API keys as are allowed."""

    code = "too-many-api-keys"
    title = "Too many API keys"
    default_detail = f"You have {MOST_KEYS} live API keys. Revoke one first."


class UnknownScope(Invalid):
    """A scope is no permission."""

    code = "unknown-scope"
    title = "Unknown scope"


class KeyExceedsMaker(Forbidden):
    """The credential that asks does not hold itself what the key would hold."""

    code = "key-exceeds-maker"
    title = "More than you may"


@dataclass(frozen=True, slots=True)
class Maker:
    """Who asks for a key, as it is now; `key` or `session` is the credential that it came with."""

    user: User
    key: ApiKey | None = None
    session: Session | None = None

    @property
    def role(self) -> Role:
        """The role of the credential."""
        return role_within(self.key.role, self.user.role) if self.key else self.user.role

    @property
    def permissions(self) -> frozenset[str]:
        """What the credential may do."""
        return permissions_of(self.role, self.key.scopes if self.key else frozenset())

    @property
    def is_admin(self) -> bool:
        """Admins act on the keys of others."""
        return self.role is Role.ADMIN

    def check(self, now: datetime) -> None:
        """Raise InvalidToken when the credential ended since it was authenticated."""
        credential = self.key or self.session
        if self.user.disabled or (credential is not None and not credential.is_live(now)):
            raise InvalidToken(reason="the credential ended meanwhile")


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What somebody asks a new key to be. Nothing said: all that who asks has."""

    name: str
    scopes: tuple[str, ...] = ()
    expires_in_days: int | None = None
    allowed_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What a new key is. `owner_id` and `agent_id` are those of ApiKey."""

    name: str
    kind: PrincipalKind
    role: Role
    scopes: frozenset[str] = frozenset()
    owner_id: str | None = None
    agent_id: str | None = None
    expires_at: datetime | None = None
    allowed_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotation:
    """The successor, and when the old key ends."""

    successor: KeyGrant
    old_expires_at: datetime


def status_of(key: ApiKey, now: datetime) -> KeyStatus:
    """Whether the key works at that time."""
    if key.revoked_at is not None:
        return KeyStatus.REVOKED
    return KeyStatus.ACTIVE if key.is_live(now) else KeyStatus.EXPIRED


def speaks_for(key: ApiKey | KeyGrant) -> str:
    """The identifier of the agent or the user that the key speaks for."""
    found = key.agent_id if key.kind is PrincipalKind.AGENT else key.owner_id
    if found is None:
        raise AssertionError("a key names its principal")
    return found


def is_visible(key: ApiKey, user_id: str, *, is_admin: bool) -> bool:
    """Tell whether this user may know of the key: the user's own, or any for an admin."""
    return is_admin or (key.kind is PrincipalKind.USER and key.owner_id == user_id)


def grant(wish: KeyWish, maker: Maker, now: datetime) -> KeyGrant:
    """Narrow what is asked for to what the maker has.

    Scopes and addresses beyond the maker's are refused; a life beyond the maker's is cut.
    Raises UnknownScope, InvalidNetwork, KeyExceedsMaker, InvalidToken.
    """
    maker.check(now)
    networks = read_networks(wish.allowed_addresses, pointer="/allowed_addresses")
    return KeyGrant(
        name=wish.name,
        kind=PrincipalKind.USER,
        role=maker.role,
        scopes=_narrow_scopes(wish.scopes, maker),
        owner_id=maker.user.user_id,
        expires_at=_narrow_end(_in_days(wish.expires_in_days, now), maker),
        allowed_addresses=_narrow_networks(networks, maker),
    )


def rotate(
    key: ApiKey, owner: User | None, maker: Maker, *, overlap: timedelta, now: datetime
) -> Rotation:
    """Put a successor in the key's place, which lives as long as the key was made for.

    A key rotates itself, and another one only when that holds nothing beyond it: otherwise it
    would learn the secret of a key that may do more. Raises ApiKeyRotated, ApiKeyEnded,
    KeyExceedsMaker, InvalidToken.
    """
    maker.check(now)
    if key.successor_id is not None and key.revoked_at is None:
        raise ApiKeyRotated(
            f"This API key was rotated already. Rotate its successor, {key.successor_id}."
        )
    if not key.is_live(now):
        raise ApiKeyEnded
    expires_at = now + (key.expires_at - key.created_at) if key.expires_at else None
    if maker.key is not None and maker.key.key_id != key.key_id:
        _check_reach(key, owner, maker)
        expires_at = _narrow_end(expires_at, maker)
    successor = KeyGrant(
        name=key.name,
        kind=key.kind,
        role=key.role,
        scopes=key.scopes,
        owner_id=key.owner_id,
        agent_id=key.agent_id,
        expires_at=expires_at,
        allowed_addresses=key.allowed_addresses,
    )
    ends_at = now + overlap
    return Rotation(successor, min(ends_at, key.expires_at) if key.expires_at else ends_at)


def effective_role(key: ApiKey, owner: User | None) -> Role:
    """The role that the key has now: its own, or the owner's when that is the lesser one."""
    if key.kind is PrincipalKind.USER and owner is not None:
        return role_within(key.role, owner.role)
    return key.role


def _narrow_scopes(scopes: tuple[str, ...], maker: Maker) -> frozenset[str]:
    for index, scope in enumerate(scopes):
        if scope not in PERMISSIONS:
            raise UnknownScope("There is no such permission.", pointer=f"/scopes/{index}")
    if not scopes:
        return maker.permissions if maker.key and maker.key.scopes else frozenset()
    if beyond := set(scopes) - maker.permissions:
        raise KeyExceedsMaker(f"You don't hold these scopes yourself: {', '.join(sorted(beyond))}.")
    return frozenset(scopes)


def _narrow_networks(networks: tuple[str, ...], maker: Maker) -> tuple[str, ...]:
    held = maker.key.allowed_addresses if maker.key else ()
    if not held:
        return networks
    if not all(covers(held, network) for network in networks):
        raise KeyExceedsMaker("Your own API key is not allowed from all of these addresses.")
    return networks or held


def _narrow_end(expires_at: datetime | None, maker: Maker) -> datetime | None:
    ends = (expires_at, maker.key.expires_at if maker.key else None)
    return min((end for end in ends if end is not None), default=None)


def _in_days(days: int | None, now: datetime) -> datetime | None:
    return None if days is None else now + timedelta(days=days)


def _check_reach(key: ApiKey, owner: User | None, maker: Maker) -> None:
    permissions = permissions_of(effective_role(key, owner), key.scopes)
    if not permissions <= maker.permissions:
        raise KeyExceedsMaker("This API key may do more than the one that you came with.")
    held = maker.key.allowed_addresses if maker.key else ()
    if held and not (
        key.allowed_addresses and all(covers(held, network) for network in key.allowed_addresses)
    ):
        raise KeyExceedsMaker("This API key is allowed from more addresses than yours.")
