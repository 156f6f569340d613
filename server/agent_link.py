"""The link of one agent, `/ws/agents/{agent_id}`: work goes out into free slots, reports come in.

Life cycle: after authentication `hello` makes the link the agent's link (an older one ends with
4010), announces what the process says of itself and tells which leases go on. From then on a loop
claims work while slots are free; it is never cancelled in the middle of a claim, and gives back
what it got for a socket that has gone. Leases outlive the link.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

import structlog

from handlers.views import control_view, lease_view
from hive.agents import DesiredState
from hive.attempts import LOST_LEASES
from hive.changes import Actor
from hive.errors import AgentNotFound, HiveError
from hive.events import Event
from hive.permissions import Principal, require_agent
from hive.task_machine import DRAINED
from hive.tasks import Task
from server.agent_messages import AgentMessages
from server.announcement import announce
from server.closing import CloseCode, Disconnect, ErrorCode, FrameRefused
from server.frames import control_frame
from server.held_leases import LEASE_OVER, Held, HeldLeases
from server.invocation import Outcome
from server.peer import Frame, Peer
from server.reports import ACKNOWLEDGE, ENDING, REPORTS, TAKEN, answer_report, call_of
from server.reports_in_flight import ReportsInFlight

if TYPE_CHECKING:
    from server.agent_links import AgentLinks
    from server.pipeline import Call

ASSIGN_ABOVE_BYTES: Final = 64 * 1024
RETRY_SECONDS: Final = 1.0
MOMENT_SECONDS: Final = 0.004
LOST_STATUSES: Final = frozenset({404, 409})
ACTIONS: Final = {
    DesiredState.ACTIVE: "resume",
    DesiredState.PAUSED: "pause",
    DesiredState.DRAINING: "drain",
}

log = structlog.get_logger(__name__)


class AgentLink(Peer):
    """One socket of one agent."""

    permission = "agents:work"
    raw_members: ClassVar = {"complete": frozenset({"result"})}

    def __init__(self, *args: Any, agent_id: str, links: AgentLinks, by: Call, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._call = (by.request_id, by.call_id)
        self.agent_id = agent_id
        self._links = links
        self._services = links.services
        self._greeted = False
        self._made_at = self._now
        self._held = HeldLeases()
        self._slots = 0
        self._reserved = 0
        self._is_silent = False
        self._desired = DesiredState.ACTIVE
        self._agent_version = 0
        self._last_control = 0
        self._changed = asyncio.Event()
        self._reports = ReportsInFlight()
        self._mailbox: AgentMessages | None = None
        if links.messages is not None:
            self._mailbox = AgentMessages(agent_id, links.messages, self.write, links.spawn)

    @property
    def free_slots(self) -> int:
        """How many more tasks the agent takes, as far as this link knows."""
        if self._is_silent:
            return 0
        return max(0, self._slots - len(self._held) - self._reserved)

    def permit(self, principal: Principal) -> None:
        """Only the agent itself, or an admin."""
        require_agent(principal, self.agent_id)

    async def introduced(self, frame: Frame) -> Mapping[str, Any]:
        """A link has no cursor."""
        if "cursor" in frame:
            raise FrameRefused(ErrorCode.CANNOT_RESUME, "The agent's link has no cursor.")
        return {"limits": self.common_limits()}

    async def on_hello(self, frame: Frame) -> None:
        """Become the agent's link, and start to work."""
        if self._greeted:
            raise Disconnect(CloseCode.SECOND_CONNECT, "hello came a second time")
        try:
            agent = await announce(self._services.agents, self.agent_id, frame, self._actor)
        except AgentNotFound as error:
            raise Disconnect(CloseCode.FORBIDDEN, error.detail) from error
        # From here on the log's events reach this link; what is read next is at least as new.
        self._links.take_over(self)
        agent = await self._links.settle_presence(self.agent_id) or agent
        self._learn(agent.desired_state, agent.spec.slots, agent.version)
        tasks = await self._services.tasks.held_by(self.agent_id)
        asked = [(proof["lease_id"], proof["fence"]) for proof in frame.get("resume_leases", ())]
        cancelled = self._resume(tasks, asked)
        limits = self._services.limits
        self._greeted = True
        await self.answer(
            control_frame(
                "ready",
                agent_id=self.agent_id,
                heartbeat_seconds=limits.agent_heartbeat_seconds,
                lease_seconds=limits.lease_seconds,
                slots=self._slots,
                desired_state=self._desired,
                resumed=list(self._held),
                lost=[lease_id for lease_id, _ in asked if self._held.find(lease_id) is None],
            )
        )
        for held in cancelled:
            self._tell_cancel(held)
        self._send_controls([control_view(control) for control in agent.controls])
        self.heard_of_message()
        if not self.ended:
            self._links.spawn(self._push_work(), name=f"push work to {self.agent_id}")

    async def on_report(self, frame: Frame) -> None:
        """Run the report beside others, behind the earlier ones of its lease."""
        self._require_greeting()
        await self._reports.make_room()
        self._reports.add(
            frame.get("lease_id", ""),
            self.frame_bytes,
            lambda earlier: self._links.spawn(
                self._report(frame, earlier), name=f"report of {self.agent_id}"
            ),
        )

    handlers: ClassVar = {
        "connect": Peer.on_connect,
        "hello": on_hello,
        "ping": Peer.on_ping,
        "pong": Peer.on_pong,
        **dict.fromkeys((*REPORTS, ACKNOWLEDGE), on_report),
    }

    def heard_of_task(self, event: Event) -> None:
        """Learn from the log that a lease of this agent is to end, or has ended."""
        held = self._held.concerned(event)
        if held is None:
            return
        if event.type == "task.cancelling":
            self._tell_cancel(held)
        elif event.type in LEASE_OVER and not held.ending:
            # A process that let a lease run out may hang; its socket can stay open for long.
            if event.data.get("error", {}).get("code") in LOST_LEASES:
                self._is_silent = True
            is_drained = (event.type, event.data.get("reason")) == ("task.released", DRAINED)
            self._lose(held, cause=DRAINED if is_drained else None)

    def heard_of_agent(self, event: Event) -> None:
        """Learn from the log what is wanted of the agent."""
        if event.type == "agent.unregistered":
            self.end(CloseCode.REVOKED, "the agent was unregistered")
        elif event.type == "agent.control_requested":
            self.spawn(self._fetch_controls(), name=f"controls of {self.agent_id}")
        else:
            data = event.data
            self._learn(
                DesiredState(data["desired_state"]), int(data["slots"]), int(data["version"])
            )

    def heard_of_message(self) -> None:
        """Learn from the log that a message waits for this agent."""
        if self._mailbox is not None and self._greeted and not self.ended:
            self._mailbox.look()

    def heard(self) -> None:
        """A process that can still send gets work again."""
        super().heard()
        if self._is_silent:
            self._is_silent = False
            self._changed.set()

    def ticked(self, now: float) -> None:
        """Raise Disconnect when `hello` does not come."""
        if not self._greeted and now - self._made_at > self._limits.hello_seconds:
            raise Disconnect(CloseCode.NO_HEARTBEAT, "no hello came in time")

    def finished(self) -> None:
        """Leave the place to the next link, and let the loop end."""
        self._links.leave(self)
        self._changed.set()

    # hello

    def _resume(self, tasks: Sequence[Task], asked: Sequence[tuple[str, int]]) -> list[Held]:
        """Take over the leases that the agent names and still has; those to be cancelled."""
        cancelled = []
        for task in tasks:
            lease = task.lease
            if lease is None or (lease.lease_id, lease.fence) not in asked:
                continue
            held = self._hold(task)
            if self._held.is_cancelled(task):
                cancelled.append(held)
        return cancelled

    def _learn(self, desired: DesiredState, slots: int, version: int) -> None:
        if version < self._agent_version:
            return
        was, known = self._desired, self._agent_version > 0
        self._desired, self._slots, self._agent_version = desired, slots, version
        self._changed.set()
        if known and desired is not was:
            self.write(control_frame("control", action=ACTIONS[desired]))

    async def _fetch_controls(self) -> None:
        agent = await self._services.agents.get(self.agent_id)
        self._send_controls([control_view(control) for control in agent.controls])

    def _send_controls(self, controls: Sequence[Mapping[str, Any]]) -> None:
        for control in controls:
            if control["control_id"] > self._last_control:
                self._last_control = control["control_id"]
                shown = {name: control.get(name) for name in ("control_id", "action", "reason")}
                self.write(control_frame("control", **shown))

    # Work goes out.

    async def _push_work(self) -> None:
        while not self.ended:
            if self._desired is not DesiredState.ACTIVE or not self.free_slots:
                self._changed.clear()
                await self._changed.wait()
                continue
            for task in await self._claim():
                try:
                    await self.hand_over(task)
                except Exception:
                    log.exception("link.assignment_failed", task_id=task.task_id)
                    self.end(CloseCode.INTERNAL, "the server failed")
                    await self._give_back(task)
            # Slots that are free until then are filled together.
            await asyncio.sleep(MOMENT_SECONDS)

    async def _claim(self) -> Sequence[Task]:
        began = time.monotonic()
        try:
            tasks = await self._services.dispatcher.claim(
                self.agent_id,
                max_leases=self.free_slots,
                wait_seconds=self._links.claim_wait_seconds,
            )
        except AgentNotFound:
            self.end(CloseCode.FORBIDDEN, "Agent not found")
            return ()
        except HiveError as error:
            log.warning("link.claim_failed", agent_id=self.agent_id, cause=str(error))
            tasks = ()
        except Exception:
            log.exception("link.claim_failed", agent_id=self.agent_id)
            self.end(CloseCode.INTERNAL, "the server failed")
            return ()
        if not tasks and time.monotonic() - began < min(
            RETRY_SECONDS, self._links.claim_wait_seconds
        ):
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), RETRY_SECONDS)
        return tasks

    async def hand_over(self, task: Task) -> None:
        """Send the lease; when the socket has gone, leave it to the next link or give it back."""
        if task.lease is None:
            return
        while not self.ended and self._transport.buffered > ASSIGN_ABOVE_BYTES:
            await self._transport.drained()
        if self.ended:
            successor = self._links.find(self.agent_id)
            if successor is None:
                await self._give_back(task)
            else:
                await successor.hand_over(task)
            return
        held = self._hold(task)
        self.write(control_frame("assign", lease=lease_view(task)))
        if self._held.is_cancelled(task):
            self._tell_cancel(held)

    async def _give_back(self, task: Task) -> None:
        if task.lease is None:
            return
        outcome = await self._links.invoker.invoke(
            "release_lease",
            self._caller,
            self.address,
            parameters={"lease_id": task.lease.lease_id},
            body={"fence": task.lease.fence, "reason": "the link closed"},
            is_charged=False,
        )
        if not outcome.is_success:
            # It comes back by itself when it expires.
            log.warning("link.lease_kept", task_id=task.task_id, status=outcome.status)

    def _hold(self, task: Task) -> Held:
        older = self._held.find_older(task)
        if older is not None:
            self._lose(older)
        return self._held.add(task)

    def _drop(self, held: Held) -> None:
        self._held.drop(held)
        self._changed.set()

    def _lose(self, held: Held, cause: str | None = None) -> None:
        self._drop(held)
        if not held.ending:
            lost = control_frame("cancel", lease_id=held.lease_id, reason="lost", cause=cause)
            self.write(lost)

    def _tell_cancel(self, held: Held) -> None:
        if not held.cancel_told:
            held.cancel_told = True
            self.write(control_frame("cancel", lease_id=held.lease_id, reason="requested"))

    # Reports come in.

    async def _report(self, frame: Frame, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        kind = frame["type"]
        held = self._held.find(frame.get("lease_id", ""))
        if held is not None and kind in ENDING:
            held.ending = True
        operation_id, parameters, body = call_of(frame, self.agent_id)
        outcome = await self._links.invoker.invoke(
            operation_id, self._caller, self.address, parameters=parameters, body=body
        )
        if held is not None:
            self._note_outcome(held, kind, outcome)
        if kind == "heartbeat" and outcome.is_success:
            self._note_heartbeat(frame, outcome.body)
            self.heard_of_message()
        if kind == ACKNOWLEDGE and self._mailbox is not None and outcome.status in TAKEN:
            self._mailbox.acknowledged(frame["message_id"])
        answer = answer_report(frame, outcome)
        if answer is not None:
            await self.answer(answer)

    def _note_outcome(self, held: Held, kind: str, outcome: Outcome) -> None:
        if outcome.is_success:
            if kind in ENDING:
                self._drop(held)
            if kind == "reject":
                # It takes nothing now, until its next heartbeat says how much it can take.
                self._reserved = max(0, self._slots - len(self._held))
        elif outcome.status in LOST_STATUSES:
            self._drop(held)
        else:
            held.ending = False

    def _note_heartbeat(self, frame: Frame, reply: Mapping[str, Any]) -> None:
        free_slots = frame.get("free_slots", self._slots)
        # Slots that the process uses for what this link knows nothing of.
        self._reserved = max(0, self._slots - len(self._held) - free_slots)
        self._changed.set()
        self._send_controls(reply["controls"])

    def _require_greeting(self) -> None:
        if not self._greeted:
            raise FrameRefused(ErrorCode.HELLO_FIRST, "Say hello first.")

    @property
    def _actor(self) -> Actor:
        return Actor(self._caller.principal_id, *self._call)

    @property
    def _caller(self) -> Principal:
        if self.principal is None:
            raise AssertionError("a link that is not authenticated does nothing")
        return self.principal
