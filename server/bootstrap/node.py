"""Makes a node: the stores, the services, the duties and the application, all in one place.

`open_node` is a context manager: what was opened is closed in the opposite order, whatever fails
in between.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hive.coordination_ports import Coordination
from hive.ports import Limits, Services
from server.addresses import AddressResolver
from server.agent_links import AgentLinks
from server.app import HiveApplication, make_app
from server.artifacts import NodeArtifacts
from server.audit_trail import AuditTrail
from server.authentication import Authenticator
from server.authorization import Authorization
from server.binding import BoundOperation, bind
from server.bootstrap.doorbell import make_doorbell
from server.bootstrap.engine import Engine, make_engine
from server.bootstrap.identities import Identity, derive_keys, open_identity
from server.bootstrap.parts import start
from server.bootstrap.rate_limits import make_rate_limits
from server.bootstrap.response_cache import open_response_cache
from server.bootstrap.schedules import make_scheduling
from server.bootstrap.stores import Store, open_redis, open_store
from server.compression import Compression
from server.contract import Contract
from server.cursors import SignedCursors
from server.data_directory import DataDirectory
from server.dispatcher import NodeDispatcher
from server.first_start import FirstStart, ensure_bootstrap
from server.hub import Hub
from server.idempotency import Idempotency
from server.identifiers import TypeIdentifiers
from server.invocation import Invoker
from server.key_ends import KeyEnds
from server.keys import Keys
from server.load import Load
from server.mailboxes import NodeMailboxes
from server.node_presence import NodeSigns
from server.peers import Peers
from server.readiness import Readiness
from server.resources import asyncapi_path, openapi_path
from server.settings import Settings
from server.signatures import Signatures
from server.task_waits import NodeTaskWaits
from server.websocket import Realtime


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
    task_waits: NodeTaskWaits
    mailboxes: NodeMailboxes
    dispatcher: NodeDispatcher
    signs: NodeSigns


@dataclass(frozen=True, slots=True)
class Interface:
    """The contracts and the operations that are bound to them."""

    contract: Contract
    operations: Mapping[str, BoundOperation]


def bind_interface() -> Interface:
    """Read the contracts and bind them. Raises ContractError, BindingError."""
    contract = Contract.load(openapi_path(), asyncapi_path())
    return Interface(contract, bind(contract))


@asynccontextmanager
async def open_node(
    settings: Settings, directory: DataDirectory, mongodb_uri: str, interface: Interface
) -> AsyncIterator[Node]:
    """Open the stores, start the duties and make the application; close all of it at the end."""
    async with AsyncExitStack() as stack:
        keys = derive_keys(settings, directory)
        identity = await open_identity(stack, settings, directory, keys)
        store = await open_store(stack, settings, mongodb_uri)
        redis = open_redis(stack, settings)
        trail = _make_trail(settings, keys, identity, store, interface, directory.node_id())
        await trail.open()
        stack.push_async_callback(trail.close)
        hub = Hub(store.events)
        doorbell = make_doorbell(settings, keys, hub, redis)
        engine = make_engine(
            settings,
            identity,
            store,
            hub,
            trail,
            doorbell,
            node_id=directory.node_id(),
            version=_version(),
        )
        services = _make_services(settings, keys, identity, store, engine, interface)
        authorization = Authorization(identity.system)
        limits = make_rate_limits(settings, redis)
        load = Load(
            settings.max_running,
            settings.max_concurrent_per_principal,
            adaptive=settings.load_shedding_enabled,
        )
        stack.callback(load.stop)
        compression = Compression()
        stack.callback(compression.close)
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
            new_call_id=trail.identifiers.new,
            trusted_proxies=settings.trusted_proxies,
            origins=settings.cors_origins,
            max_body_bytes=settings.max_body_bytes,
            max_large_body_bytes=settings.max_artifact_bytes,
            limits=limits,
            load=load,
            referee=_referee(settings),
            compression=compression,
            idempotency=Idempotency(
                store.idempotency, key=keys.idempotency, node_id=directory.node_id()
            ),
            cache=open_response_cache(settings, keys, interface.contract, store, hub, redis),
        )
        invoker = Invoker(
            interface.operations,
            services,
            authorization=authorization,
            audit=trail.audit,
            limits=limits,
            load=load,
            new_identifier=services.identifiers.new,
            new_call_id=trail.identifiers.new,
        )
        links = AgentLinks(services, invoker, messages=store.messages)
        hub.subscribe(links.heard)
        peers = Peers()
        key_ends = KeyEnds(identity.key_store, peers)
        identity.revocations.on_revoked(key_ends.changed)
        stack.push_async_callback(key_ends.stop)
        realtime = Realtime(
            interface.contract,
            limits.guard(identity.authenticator.authenticate),
            limits.guard(identity.tickets.redeem),
            hub,
            peers,
            links,
            services.identifiers,
            AddressResolver(settings.trusted_proxies),
            trail.audit,
            trail.identifiers.new,
            origins=settings.cors_origins,
        ).with_heartbeat(settings.heartbeat_seconds)
        app.add_handlers(r".*", realtime.routes())
        first_start = await prepare_first_start(settings, directory, identity)
        await hub.start()
        stack.push_async_callback(hub.stop)
        if doorbell is not None:
            start(stack, doorbell)
        start(stack, *engine.background)
        stack.push_async_callback(links.stop)
        start(stack, engine.dispatcher, engine.task_waits, engine.mailboxes, peers)
        yield Node(
            app=app,
            services=services,
            hub=hub,
            authenticator=identity.authenticator,
            first_start=first_start,
            store=store,
            readiness=engine.readiness,
            peers=peers,
            links=links,
            task_waits=engine.task_waits,
            mailboxes=engine.mailboxes,
            dispatcher=engine.dispatcher,
            signs=engine.signs,
        )


def _make_trail(
    settings: Settings,
    keys: Keys,
    identity: Identity,
    store: Store,
    interface: Interface,
    node_id: str,
) -> AuditTrail:
    return AuditTrail(
        store.audit,
        identity.checkpoints,
        store.leadership,
        keys.audit,
        node_id=node_id,
        operations=[bound.operation for bound in interface.operations.values()],
        retention_days=settings.audit_retention_days,
    )


def _make_services(
    settings: Settings,
    keys: Keys,
    identity: Identity,
    store: Store,
    engine: Engine,
    interface: Interface,
) -> Services:
    return Services(
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
        artifacts=NodeArtifacts(
            store.tasks,
            store.artifact_files,
            TypeIdentifiers(),
            most_bytes=settings.max_task_artifact_bytes,
        ),
        events=store.events,
        scheduling=make_scheduling(store),
        audit=store.audit,
        submissions=engine.submissions,
        task_waits=engine.task_waits,
        dispatcher=engine.dispatcher,
        batches=engine.batches,
        graphs=store.graphs,
        subtrees=engine.subtrees,
        dependencies=engine.releaser,
        presence=engine.presence,
        nodes=store.nodes,
        coordination=Coordination(
            hive=store.hive,
            topology=store.topology,
            diagnoses=store.diagnoses,
            messages=store.messages,
            mailboxes=engine.mailboxes,
            rebalancing=engine.rebalancer,
        ),
        identifiers=TypeIdentifiers(),
        cursors=SignedCursors(keys.cursors),
        documents=interface.contract,
        limits=Limits(settings.lease_seconds, settings.agent_timeout_seconds / 3),
        version=_version(),
        readiness=engine.readiness.check,
        item_fields={
            name: operation.item_fields
            for name, operation in interface.contract.operations.items()
            if operation.item_fields is not None
        },
    )


async def prepare_first_start(
    settings: Settings, directory: DataDirectory, identity: Identity
) -> FirstStart:
    """Make what a fresh installation needs, and keep the operator's key. Raises Unavailable."""
    first_start = await ensure_bootstrap(
        identity.store,
        identity.passwords,
        identity.api_keys,
        identity.authenticator,
        admin_password=settings.admin_password.get_secret_value() or None,
        operator_key=directory.find_operator_key(),
        node_id=directory.node_id(),
    )
    if first_start.operator_key is not None:
        directory.write_operator_key(first_start.operator_key)
    return first_start


def _version() -> str:
    return importlib.metadata.version("agentzero-api")


def _referee(settings: Settings) -> Any:
    if not settings.contract_referee:
        return None
    from server.referee import Referee  # noqa: PLC0415 - a second of imports that production saves

    return Referee(openapi_path())
