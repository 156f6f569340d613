"""Opens what proves who somebody is: users, sessions, keys, tokens, settings of the system."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

from server.accounts import SqlAccounts
from server.api_keys import StoredApiKeys
from server.authentication import Authenticator
from server.bootstrap.parts import start
from server.bootstrap.stores import open_sql
from server.data_directory import DataDirectory
from server.identifiers import TypeIdentifiers
from server.keys import Keys
from server.login_guard import LoginGuard
from server.password_policy import common_passwords
from server.passwords import Passwords
from server.revocations import Revocations
from server.sealing import Seal
from server.sessions import SessionSweep, StoredSessions
from server.settings import Settings
from server.signing_keys import SealedSigningKeys
from server.system_settings import LiveSettings
from server.tickets import WsTickets
from server.token_keys import SealedTokenKeys
from server.tokens import AccessTokens
from server.users import StoredUsers
from storage.sql.api_keys import SqlApiKeys
from storage.sql.audit_checkpoints import SqlCheckpoints
from storage.sql.database import Database
from storage.sql.identity import SqlIdentity
from storage.sql.login_failures import SqlLoginFailures
from storage.sql.nonces import SqlNonces
from storage.sql.outbox import SqlOutbox
from storage.sql.sessions import SqlSessions
from storage.sql.signing_keys import SqlSigningKeys
from storage.sql.system_settings import SqlSystemSettings
from storage.sql.tickets import SqlTickets
from storage.sql.token_keys import SqlTokenKeys
from storage.sql.users import SqlUsers

ISSUER = "agentzero-api"


@dataclass(frozen=True, slots=True)
class Identity:
    """The services and the stores of identity."""

    accounts: SqlAccounts
    api_keys: StoredApiKeys
    key_store: SqlApiKeys
    token_keys: SealedTokenKeys
    signing_keys: SealedSigningKeys
    nonces: SqlNonces
    authenticator: Authenticator
    revocations: Revocations
    passwords: Passwords
    store: SqlIdentity
    outbox: SqlOutbox
    checkpoints: SqlCheckpoints
    users: StoredUsers
    sessions: StoredSessions
    system: LiveSettings
    tickets: WsTickets


async def open_identity(
    stack: AsyncExitStack, settings: Settings, directory: DataDirectory, keys: Keys
) -> Identity:
    """Open SQL, follow what changes there, and make the services on it. Raises Unavailable."""
    database = await open_sql(stack, settings, directory)
    store = SqlIdentity(database, session_lifetime=timedelta(days=settings.refresh_token_days))
    revocations = Revocations(store)
    await revocations.start()
    stack.push_async_callback(revocations.stop)
    passwords = Passwords()
    stack.callback(passwords.close)
    tokens = make_tokens(settings, keys)
    token_keys = make_token_keys(settings, keys, database, tokens, revocations)
    await token_keys.start()
    stack.push_async_callback(token_keys.stop)
    authenticator = Authenticator(store, tokens, revocations)
    stack.push_async_callback(authenticator.close)
    # Read now: the event loop must not wait for it when the first password is set.
    await asyncio.to_thread(common_passwords)
    guard = LoginGuard(
        SqlLoginFailures(database),
        keys.accounts,
        session_lifetime=timedelta(days=settings.refresh_token_days),
    )
    accounts = SqlAccounts(
        store, passwords=passwords, tokens=tokens, keys=keys, revocations=revocations, guard=guard
    )
    key_store = SqlApiKeys(database)
    outbox = SqlOutbox(database)
    users = StoredUsers(
        SqlUsers(database), passwords=passwords, guard=guard, announce=revocations.announce
    )
    session_store = SqlSessions(database)
    sessions = StoredSessions(session_store, announce=revocations.announce)
    start(stack, SessionSweep(session_store))
    system = LiveSettings(
        SqlSystemSettings(database), revocations, fixed_allowlist=settings.admin_allowlist
    )
    await system.start()
    stack.push_async_callback(system.stop)
    return Identity(
        accounts=accounts,
        api_keys=StoredApiKeys(key_store, revocations),
        key_store=key_store,
        token_keys=token_keys,
        signing_keys=SealedSigningKeys(
            SqlSigningKeys(database), Seal(keys.sealing), revocations, TypeIdentifiers()
        ),
        nonces=SqlNonces(database),
        tickets=WsTickets(SqlTickets(database), revocations),
        authenticator=authenticator,
        revocations=revocations,
        passwords=passwords,
        store=store,
        outbox=outbox,
        checkpoints=SqlCheckpoints(database),
        system=system,
        users=users,
        sessions=sessions,
    )


def derive_keys(settings: Settings, directory: DataDirectory) -> Keys:
    """Every key of the server. Raises WeakSecretError."""
    return Keys.derive((settings.secret_key.get_secret_value() or directory.secret_key()).encode())


def make_tokens(settings: Settings, keys: Keys) -> AccessTokens:
    """What signs and verifies access tokens."""
    return AccessTokens(keys.signing, issuer=ISSUER, lifetime_seconds=settings.access_token_seconds)


def make_token_keys(
    settings: Settings,
    keys: Keys,
    database: Database,
    tokens: AccessTokens,
    revocations: Revocations,
) -> SealedTokenKeys:
    """The ring of its keys."""
    return SealedTokenKeys(
        SqlTokenKeys(database),
        tokens,
        Seal(keys.sealing),
        keys.signing[0],
        revocations,
        algorithm=settings.token_algorithm,
    )
