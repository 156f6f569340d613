"""What a fresh installation needs: one admin, and an API key for the operator's command line."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from hive.errors import InvalidToken
from hive.identity import UsernameTaken
from hive.identity_ports import FIRST_START, IdentityStore
from hive.permissions import Role
from server.api_keys import StoredApiKeys
from server.authentication import Authenticator
from server.passwords import Passwords

ADMIN = "admin"
OPERATOR_KEY = "operator"


@dataclass(frozen=True, slots=True, repr=False)
class FirstStart:
    """What was made and can be shown once: None where nothing had to be made."""

    admin_password: str | None = None
    operator_key: str | None = None


async def ensure_bootstrap(
    store: IdentityStore,
    passwords: Passwords,
    api_keys: StoredApiKeys,
    authenticator: Authenticator,
    *,
    admin_password: str | None = None,
    operator_key: str | None = None,
    node_id: str,
) -> FirstStart:
    """Make the user `admin` when there are no users, and an operator's key unless the given works.

    `operator_key` is what the operator's file holds. Only a random password is returned.
    Earlier operator keys of this node are revoked when a new one is made, for nobody can hold them
    any more; those of other nodes are in their files.
    """
    made_password = None
    if await store.count_users() == 0:
        password = admin_password or secrets.token_urlsafe(18)
        try:
            await store.create_user(ADMIN, await passwords.hash(password), Role.ADMIN)
            made_password = None if admin_password else password
        except UsernameTaken:
            # Another node that started at the same time was first.
            made_password = None
    if operator_key is not None and await _works(authenticator, operator_key):
        return FirstStart(made_password)
    admin = await store.find_admin()
    if admin is None:
        return FirstStart(made_password)
    name = f"{OPERATOR_KEY} {node_id}"
    await api_keys.revoke_user_keys(admin.user_id, name, FIRST_START)
    issued = await api_keys.issue_user_key(admin, name, FIRST_START)
    return FirstStart(made_password, issued.secret)


async def _works(authenticator: Authenticator, operator_key: str) -> bool:
    try:
        return (await authenticator.authenticate(operator_key)).is_admin
    except InvalidToken:
        return False
