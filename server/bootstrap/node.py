"""Makes a node: the stores, the services, the duties and the application, all in one place.

`open_node` is a context manager: what was opened is closed in the opposite order, whatever fails
in between.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hive.coordination_ports import Coordination
from hive.events import Event
from hive.ports import Limits, Services
from server import recorder as recording
from server.addresses import AddressResolver
from server.agent_links import AgentLinks
from server.app import HiveApplication, make_app
from server.artifacts import NodeArtifacts
from server.audit_trail import AuditTrail
from server.authentication import Authenticator
from server.authorization import Authorization
from server.batches import NodeBatches
from server.binding import BoundOperation, bind
from server.bootstrap.doorbell import make_doorbell
from server.bootstrap.identities import Identity, derive_keys, open_identity
from server.bootstrap.parts import Part, start
from server.bootstrap.rate_limits import make_rate_limits
from server.bootstrap.response_cache import open_response_cache
from server.bootstrap.schedules import make_scheduler_duty, make_scheduling
from server.bootstrap.stores import Store, open_redis, open_store
from server.compression import Compression
from server.contract import Contract
from server.cursors import SignedCursors
from server.data_directory import DataDirectory
from server.dispatcher import NodeDispatcher
from server.doorbell import HubDoorbell
from server.duties import Duty
from server.first_start import FirstStart, ensure_bootstrap
from server.hive_gate import HiveGate
from server.hub import Hub
from server.idempotency import Idempotency
from server.identifiers import TypeIdentifiers
from server.invocation import Invoker
from server.key_ends import KeyEnds
from server.key_expiry import DUTY as KEY_EXPIRY
from server.key_expiry import KeyExpiry
from server.keys import Keys
from server.load import Load
from server.mailboxes import NodeMailboxes
from server.node_presence import NodeSigns
from server.outbox import DUTY as OUTBOX
from server.outbox import OutboxRelay
from server.peers import Peers
from server.presence import NodePresence
from server.readiness import Readiness
from server.reaper import DUTY as REAPER
from server.reaper import Periods, Reaper
from server.rebalancing import Rebalancer
from server.recorder import Recorder
from server.releaser import Releaser
from server.resources import asyncapi_path, openapi_path
from server.retention import DUTY as RETENTION
from server.retention import Retention
from server.settings import Settings
from server.signatures import Signatures
from server.submissions import NodeSubmissions
from server.subtrees import NodeSubtrees
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
        engine = _make_engine(settings, identity, store, hub, trail, doorbell, directory.node_id())
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
        start(stack, make_scheduler_duty(store, services.submissions, hub, directory.node_id()))
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


@dataclass(frozen=True, slots=True)
class _Engine:
    """What moves the hive: `background` starts with the node, in this order."""

    dispatcher: NodeDispatcher
    task_waits: NodeTaskWaits
    mailboxes: NodeMailboxes
    rebalancer: Rebalancer
    presence: NodePresence
    releaser: Releaser
    batches: NodeBatches
    subtrees: NodeSubtrees
    readiness: Readiness
    signs: NodeSigns
    background: tuple[Part, ...]


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


def _make_engine(
    settings: Settings,
    identity: Identity,
    store: Store,
    hub: Hub,
    trail: AuditTrail,
    doorbell: HubDoorbell | None,
    node_id: str,
) -> _Engine:
    gate = HiveGate(store.hive)
    store.hive.on_commit(gate.committed)
    hub.subscribe(gate.heard)
    dispatcher = NodeDispatcher(
        store.tasks.queue,
        store.tasks,
        store.agents,
        TypeIdentifiers(),
        lease_seconds=settings.lease_seconds,
        gate=gate,
    )
    gate.on_open(dispatcher.wake)
    presence = NodePresence(store.agents, store.tasks.queue)
    releaser = Releaser(store.tasks, store.sweeps)
    task_waits = NodeTaskWaits(store.tasks)
    hub.subscribe(task_waits.heard)
    mailboxes = NodeMailboxes(store.messages)
    store.messages.on_commit(mailboxes.committed)
    hub.subscribe(mailboxes.heard)
    for committed in (
        dispatcher.committed,
        presence.committed,
        releaser.committed,
        task_waits.committed,
    ):
        store.tasks.on_commit(committed)
    hub.subscribe(dispatcher.heard)
    recorder = Recorder(
        store.feed,
        store.events,
        store.leadership,
        hub.publish if doorbell is None else _publish_to(hub, doorbell),
        node_id=node_id,
        retention_days=settings.event_retention_days,
    )
    periods = Periods(
        lease=settings.lease_seconds,
        grace=settings.cancel_grace_seconds,
        agent_timeout=settings.agent_timeout_seconds,
    )
    rebalancer = Rebalancer(store.tasks, store.holders)
    batches = NodeBatches(store.batches, store.tasks, releaser)
    subtrees = NodeSubtrees(store.subtree_orders, store.graphs, store.tasks)
    reaper = Reaper(
        store.tasks,
        store.sweeps,
        presence,
        releaser,
        periods,
        interrupted=(batches, subtrees, rebalancer),
    )
    relay = OutboxRelay(identity.outbox, store.notices)
    identity.outbox.on_commit(relay.wake)
    recording_duty = Duty(recording.DUTY, store.leadership, node_id, recorder.work)
    duties = (
        recording_duty,
        Duty(REAPER, store.leadership, node_id, reaper.work),
        Duty(KEY_EXPIRY, store.leadership, node_id, KeyExpiry(identity.key_store).work),
        Duty(OUTBOX, store.leadership, node_id, relay.work),
        Duty(
            RETENTION,
            store.leadership,
            node_id,
            Retention(store.old, task_days=settings.task_retention_days).work,
        ),
        trail.duty,
    )
    signs = NodeSigns(store.nodes, duties, node_id=node_id, version=_version())
    return _Engine(
        dispatcher=dispatcher,
        task_waits=task_waits,
        mailboxes=mailboxes,
        rebalancer=rebalancer,
        presence=presence,
        releaser=releaser,
        batches=batches,
        subtrees=subtrees,
        readiness=Readiness(store.events, identity.revocations, recorder, recording_duty),
        signs=signs,
        background=(presence, releaser, trail.auditor, *duties, signs),
    )


def _publish_to(hub: Hub, doorbell: HubDoorbell) -> Callable[[Sequence[Event]], None]:
    def publish(events: Sequence[Event]) -> None:
        hub.publish(events)
        doorbell.ring(events)

    return publish


def _make_services(
    settings: Settings,
    keys: Keys,
    identity: Identity,
    store: Store,
    engine: _Engine,
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
        submissions=NodeSubmissions(
            store.tasks, store.open_tasks, most=settings.max_open_tasks_per_owner
        ),
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
