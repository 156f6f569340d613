"""The one composition point: opens the stores, builds everything, runs a node from start to drain.

    serve: data directory (lock) -> mongod -> open_node -> listen -> until SIGTERM -> drain -> close

`open_node` is a context manager: what was opened is closed in the opposite order, whatever fails
in between.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from hive.ports import Limits, Services
from server import recorder as recording
from server.accounts import SqlAccounts
from server.addresses import AddressResolver
from server.agent_links import AgentLinks
from server.api_keys import StoredApiKeys
from server.app import HiveApplication, make_app, make_http_server
from server.audit_trail import AuditTrail
from server.audit_verification import AuditVerification
from server.authentication import Authenticator
from server.authorization import Authorization
from server.binding import BoundOperation, bind
from server.contract import Contract
from server.cursors import SignedCursors
from server.data_directory import DataDirectory, DataDirectoryError
from server.dispatcher import NodeDispatcher
from server.duties import Duty
from server.embedded import EmbeddedMongo
from server.first_start import FirstStart, ensure_bootstrap
from server.hub import Hub
from server.identifiers import TypeIdentifiers
from server.invocation import Invoker
from server.key_ends import KeyEnds
from server.key_expiry import DUTY as KEY_EXPIRY
from server.key_expiry import KeyExpiry
from server.keys import Keys
from server.login_guard import LoginGuard
from server.outbox import DUTY as OUTBOX
from server.outbox import OutboxRelay
from server.password_policy import common_passwords
from server.passwords import Passwords
from server.peers import Peers
from server.presence import NodePresence
from server.readiness import Readiness
from server.reaper import DUTY as REAPER
from server.reaper import Periods, Reaper
from server.recorder import Recorder
from server.releaser import Releaser
from server.resources import asyncapi_path, openapi_path
from server.revocations import Revocations
from server.sealing import Seal
from server.sessions import SessionSweep, StoredSessions
from server.settings import Settings, SettingsError
from server.signatures import Signatures
from server.signing_keys import SealedSigningKeys
from server.system_settings import LiveSettings
from server.tickets import WsTickets
from server.token_keys import SealedTokenKeys
from server.tokens import AccessTokens
from server.users import StoredUsers
from server.websocket import Realtime
from storage.mongo.agents import MongoAgents
from storage.mongo.audit import MongoAudit
from storage.mongo.client import (
    open_client,
    open_database,
    open_stream_client,
    require_reachable,
)
from storage.mongo.events import MongoEventLog
from storage.mongo.leadership import MongoLeadership
from storage.mongo.logs import MongoTaskLogs
from storage.mongo.notices import MongoNotices
from storage.mongo.stream import MongoChangeFeed
from storage.mongo.sweeps import MongoSweeps
from storage.mongo.tasks import MongoTasks
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
READY_SECONDS = 10.0
DRAIN_POLL_SECONDS = 0.05
CLOSE_SECONDS = 1.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is open: what it serves, and what others look at."""

    app: HiveApplication
    services: Services
    hub: Hub
    authenticator: Authenticator
    first_start: FirstStart
    store: Store
    readiness: Readiness
    peers: Peers
    links: AgentLinks
    dispatcher: NodeDispatcher


@dataclass(frozen=True, slots=True)
class Store:
    """The adapters of MongoDB."""

    agents: MongoAgents
    tasks: MongoTasks
    logs: MongoTaskLogs
    notices: MongoNotices
    events: MongoEventLog
    sweeps: MongoSweeps
    feed: MongoChangeFeed
    leadership: MongoLeadership
    audit: MongoAudit


@dataclass(frozen=True, slots=True)
class Interface:
    """The contracts and the operations that are bound to them."""

    contract: Contract
    operations: Mapping[str, BoundOperation]


def bind_interface() -> Interface:
    """Read the contracts and bind them. Raises ContractError, BindingError."""
    contract = Contract.load(openapi_path(), asyncapi_path())
    return Interface(contract, bind(contract))


@dataclass(frozen=True, slots=True)
class _Identity:
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


