"""The identity part of one node, as tests build it: real SQL, cheap hashing, a clock to turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hive.changes import Actor
from hive.permissions import Role
from server.accounts import SqlAccounts
from server.api_keys import StoredApiKeys
from server.authentication import Authenticator
from server.keys import Keys
from server.login_guard import LoginGuard
from server.passwords import Passwords
from server.revocations import Revocations
from server.sessions import StoredSessions
from server.tokens import AccessTokens
from server.users import StoredUsers
from storage.sql.api_keys import SqlApiKeys
from storage.sql.database import Database
from storage.sql.identity import SqlIdentity
from storage.sql.login_failures import SqlLoginFailures
from storage.sql.sessions import SqlSessions
from storage.sql.users import SqlUsers

SECRET = bytes(range(32))
ACTOR = Actor("usr_actor", "req_1", "aud_1")
ISSUER = "http://127.0.0.1:8000"
PASSWORD = "correct horse battery staple"


@dataclass
class Clock:
    """The real time, moved on by hand, and by itself until it is stopped."""

    ahead: timedelta = field(default_factory=timedelta)
    stopped_at: datetime | None = None

    def __call__(self) -> datetime:
        """The time that the database is to go by."""
        return (self.stopped_at or datetime.now(UTC)) + self.ahead

    def stop(self) -> None:
        """Go by hand only: a second to spare is not enough on a slow machine."""
        self.stopped_at = datetime.now(UTC)

    def advance(self, **by: float) -> None:
        """Move on, by the arguments of a timedelta."""
        self.ahead += timedelta(**by)


@dataclass(frozen=True)
class Node:
    """What `server/bootstrap/` builds, in one place."""

    database: Database
    store: SqlIdentity
    keys: Keys
    passwords: Passwords
    tokens: AccessTokens
    revocations: Revocations
    authenticator: Authenticator
    accounts: SqlAccounts
    users: StoredUsers
    sessions: StoredSessions
    api_keys: StoredApiKeys
    key_store: SqlApiKeys

    async def add_user(self, username: str = "ann", role: Role = Role.USER) -> str:
        """A user with the usual password; its identifier."""
        hashed = await self.passwords.hash(PASSWORD)
        return (await self.store.create_user(username, hashed, role)).user_id


def build(url: str, clock: Callable[[], datetime] | None = None) -> Node:
    """Everything, migrated and not started."""
    database = Database(url, clock=clock)
    database.migrate()
    store = SqlIdentity(database)
    keys = Keys.derive(SECRET)
    passwords = Passwords(memory_kib=64, passes=1)
    tokens = AccessTokens(keys.signing, issuer=ISSUER)
    revocations = Revocations(store)
    key_store = SqlApiKeys(database)
    guard = LoginGuard(SqlLoginFailures(database), keys.accounts)
    return Node(
        database=database,
        store=store,
        keys=keys,
        passwords=passwords,
        tokens=tokens,
        revocations=revocations,
        authenticator=Authenticator(store, tokens, revocations),
        api_keys=StoredApiKeys(key_store, revocations),
        key_store=key_store,
        accounts=SqlAccounts(
            store,
            passwords=passwords,
            tokens=tokens,
            keys=keys,
            revocations=revocations,
            guard=guard,
        ),
        users=StoredUsers(
            SqlUsers(database), passwords=passwords, guard=guard, announce=revocations.announce
        ),
        sessions=StoredSessions(SqlSessions(database), announce=revocations.announce),
    )


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    """Follow revocations as long as the block runs, then close everything."""
    await node.revocations.start()
    try:
        yield node
    finally:
        await node.revocations.stop()
        await node.authenticator.close()
        node.passwords.close()
        node.database.close()
