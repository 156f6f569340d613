"""Who may do what: the whole table, owners and agents."""

from __future__ import annotations

import pytest

from hive.errors import Forbidden
from hive.permissions import (
    PERMISSIONS,
    ROLE_PERMISSIONS,
    Principal,
    Role,
    require_agent,
    require_owner,
)

READ = {"agents:read", "tasks:read", "hive:read", "events:read", "account:read"}
OWN = {"account:write", "api-keys:read", "api-keys:write"}
OWN |= {"signing-keys:read", "signing-keys:write"}
ADMINISTER = {"agents:write", "users:read", "users:write"}
ADMINISTER |= {"audit:read", "system:read", "system:write", "hive:write"}
WRITE = {"tasks:write", "agents:control", "messages:write"}
EXPECTED = {
    Role.ADMIN: READ | OWN | ADMINISTER | WRITE | {"agents:work"},
    Role.USER: READ | OWN | WRITE,
    Role.VIEWER: READ | OWN,
    Role.AGENT: READ | {"tasks:write", "messages:write", "agents:work"},
}


def _principal(role: Role, **fields: str) -> Principal:
    return Principal("usr_1", "Ada", role, ROLE_PERMISSIONS[role], **fields)  # type: ignore[arg-type]


def test_each_role_has_exactly_these_permissions() -> None:
    """A permission that moves between roles must be moved here, too."""
    assert {role: set(held) for role, held in ROLE_PERMISSIONS.items()} == EXPECTED
    assert set().union(*EXPECTED.values()) == PERMISSIONS


@pytest.mark.parametrize("role", Role)
def test_a_credential_may_what_it_holds(role: Role) -> None:
    """Denied unless declared, unknown permissions included."""
    principal = _principal(role)
    assert {name for name in PERMISSIONS if principal.may(name)} == EXPECTED[role]
    assert not principal.may("tasks:explode")


def test_a_key_may_hold_less_than_its_role() -> None:
    """The credential decides, not the role."""
    scoped = Principal("usr_1", "Ada", Role.ADMIN, frozenset({"tasks:read"}))
    assert not scoped.may("tasks:write")


@pytest.mark.parametrize("role", Role)
def test_owners_and_admins_change_what_is_theirs(role: Role) -> None:
    """Others are refused."""
    require_owner(_principal(role), "usr_1")
    if role is Role.ADMIN:
        require_owner(_principal(role), "usr_2")
    else:
        with pytest.raises(Forbidden):
            require_owner(_principal(role), "usr_2")


@pytest.mark.parametrize("role", Role)
def test_an_agent_acts_for_itself_only(role: Role) -> None:
    """A user who is no agent is refused as well as another agent; an admin is not."""
    if role is Role.ADMIN:
        require_agent(_principal(role), "agt_1")
        return
    with pytest.raises(Forbidden):
        require_agent(_principal(role), "agt_1")
    with pytest.raises(Forbidden):
        require_agent(_principal(role, agent_id="agt_2"), "agt_1")
    require_agent(_principal(role, agent_id="agt_1"), "agt_1")