@asynccontextmanager
async def open_node(
    settings: Settings, directory: DataDirectory, mongodb_uri: str, interface: Interface
) -> AsyncIterator[Node]:
    """Open the stores, start the duties and make the application; close all of it at the end."""
    async with AsyncExitStack() as stack:
        keys = _derive_keys(settings, directory)
        identity = await _open_identity(stack, settings, directory, keys)
        store = await _open_store(stack, settings, mongodb_uri)
        hub = Hub(store.events)
        node_id = directory.node_id()
        trail = AuditTrail(
            store.audit,
            identity.checkpoints,
            store.leadership,
            keys.audit,
            node_id=node_id,
            operations=[bound.operation for bound in interface.operations.values()],
            retention_days=settings.audit_retention_days,
        )
        await trail.open()
        stack.push_async_callback(trail.close)
        identifiers = TypeIdentifiers()
        dispatcher = NodeDispatcher(
            store.tasks,
            store.tasks,
            store.agents,
            identifiers,
            lease_seconds=settings.lease_seconds,
        )
        presence = NodePresence(store.agents, store.tasks)
        releaser = Releaser(store.tasks, store.sweeps)
        for committed in (dispatcher.committed, presence.committed, releaser.committed):
            store.tasks.on_commit(committed)
        hub.subscribe(dispatcher.heard)
        recorder = Recorder(
            store.feed,
            store.events,
            store.leadership,
            hub.publish,
            node_id=node_id,
            retention_days=settings.event_retention_days,
        )
        periods = Periods(
            lease=settings.lease_seconds,
            grace=settings.cancel_grace_seconds,
            agent_timeout=settings.agent_timeout_seconds,
        )
        reaper = Reaper(store.tasks, store.sweeps, presence, releaser, periods)
        relay = OutboxRelay(identity.outbox, store.notices)
        identity.outbox.on_commit(relay.wake)
        duties = (
            Duty(recording.DUTY, store.leadership, node_id, recorder.work),
            Duty(REAPER, store.leadership, node_id, reaper.work),
            Duty(KEY_EXPIRY, store.leadership, node_id, KeyExpiry(identity.key_store).work),
            Duty(OUTBOX, store.leadership, node_id, relay.work),
            trail.duty,
        )
        readiness = Readiness(store.events, identity.revocations, recorder, duties[0])
        services = Services(
            identity=identity.accounts,
            api_keys=identity.api_keys,
            users=identity.users,
            sessions=identity.sessions,
            system=identity.system,
            tickets=identity.tickets,
            token_keys=identity.token_keys,
            signing_keys=identity.signing_keys,
            agents=store.agents,
            tasks=store.tasks,
            logs=store.logs,
            events=store.events,
            audit=store.audit,
            dispatcher=dispatcher,
            dependencies=releaser,
            presence=presence,
            identifiers=identifiers,
            cursors=SignedCursors(keys.cursors),
            documents=interface.contract,
            limits=Limits(settings.lease_seconds, settings.agent_timeout_seconds / 3),
            version=importlib.metadata.version("agentzero-api"),
            readiness=readiness.check,
        )
        authorization = Authorization(identity.system)
        app = make_app(
            interface.operations,
            services,
            identity.authenticator,
            authorization=authorization,
            signatures=Signatures(
                identity.signing_keys,
                identity.nonces,
                signing_required=lambda: identity.system.current.signing_required,
            ),
            audit=trail.audit,
            trusted_proxies=settings.trusted_proxies,
            origins=settings.cors_origins,
            max_body_bytes=settings.max_body_bytes,
            referee=_referee(settings),
        )
        app.pipeline.new_call_id = trail.identifiers.new
        invoker = Invoker(
            interface.operations,
            services,
            authorization=authorization,
            audit=trail.audit,
            new_identifier=identifiers.new,
            new_call_id=trail.identifiers.new,
        )
        links = AgentLinks(services, invoker)
        hub.subscribe(links.heard)
        peers = Peers()
        key_ends = KeyEnds(identity.key_store, peers)
        identity.revocations.on_revoked(key_ends.changed)
        stack.push_async_callback(key_ends.stop)
        realtime = Realtime(
            interface.contract,
            identity.authenticator.authenticate,
            identity.tickets.redeem,
            hub,
            peers,
            links,
            identifiers,
            AddressResolver(settings.trusted_proxies),
            trail.audit,
            trail.identifiers.new,
            origins=settings.cors_origins,
        ).with_heartbeat(settings.heartbeat_seconds)
        app.add_handlers(r".*", realtime.routes())
        first_start = await ensure_bootstrap(
            identity.store,
            identity.passwords,
            identity.api_keys,
            identity.authenticator,
            admin_password=settings.admin_password.get_secret_value() or None,
            operator_key=directory.find_operator_key(),
        )
        if first_start.operator_key is not None:
            directory.write_operator_key(first_start.operator_key)
        await hub.start()
        stack.push_async_callback(hub.stop)
        _start(stack, presence, releaser, trail.auditor, *duties)
        stack.push_async_callback(links.stop)
        _start(stack, dispatcher, peers)
        yield Node(
            app=app,
            services=services,
            hub=hub,
            authenticator=identity.authenticator,
            first_start=first_start,
            store=store,
            readiness=readiness,
            peers=peers,
            links=links,
            dispatcher=dispatcher,
        )


