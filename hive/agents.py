"""The agent machine: what an agent is, what its status follows from, and the decisions about it.

The status is a projection: what is wanted of the agent (`desired_state`) decides first, then
whether it was heard of, then whether it runs anything. It can be worked out again at any time
(`observe`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from hive.changes import ABSENT, NOW, After, Append, Change, Plus
from hive.errors import Conflict, Invalid


class AgentStatus(StrEnum):
    """What an agent is, as others see it."""

    IDLE = "idle"
    BUSY = "busy"
    PAUSED = "paused"
    DRAINING = "draining"
    OFFLINE = "offline"


class DesiredState(StrEnum):
    """What is wanted of an agent. Paused and draining agents get no new work."""

    ACTIVE = "active"
    PAUSED = "paused"
    DRAINING = "draining"


class AgentAction(StrEnum):
    """What one can ask of an agent."""

    PAUSE = "pause"
    RESUME = "resume"
    RESTART = "restart"
    DRAIN = "drain"
    STOP = "stop"


ENFORCED: Final[Mapping[AgentAction, DesiredState]] = {
    AgentAction.PAUSE: DesiredState.PAUSED,
    AgentAction.RESUME: DesiredState.ACTIVE,
    AgentAction.DRAIN: DesiredState.DRAINING,
}
"""Actions that the server enforces by itself; the others are requests to the process."""

CONTROLS_KEPT: Final = 16
SUMMARY_FIELDS: Final = (
    "name", "agent_type", "capabilities", "slots", "labels", "status", "desired_state", "version",
    "agent_version", "last_heartbeat_at", "drain_deadline", "created_at", "updated_at",
)  # fmt: skip
"""What lists and events tell of an agent, besides `agent_id`."""


class DeadlineOfDrain(Invalid):
    """Only a drain has a deadline."""

    code = "deadline-of-drain"
    title = "Only a drain has a deadline"
    default_detail = "`deadline_seconds` is for the action `drain` only."

    def __init__(self) -> None:
        super().__init__(pointer="/deadline_seconds")


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """How an agent is configured."""

    name: str
    agent_type: str = "worker"
    capabilities: tuple[str, ...] = ()
    slots: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """A request to the process of an agent that it has not taken yet."""

    control_id: int
    action: AgentAction
    requested_at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as it is stored. Times are the database's."""

    agent_id: str
    spec: AgentSpec
    status: AgentStatus
    desired_state: DesiredState
    version: int
    created_at: datetime
    updated_at: datetime
    online: bool
    agent_version: str | None = None
    last_heartbeat_at: datetime | None = None
    drain_deadline: datetime | None = None
    controls: tuple[ControlRequest, ...] = ()

    @property
    def takes_work(self) -> bool:
        """Neither paused nor draining."""
        return self.desired_state is DesiredState.ACTIVE


def status_of(desired: DesiredState, *, online: bool, running: int) -> AgentStatus:
    """What an agent is, from what is wanted of it, whether it is heard of, and its leases."""
    if desired is DesiredState.PAUSED:
        return AgentStatus.PAUSED
    if desired is DesiredState.DRAINING:
        return AgentStatus.DRAINING
    if not online:
        return AgentStatus.OFFLINE
    return AgentStatus.BUSY if running else AgentStatus.IDLE


def register(spec: AgentSpec) -> Change:
    """Add an agent. Registering is its first sign of life."""
    return Change(
        "agent.registered",
        {
            **_configuration(spec),
            "status": AgentStatus.IDLE,
            "desired_state": DesiredState.ACTIVE,
            "online": True,
            "last_heartbeat_at": NOW,
            "controls": [],
            "control_count": 0,
            "created_at": NOW,
            "deleted": False,
        },
    )


def update(agent: Agent, spec: AgentSpec) -> Change | None:
    """Replace the configuration; the same one changes nothing."""
    return None if spec == agent.spec else Change("agent.updated", _configuration(spec))


def unregister(_agent: Agent) -> Change:
    """Leave a tombstone: the event needs a document. The name is free at once."""
    return Change("agent.unregistered", {"deleted": True, "deleted_at": NOW, "online": False})


def control(
    agent: Agent,
    action: AgentAction,
    reason: str | None,
    *,
    running: int,
    deadline_seconds: float | None = None,
) -> Change | None:
    """Pause, resume or drain at once; note a restart or stop for the process to take.

    When `deadline_seconds` of a drain are over, the agent's leases are taken back. Raises
    DeadlineOfDrain when anything else has one, Conflict when too many requests wait already.
    """
    if deadline_seconds is not None and action is not AgentAction.DRAIN:
        raise DeadlineOfDrain
    desired = ENFORCED.get(action)
    if desired is not None:
        status = status_of(desired, online=agent.online, running=running)
        changed: dict[str, Any] = {"desired_state": desired, "status": status}
        if deadline_seconds is not None:
            changed["drain_deadline"] = After(deadline_seconds)
        elif agent.drain_deadline is not None:
            changed["drain_deadline"] = ABSENT
        elif (desired, status) == (agent.desired_state, agent.status):
            return None
        return Change("agent.status_changed", changed)
    if len(agent.controls) >= CONTROLS_KEPT:
        raise Conflict(f"The agent has {CONTROLS_KEPT} requests that it has not taken yet.")
    request: dict[str, Any] = {
        "control_id": Plus("control_count"),
        "action": action,
        "requested_at": NOW,
    }
    if reason is not None:
        request["reason"] = reason
    return Change(
        "agent.control_requested",
        {
            # Behind what is there by then: the process may have taken some meanwhile.
            "controls": Append("controls", request, CONTROLS_KEPT),
            "control_count": Plus("control_count"),
        },
    )


def announce(
    agent: Agent, *, capabilities: tuple[str, ...] | None, slots: int | None, version: str | None
) -> Change | None:
    """Take over what the process says of itself when it connects; nothing new changes nothing."""
    fields: dict[str, Any] = {}
    if capabilities is not None and set(capabilities) != set(agent.spec.capabilities):
        fields["capabilities"] = list(capabilities)
    if slots is not None and slots != agent.spec.slots:
        fields["slots"] = slots
    if version != agent.agent_version:
        fields["agent_version"] = ABSENT if version is None else version
    return Change("agent.updated", fields) if fields else None


def observe(agent: Agent, *, online: bool, running: int) -> Change | None:
    """Work the status out again; None when it is what it was."""
    status = status_of(agent.desired_state, online=online, running=running)
    if (status, online) == (agent.status, agent.online):
        return None
    return Change("agent.status_changed", {"status": status, "online": online})


def _configuration(spec: AgentSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "agent_type": spec.agent_type,
        "capabilities": list(spec.capabilities),
        "slots": spec.slots,
        "labels": spec.labels,
    }
