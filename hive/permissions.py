"""Who may do what: roles, permissions and the principal that holds them.

Permissions are `noun:verb`. Denied unless declared: an operation of the contract names one, and a
role has exactly what this table gives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hive.errors import Forbidden


class Role(StrEnum):
    """What a principal is, in the words of the original contract, and `agent`."""

    ADMIN = "admin"
    USER = "user"
    VIEWER = "viewer"
    AGENT = "agent"


_READ = frozenset({"agents:read", "tasks:read", "hive:read", "events:read", "account:read"})
_OWN = frozenset(
    {
        "account:write",
        "api-keys:read",
        "api-keys:write",
        "signing-keys:read",
        "signing-keys:write",
    }
)
_WRITE = frozenset({"tasks:write", "agents:control", "messages:write"})
_ADMINISTER = frozenset(
    {
        "agents:write",
        "users:read",
        "users:write",
        "audit:read",
        "system:read",
        "system:write",
        "hive:write",
    }
)
_WORK = frozenset({"agents:work"})

ROLE_PERMISSIONS: dict[Role, frozenset[str]] = {
    Role.ADMIN: _READ | _OWN | _WRITE | _ADMINISTER | _WORK,
    Role.USER: _READ | _OWN | _WRITE,
    Role.VIEWER: _READ | _OWN,
    Role.AGENT: _READ | _WORK | {"tasks:write", "messages:write"},
}

PERMISSIONS: frozenset[str] = frozenset().union(*ROLE_PERMISSIONS.values())

OWNERSHIPS: dict[str, str] = {
    "none": "Whoever has the permission.",
    "shared": "Everybody reads it; only its owner or an admin changes it (others: 403).",
    "private": "Its owner or an admin; for others it does not exist (404).",
    "agent": "The agent itself or an admin (others: 403; the lease of another agent: 404).",
}
"""Whose resource an operation may name (`x-ownership` in the contract)."""

ADMIN_PERMISSIONS: frozenset[str] = _ADMINISTER
"""What only admins hold: the operations behind them honour the address allowlist."""

KEY_PERMISSIONS: frozenset[str] = frozenset(
    {"api-keys:read", "api-keys:write", "signing-keys:read", "signing-keys:write"}
)
"""What everybody holds for own keys: those of others an admin reaches from the allowlist only."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who proved who they are.

    `principal_id` is a `usr_` or an `agt_` identifier; `permissions` is what this credential may do
    (an API key may hold less than its role). `session_id` or `key_id` names the credential, so that
    revoking it can find its open connections. `expires_at` is in seconds of the Unix epoch. A
    `confined` admin acts on nobody's things but its own.
    """

    principal_id: str
    name: str
    role: Role
    permissions: frozenset[str]
    session_id: str | None = None
    key_id: str | None = None
    agent_id: str | None = None
    expires_at: float | None = None
    confined: bool = False

    def may(self, permission: str) -> bool:
        """Tell whether this credential holds the permission."""
        return permission in self.permissions

    @property
    def is_admin(self) -> bool:
        """Admins act on what belongs to others."""
        return self.role is Role.ADMIN and not self.confined


def require_owner(principal: Principal, owner: str) -> None:
    """Raise Forbidden unless the principal owns the resource or is an admin."""
    if not principal.is_admin and principal.principal_id != owner:
        raise Forbidden("Only the owner or an admin may change this.")


def require_agent(principal: Principal, agent_id: str) -> None:
    """Raise Forbidden unless the principal is that agent itself or an admin."""
    if not principal.is_admin and principal.agent_id != agent_id:
        raise Forbidden("Only the agent itself or an admin may do this.")
