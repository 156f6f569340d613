"""Makes what moves the hive: the dispatcher, the duties, and what waits, sweeps and carries on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hive.events import Event
from server import recorder as recording
from server.audit_trail import AuditTrail
from server.batches import NodeBatches
from server.bootstrap.identities import Identity
from server.bootstrap.parts import Part
from server.bootstrap.schedules import make_scheduler_duty
from server.bootstrap.stores import Store
from server.dispatcher import NodeDispatcher
from server.doorbell import HubDoorbell
from server.duties import Duty
from server.hive_gate import HiveGate
from server.hub import Hub
from server.identifiers import TypeIdentifiers
from server.key_expiry import DUTY as KEY_EXPIRY
from server.key_expiry import KeyExpiry
from server.mailboxes import NodeMailboxes
from server.node_presence import NodeSigns
from server.outbox import DUTY as OUTBOX
from server.outbox import OutboxRelay
from server.presence import NodePresence
from server.readiness import Readiness
from server.reaper import DUTY as REAPER
from server.reaper import Periods, Reaper
from server.rebalancing import Rebalancer
from server.recorder import Recorder
from server.releaser import Releaser
from server.retention import DUTY as RETENTION
from server.retention import Retention
from server.settings import Settings
from server.submissions import NodeSubmissions
from server.subtrees import NodeSubtrees
from server.task_waits import NodeTaskWaits


@dataclass(frozen=True, slots=True)
class Engine:
    """What moves the hive: `background` starts with the node, in this order."""

    dispatcher: NodeDispatcher
    task_waits: NodeTaskWaits
    mailboxes: NodeMailboxes
    rebalancer: Rebalancer
    presence: NodePresence
    releaser: Releaser
    batches: NodeBatches
    subtrees: NodeSubtrees
    submissions: NodeSubmissions
    readiness: Readiness
    signs: NodeSigns
    background: tuple[Part, ...]


def make_engine(
    settings: Settings,
    identity: Identity,
    store: Store,
    hub: Hub,
    trail: AuditTrail,
    doorbell: HubDoorbell | None,
    *,
    node_id: str,
    version: str,
) -> Engine:
    """Make all of it, and have it hear of what happens here and elsewhere."""
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
    store.agents.on_commit(dispatcher.agent_committed)
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
    submissions = NodeSubmissions(
        store.tasks, store.open_tasks, most=settings.max_open_tasks_per_owner
    )
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
        make_scheduler_duty(store, submissions, hub, node_id),
    )
    signs = NodeSigns(store.nodes, duties, node_id=node_id, version=version)
    return Engine(
        dispatcher=dispatcher,
        task_waits=task_waits,
        mailboxes=mailboxes,
        rebalancer=rebalancer,
        presence=presence,
        releaser=releaser,
        batches=batches,
        subtrees=subtrees,
        submissions=submissions,
        readiness=Readiness(store.events, identity.revocations, recorder, recording_duty),
        signs=signs,
        background=(presence, releaser, trail.auditor, *duties, signs),
    )


def _publish_to(hub: Hub, doorbell: HubDoorbell) -> Callable[[Sequence[Event]], None]:
    def publish(events: Sequence[Event]) -> None:
        hub.publish(events)
        doorbell.ring(events)

    return publish
