"""Users and their passwords: the port `hive.user_ports.Users`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final

from hive.changes import Actor
from hive.errors import InvalidCredentials
from hive.permissions import Principal, Role
from hive.preconditions import ExpectedVersions
from hive.sessions import SessionRequired
from hive.user_ports import UserChanged, UserStore
from hive.users import UserChange, UserDetail, UserFilter, WrongPassword
from server.login_guard import LoginGuard
from server.password_policy import check_password
from server.passwords import Passwords, UnusablePassword

# Without characters that are taken for one another: 0 O o, 1 l I.
ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz"
RANDOM_CHARACTERS: Final = 20
"""116 bits of them."""


class StoredUsers:
    """Brings together the store, the hashing threads, the login guard and whoever follows changes.

    `announce` is told each subject whose rights a committed change took.
    """

    def __init__(
        self,
        store: UserStore,
        *,
        passwords: Passwords,
        guard: LoginGuard,
        announce: Callable[[str], None],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._guard = guard
        self._announce = announce

    async def create(
        self,
        username: str,
        password: str,
        role: Role,
        actor: Actor,
        *,
        user_id: str | None = None,
    ) -> UserDetail:
        """Add a user. Raises UsernameTaken, WeakPassword, UndoneMeanwhile."""
        check_password(password, username=username)
        hashed = await self._passwords.hash(password)
        return await self._store.insert(username, hashed, role, actor, user_id=user_id)

    async def get(self, user_id: str) -> UserDetail:
        """Raise UserNotFound when there is none."""
        return await self._store.get(user_id)

    async def list(
        self, wanted: UserFilter, *, after: str | None, limit: int
    ) -> Sequence[UserDetail]:
        """Oldest first."""
        return await self._store.list(wanted, after=after, limit=limit)

    async def update(
        self,
        user_id: str,
        change: UserChange,
        actor: Actor,
        *,
        expected: ExpectedVersions | None = None,
    ) -> UserDetail:
        """Change role or disabled. Raises UserNotFound, PreconditionFailed, LastAdmin."""
        return self._tell(await self._store.update(user_id, change, actor, expected=expected))

    async def delete(
        self, user_id: str, actor: Actor, *, expected: ExpectedVersions | None = None
    ) -> None:
        """Delete with all that belongs to it. Raises as `update`."""
        self._tell(await self._store.delete(user_id, actor, expected=expected))

    async def reset_password(self, user_id: str, password: str | None, actor: Actor) -> str | None:
        """Set another password. Raises UserNotFound, WeakPassword."""
        user = (await self._store.get(user_id)).user
        made = random_password() if password is None else None
        chosen = made or password or ""
        if password is not None:
            check_password(password, username=user.username)
        hashed = await self._passwords.hash(chosen)
        self._tell(await self._store.set_password(user_id, hashed, actor))
        await self._guard.forgive(user.username)
        return made

    async def change_password(
        self, caller: Principal, current: str, new: str, actor: Actor, *, address: str
    ) -> None:
        """Change one's own. Raises SessionRequired, WrongPassword, WeakPassword, TooManyAttempts.

        A guess is counted before the new password is looked at, so that a refusal of the new one
        tells nothing about the current one for free.
        """
        if caller.session_id is None:
            raise SessionRequired
        stored = await self._store.password_hash(caller.principal_id)
        await self._prove(caller.name, current, stored, address)
        check_password(new, username=caller.name, pointer="/new_password")
        hashed = await self._passwords.hash(new)
        self._tell(await self._store.replace_password(caller.session_id, stored, hashed, actor))

    async def _prove(self, username: str, current: str, stored: str, address: str) -> None:
        try:
            async with self._guard.attempt(username, current, address):
                verdict = await self._passwords.verify(current, stored, renew=False)
                if not verdict.correct:
                    raise InvalidCredentials  # noqa: TRY301 - the guard counts it
        except (InvalidCredentials, UnusablePassword):
            raise WrongPassword(pointer="/current_password") from None

    def _tell(self, changed: UserChanged) -> UserDetail:
        for subject_id in changed.revoked:
            self._announce(subject_id)
        return changed.detail


def random_password() -> str:
    """A password that can be read out and typed."""
    return "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