async def serve(settings: Settings) -> None:
    """Run a node until SIGTERM or SIGINT.

    Raises ContractError, BindingError, SettingsError, DataDirectoryError, EmbeddedMongoError,
    Unavailable.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    interface = bind_interface()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(DataDirectory(settings.data_dir))
        uri = settings.mongodb_uri.get_secret_value()
        if settings.embedded_mongodb:
            mongo = EmbeddedMongo(directory.mongo_path, directory.mongo_log_path)
            uri = await mongo.start()
            stack.push_async_callback(mongo.stop)
        node = await stack.enter_async_context(open_node(settings, directory, uri, interface))
        if not await node.readiness.wait(READY_SECONDS):
            log.warning("server.not_ready", **await node.readiness.check())
        server = make_http_server(node.app)
        url = listen(server, settings.host, settings.port)
        directory.write_running_server(url)
        _announce(url, settings, directory, node.first_start)
        await stopping.wait()
        await drain(node, server, settings.drain_seconds)


def listen(server: HTTPServer, host: str, port: int) -> str:
    """Listen; the URL with the port that it is (0 asks for any). Raises SettingsError."""
    try:
        sockets = bind_sockets(port, host)
    except OSError as error:
        problem = f"AGENTZERO_HOST, AGENTZERO_PORT: can't listen on {host}:{port}: {error.strerror}"
        raise SettingsError([problem]) from error
    server.add_sockets(sockets)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{sockets[0].getsockname()[1]}"


async def drain(node: Node, server: HTTPServer, seconds: float) -> None:
    """Stop to accept, send sockets away, let requests end for so long, close what is left."""
    deadline = time.monotonic() + seconds
    log.info("server.draining", seconds=seconds)
    node.readiness.drain()
    node.app.pipeline.draining = True
    server.stop()
    node.links.prepare_stop()
    await node.dispatcher.stop()
    await node.peers.drain(seconds / 2)
    while node.app.pipeline.running and time.monotonic() < deadline:  # noqa: ASYNC110 - a number
        await asyncio.sleep(DRAIN_POLL_SECONDS)
    with suppress(TimeoutError):
        await asyncio.wait_for(server.close_all_connections(), CLOSE_SECONDS)


class _Part(Protocol):
    """A duty of the node that starts at once and ends with it."""

    def start(self) -> None: ...
    async def stop(self) -> None: ...


def _start(stack: AsyncExitStack, *parts: _Part) -> None:
    for part in parts:
        part.start()
        stack.push_async_callback(part.stop)


async def _open_identity(
    stack: AsyncExitStack, settings: Settings, directory: DataDirectory, keys: Keys
) -> _Identity:
    database = await _open_sql(stack, settings, directory)
    store = SqlIdentity(database, session_lifetime=timedelta(days=settings.refresh_token_days))
    revocations = Revocations(store)
    await revocations.start()
    stack.push_async_callback(revocations.stop)
    passwords = Passwords()
    stack.callback(passwords.close)
    tokens = _tokens(settings, keys)
    token_keys = _token_keys(settings, keys, database, tokens, revocations)
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
    _start(stack, SessionSweep(session_store))
    system = LiveSettings(
        SqlSystemSettings(database), revocations, fixed_allowlist=settings.admin_allowlist
    )
    await system.start()
    stack.push_async_callback(system.stop)
    return _Identity(
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


@asynccontextmanager
async def open_token_keys(
    settings: Settings, directory: DataDirectory
) -> AsyncIterator[SealedTokenKeys]:
    """The keys of access tokens alone, for a command that runs while no server does."""
    async with AsyncExitStack() as stack:
        database = await _open_sql(stack, settings, directory)
        keys = _derive_keys(settings, directory)
        revocations = Revocations(SqlIdentity(database))
        yield _token_keys(settings, keys, database, _tokens(settings, keys), revocations)


@asynccontextmanager
async def open_users(settings: Settings, directory: DataDirectory) -> AsyncIterator[StoredUsers]:
    """The users alone, for a command that runs while no server does."""
    async with AsyncExitStack() as stack:
        database = await _open_sql(stack, settings, directory)
        passwords = Passwords()
        stack.callback(passwords.close)
        guard = LoginGuard(SqlLoginFailures(database), _derive_keys(settings, directory).accounts)
        # Nobody is connected here; nodes elsewhere follow by the record.
        yield StoredUsers(
            SqlUsers(database), passwords=passwords, guard=guard, announce=lambda _: None
        )


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
        uri = settings.mongodb_uri.get_secret_value()
        if settings.embedded_mongodb:
            mongo = EmbeddedMongo(directory.mongo_path, directory.mongo_log_path)
            uri = mongo.uri
            if not directory.is_locked():
                stack.enter_context(directory)
                uri = await mongo.start()
                stack.push_async_callback(mongo.stop)
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


def _derive_keys(settings: Settings, directory: DataDirectory) -> Keys:
    return Keys.derive((settings.secret_key.get_secret_value() or directory.secret_key()).encode())


async def _open_sql(
    stack: AsyncExitStack, settings: Settings, directory: DataDirectory
) -> Database:
    url = settings.sql_url.get_secret_value() or f"sqlite:///{directory.sqlite_path}"
    database = Database(url)
    stack.callback(database.close)
    await asyncio.to_thread(database.migrate)
    return database


def _tokens(settings: Settings, keys: Keys) -> AccessTokens:
    return AccessTokens(keys.signing, issuer=ISSUER, lifetime_seconds=settings.access_token_seconds)


def _token_keys(
    settings: Settings,
    keys: Keys,
    database: Database,
    tokens: AccessTokens,
    revocations: Revocations,
) -> SealedTokenKeys:
    return SealedTokenKeys(
        SqlTokenKeys(database),
        tokens,
        Seal(keys.sealing),
        keys.signing[0],
        revocations,
        algorithm=settings.token_algorithm,
    )


async def _open_store(stack: AsyncExitStack, settings: Settings, uri: str) -> Store:
    client = open_client(uri)
    stack.push_async_callback(client.close)
    stream_client = open_stream_client(uri)
    stack.push_async_callback(stream_client.close)
    database = open_database(client, settings.mongodb_database)
    agents = MongoAgents(database)
    tasks = MongoTasks(database)
    logs = MongoTaskLogs(database, tasks)
    notices = MongoNotices(database)
    events = MongoEventLog(database)
    audit = MongoAudit(database)
    # Making indexes may take long; that nobody is there should not.
    await require_reachable(client)
    for prepared in (agents, tasks, logs, notices, events, audit):
        await prepared.prepare()
    return Store(
        agents=agents,
        tasks=tasks,
        logs=logs,
        notices=notices,
        events=events,
        sweeps=MongoSweeps(tasks, agents),
        feed=MongoChangeFeed(open_database(stream_client, settings.mongodb_database), database),
        leadership=MongoLeadership(database),
        audit=audit,
    )


def _referee(settings: Settings) -> Any:
    if not settings.contract_referee:
        return None
    from server.referee import Referee  # noqa: PLC0415 - a second of imports that production saves

    return Referee(openapi_path())


def _announce(
    url: str, settings: Settings, directory: DataDirectory, first_start: FirstStart
) -> None:
    log.info("server.listening", url=url, data_dir=str(settings.data_dir))
    if first_start.admin_password is not None:
        # The one time that this password is anywhere but in its owner's hands; not through the log.
        print(f"User `admin` was made, its password is: {first_start.admin_password}", flush=True)  # noqa: T201
    if first_start.operator_key is not None:
        print(f"The operator's API key is in {directory.operator_key_path}", flush=True)  # noqa: T201
