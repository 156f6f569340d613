"""Gives queued tasks to agents that ask for them.

A claim registers as a waiter, tries by itself, and then waits. From there on the one claimer of
the node feeds all waiters in turn, so that they don't all run for the same head of the queue. It
wakes when a task becomes queued (at commit on this node, by the event from another), when an agent
gets a free slot or is resumed, and looks again every 5 s.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

import structlog

from hive import task_machine as machine
from hive.agents import Agent
from hive.changes import Actor
from hive.coordination_ports import Gate
from hive.duty_ports import Queue
from hive.errors import AgentNotFound, HiveError, SlotTaken
from hive.events import Event
from hive.leases import LeaseProof, NewLease
from hive.matching import can_serve, label_words, queue_key, queue_key_of
from hive.ports import Agents, Identifiers, Tasks
from hive.queue_order import head_start_seconds
from hive.tasks import Task, TaskStatus
from server.cancelling import cancel_and_wait
from server.claimants import Claimants

LOOK_AGAIN_SECONDS = 5.0
KEYS_FRESH_SECONDS = 1.0
SLOT_ATTEMPTS = 8
MOMENT_SECONDS = 0.1
ACTOR = Actor("system:dispatcher")
log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Waiter:
    agent_id: str
    max_leases: int
    granted: asyncio.Future[list[Task]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    is_ready: bool = False
    """Its own try is over: it may be fed."""
    was_passed: bool = False
    """The claimer came by before it was ready."""


class NodeDispatcher:
    """The port `hive.ports.Dispatcher` for the agents that ask this node."""

    def __init__(
        self,
        queue: Queue,
        tasks: Tasks,
        agents: Agents,
        identifiers: Identifiers,
        *,
        lease_seconds: float,
        gate: Gate | None = None,
    ) -> None:
        self._queue = queue
        self._tasks = tasks
        self._claimants = Claimants(agents, queue)
        self._identifiers = identifiers
        self._lease_seconds = lease_seconds
        self._gate = gate
        self._waiters: list[_Waiter] = []
        self._wake = asyncio.Event()
        self._claimer: asyncio.Task[None] | None = None
        # Claims of one agent go one by one: they would only race for its slots.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._returning: set[asyncio.Task[None]] = set()
        self._keys: set[str] = set()
        self._new_keys: set[str] = set()
        self._keys_read_at = float("-inf")
        self._moments: set[int] = set()
        self._stopped = False

    def start(self) -> None:
        """Begin to feed waiters."""
        self._claimer = asyncio.create_task(self._feed(), name="claimer")

    async def stop(self) -> None:
        """Answer all waiters with nothing and end; from now on nobody waits."""
        self._stopped = True
        for waiter in self._waiters:
            if not waiter.granted.done():
                waiter.granted.set_result([])
        await cancel_and_wait(self._claimer)
        await asyncio.gather(*self._returning)

    async def claim(self, agent_id: str, *, max_leases: int, wait_seconds: float) -> Sequence[Task]:
        """As the port says. Raises AgentNotFound."""
        waiter = _Waiter(agent_id, max_leases)
        if wait_seconds > 0:
            self._waiters.append(waiter)
        try:
            leased = await self._try(agent_id, max_leases)
            if leased or wait_seconds <= 0 or self._stopped:
                return leased
            waiter.is_ready = True
            if waiter.was_passed:
                self._wake.set()
            await asyncio.wait({waiter.granted}, timeout=wait_seconds)
            return waiter.granted.result() if waiter.granted.done() else []
        except asyncio.CancelledError:
            if waiter.granted.done():
                self._return_soon(waiter.granted)
            raise
        finally:
            self._leave(waiter)

    def committed(self, task: Task, event_type: str) -> None:
        """Called at each commit of a task on this node."""
        self._claimants.task_committed(task, event_type)
        if task.status is TaskStatus.QUEUED:
            self._add_key(queue_key(task.spec))
            self._wake_after(head_start_seconds(task.spec))
        if task.status is TaskStatus.QUEUED or (task.lease is None and event_type != "task.log"):
            self._wake.set()

    def agent_committed(self, agent: Agent, event_type: str) -> None:
        """Called at each commit of an agent on this node."""
        self._claimants.agent_committed(agent, event_type)

    def heard(self, events: Sequence[Event]) -> None:
        """Take events of the hub: other nodes queue tasks and resume agents, too."""
        self._claimants.heard(events)
        for event in events:
            if event.type.startswith("task.") and event.data.get("status") == TaskStatus.QUEUED:
                self._note(event.data)
                self._wake.set()
            elif event.type == "agent.status_changed":
                self._wake.set()

    def wake(self) -> None:
        """Look again now: leases are granted again."""
        self._wake.set()

    def _note(self, summary: Mapping[str, Any]) -> None:
        """Take a task that another node has queued from its event."""
        labels = summary.get("agent_labels", {})
        needed = tuple(summary.get("required_capabilities", ()))
        self._add_key(queue_key_of(needed, labels.get("required", {})))
        starts = (labels if labels.get("preferred") else {}).get("head_start_seconds", 0.0)
        self._wake_after(max(starts, summary.get("sticky", {}).get("seconds", 0.0)))

    def _wake_after(self, seconds: float) -> None:
        """Look again when a head start is over: nothing else says so."""
        if seconds <= 0.0:
            return
        loop = asyncio.get_running_loop()
        # One look for all whose time is over within the same moment: their number has a bound.
        moment = math.ceil((loop.time() + seconds) / MOMENT_SECONDS) + 1
        if moment not in self._moments:
            self._moments.add(moment)
            loop.call_at(moment * MOMENT_SECONDS, self._look, moment)

    def _look(self, moment: int) -> None:
        self._moments.discard(moment)
        self._wake.set()

    def _add_key(self, key: str) -> None:
        self._keys.add(key)
        self._new_keys.add(key)

    async def _try(self, agent_id: str, max_leases: int) -> list[Task]:
        """Lease now. Who leaves meanwhile gives back what was leased for them."""
        serving = asyncio.ensure_future(self._serve(agent_id, max_leases))
        try:
            return await asyncio.shield(serving)
        except asyncio.CancelledError:
            self._return_soon(serving)
            raise

    def _return_soon(self, leasing: asyncio.Future[list[Task]]) -> None:
        async def give_back() -> None:
            try:
                await self._give_back(await leasing)
            except HiveError as error:
                log.info("dispatcher.nothing_to_give_back", cause=str(error))
            except Exception:
                log.exception("dispatcher.failed")

        returning = asyncio.create_task(give_back(), name="give-back")
        self._returning.add(returning)
        returning.add_done_callback(self._returning.discard)

    def _leave(self, waiter: _Waiter) -> None:
        with suppress(ValueError):
            self._waiters.remove(waiter)
        if not waiter.granted.done():
            waiter.granted.cancel()

    async def _feed(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_AGAIN_SECONDS)
            self._wake.clear()
            for waiter in list(self._waiters):
                if waiter.granted.done():
                    continue
                if not waiter.is_ready:
                    waiter.was_passed = True
                    continue
                try:
                    leased = await self._try(waiter.agent_id, waiter.max_leases)
                    if leased and not self._answer(waiter, leased):
                        await self._give_back(leased)
                except AgentNotFound:
                    self._answer(waiter, [])
                except HiveError as error:
                    log.warning("dispatcher.failed", cause=str(error))
                    break
                except Exception:
                    log.exception("dispatcher.failed")
                    break

    def _answer(self, waiter: _Waiter, leased: list[Task]) -> bool:
        if waiter.granted.done():
            return False
        waiter.granted.set_result(leased)
        return True

    async def _give_back(self, leased: Iterable[Task]) -> None:
        """The waiter left while its tasks were leased."""
        for task in leased:
            if task.lease is None:
                continue
            proof = LeaseProof(task.lease.lease_id, task.lease.fence)
            try:
                await self._tasks.change_leased(
                    proof,
                    lambda held, proof=proof: machine.release(held, proof, None),  # type: ignore[misc]
                    ACTOR,
                    agent_id=None,
                )
            except HiveError as error:
                # It comes back by itself when it expires; the others are given back now.
                log.warning("dispatcher.lease_kept", task_id=task.task_id, cause=str(error))

    async def _serve(self, agent_id: str, max_leases: int) -> list[Task]:
        async with self._locks.setdefault(agent_id, asyncio.Lock()):
            return await self._lease(await self._claimants.get(agent_id), max_leases)

    async def _lease(self, agent: Agent, max_leases: int) -> list[Task]:
        if not agent.takes_work:
            return []
        if self._gate is not None and not await self._gate.is_open():
            return []
        capabilities, words = frozenset(agent.spec.capabilities), label_words(agent.spec.labels)
        labels = frozenset(words)
        keys = [key for key in await self._queued_keys() if can_serve(capabilities, labels, key)]
        leased: list[Task] = []
        if not keys:
            return leased
        for _ in range(SLOT_ATTEMPTS):
            used = await self._claimants.slots_in_use(agent.agent_id)
            unused = (slot for slot in range(1, agent.spec.slots + 1) if slot not in used)
            try:
                slots = list(islice(unused, max_leases - len(leased)))
                await self._fill(leased, agent.agent_id, words, slots, keys)
            except SlotTaken:
                self._claimants.forget_slots(agent.agent_id)
                continue
            return leased
        # Others were faster each time, and there may be more for this one.
        self._wake.set()
        return leased

    async def _fill(
        self,
        leased: list[Task],
        agent_id: str,
        labels: tuple[str, ...],
        slots: Sequence[int],
        keys: Sequence[str],
    ) -> None:
        """Lease tasks into these slots, as far as there are any. Raises SlotTaken."""
        if len(slots) > 1 and not self._queue.has_keyed:
            leases = [self._new_lease(agent_id, labels, slot) for slot in slots]
            leased += await self._queue.claim_many(leases, keys, machine.start, Actor(agent_id))
            return
        for slot in slots:
            task = await self._claim_one(agent_id, labels, slot, keys)
            if task is None:
                return
            leased.append(task)

    async def _claim_one(
        self, agent_id: str, labels: tuple[str, ...], slot: int, keys: Sequence[str]
    ) -> Task | None:
        saturated: list[str] = []
        while True:
            head = await self._queue.keyed_head(
                keys, without=saturated, agent_id=agent_id, labels=labels
            )
            key_slot: int | None = None
            if head is not None:
                used = await self._queue.key_slots(head[0])
                key_slot = next((n for n in range(1, head[1] + 1) if n not in used), None)
                if key_slot is None:
                    saturated.append(head[0])
                    continue
            lease = self._new_lease(agent_id, labels, slot, head[0] if head else None, key_slot)
            task = await self._queue.claim(lease, keys, machine.start(lease), Actor(agent_id))
            if task is not None or head is None:
                return task

    def _new_lease(
        self,
        agent_id: str,
        labels: tuple[str, ...],
        slot: int,
        key: str | None = None,
        key_slot: int | None = None,
    ) -> NewLease:
        return NewLease(
            self._identifiers.new("lse"),
            agent_id,
            slot,
            self._lease_seconds,
            key=key,
            key_slot=key_slot,
            labels=labels,
        )

    async def _queued_keys(self) -> Iterable[str]:
        now = time.monotonic()
        if now - self._keys_read_at > KEYS_FRESH_SECONDS:
            self._keys_read_at = now
            # What becomes queued while we ask may be too late for the answer.
            self._new_keys = set()
            queued = await self._queue.queued_keys()
            self._keys = self._new_keys.union(queued)
        return tuple(self._keys)
