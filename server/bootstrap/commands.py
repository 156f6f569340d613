"""Opens just what a command needs that runs beside a server, or while none does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from hive.signing_ports import SigningKeyStore
from hive.system_settings import SystemSettingsStore
from server.audit_verification import AuditVerification
from server.bootstrap.beside import reach_mongodb
from server.bootstrap.identities import derive_keys, make_token_keys, make_tokens
from server.bootstrap.stores import open_sql
from server.data_directory import DataDirectory, DataDirectoryError
from server.keys import Keys
from server.login_guard import LoginGuard
from server.passwords import Passwords
from server.revocations import Revocations
from server.settings import Settings
from server.token_keys import SealedTokenKeys
from server.users import StoredUsers
from storage.mongo.audit import MongoAudit
from storage.mongo.client import open_client, open_database, require_reachable
from storage.sql.audit_checkpoints import SqlCheckpoints
from storage.sql.database import Database
from storage.sql.identity import SqlIdentity
from storage.sql.login_failures import SqlLoginFailures
from storage.sql.signing_keys import SqlSigningKeys
from storage.sql.system_settings import SqlSystemSettings
from storage.sql.users import SqlUsers


@asynccontextmanager
async def open_token_keys(
    settings: Settings, directory: DataDirectory
) -> AsyncIterator[SealedTokenKeys]:
    """The keys of access tokens alone, for a command that runs while no server does."""
    async with AsyncExitStack() as stack:
        database = await open_sql(stack, settings, directory)
        keys = derive_keys(settings, directory)
        revocations = Revocations(SqlIdentity(database))
        yield make_token_keys(settings, keys, database, make_tokens(settings, keys), revocations)


@asynccontextmanager
async def open_users(settings: Settings, directory: DataDirectory) -> AsyncIterator[StoredUsers]:
    """The users alone, for a command that runs while no server does."""
    async with AsyncExitStack() as stack:
        database = await open_sql(stack, settings, directory)
        passwords = Passwords()
        stack.callback(passwords.close)
        guard = LoginGuard(SqlLoginFailures(database), derive_keys(settings, directory).accounts)
        # Nobody is connected here; nodes elsewhere follow by the record.
        yield StoredUsers(
            SqlUsers(database), passwords=passwords, guard=guard, announce=lambda _: None
        )


@asynccontextmanager
async def open_signing_keys(
    settings: Settings, directory: DataDirectory
) -> AsyncIterator[SigningKeyStore]:
    """The signing keys alone, for a command that runs while no server does."""
    async with AsyncExitStack() as stack:
        yield SqlSigningKeys(await open_sql(stack, settings, directory))


@asynccontextmanager
async def open_system_settings(
    settings: Settings, directory: DataDirectory
) -> AsyncIterator[SystemSettingsStore]:
    """The stored settings of the system alone, for a command that runs while no server does."""
    async with AsyncExitStack() as stack:
        yield SqlSystemSettings(await open_sql(stack, settings, directory))


@asynccontextmanager
async def open_verification(
    settings: Settings, directory: DataDirectory
) -> AsyncIterator[AuditVerification]:
    """What looks at the audit log, beside a running server or, under the lock, without one.

    Raises DataDirectoryError, EmbeddedMongoError, Unavailable.
    """
    secret = settings.secret_key.get_secret_value() or directory.find_secret_key()
    sql_url = settings.sql_url.get_secret_value()
    if secret is None or not (sql_url or directory.sqlite_path.exists()):
        raise DataDirectoryError(f"{directory.path} has no data of a server.")
    async with AsyncExitStack() as stack:
        uri = await stack.enter_async_context(reach_mongodb(settings, directory))
        client = open_client(uri)
        stack.push_async_callback(client.close)
        await require_reachable(client)
        database = Database(sql_url or f"sqlite:///{directory.sqlite_path}")
        stack.callback(database.close)
        yield AuditVerification(
            MongoAudit(open_database(client, settings.mongodb_database)),
            SqlCheckpoints(database),
            Keys.derive(secret.encode()).audit,
        )
