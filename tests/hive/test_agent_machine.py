"""The agent machine: what the status follows from, control requests, and what a process says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hive import agents as machine
from hive.agents import (
    CONTROLS_KEPT,
    Agent,
    AgentAction,
    AgentSpec,
    AgentStatus,
    ControlRequest,
    DesiredState,
)
from hive.changes import ABSENT, NOW, Append, Change, Plus
from hive.errors import Conflict
from tests.hive.worlds import EPOCH

SPEC = AgentSpec("worker-1", capabilities=("cpu", "gpu"), slots=2)
IDLE = Agent("agt_1", SPEC, AgentStatus.IDLE, DesiredState.ACTIVE, 1, EPOCH, EPOCH, online=True)


def _agent(**fields: Any) -> Agent:
    return replace(IDLE, **fields)


@pytest.mark.parametrize(
    ("desired", "online", "running", "status"),
    [
        ("active", True, 0, "idle"),
        ("active", True, 2, "busy"),
        ("active", False, 0, "offline"),
        ("active", False, 2, "offline"),
        ("paused", True, 0, "paused"),
        ("paused", True, 1, "paused"),
        ("paused", False, 0, "paused"),
        ("paused", False, 1, "paused"),
        ("draining", True, 0, "draining"),
        ("draining", True, 1, "draining"),
        ("draining", False, 0, "draining"),
        ("draining", False, 1, "draining"),
    ],
)
def test_status_follows_from_wish_presence_and_leases(
    desired: str,
    online: bool,  # noqa: FBT001 - a column of the table
    running: int,
    status: str,
) -> None:
    """The whole table: what is wanted decides first, then presence, then leases."""
    assert machine.status_of(DesiredState(desired), online=online, running=running) == status


@pytest.mark.parametrize("desired", DesiredState)
def test_only_an_active_agent_takes_work(desired: DesiredState) -> None:
    """Paused and draining agents get nothing new."""
    assert _agent(desired_state=desired).takes_work is (desired is DesiredState.ACTIVE)


@pytest.mark.parametrize(
    ("action", "desired", "status"),
    [("pause", "paused", "paused"), ("drain", "draining", "draining")],
)
def test_pause_and_drain_are_true_at_once(action: str, desired: str, status: str) -> None:
    """The server enforces them by itself and says so in the same change."""
    change = machine.control(IDLE, AgentAction(action), None, running=0)
    assert change == Change("agent.status_changed", {"desired_state": desired, "status": status})


@pytest.mark.parametrize(
    ("online", "running", "status"),
    [(True, 0, "idle"), (True, 1, "busy"), (False, 0, "offline")],
)
def test_resume_gives_the_status_that_is_true(
    online: bool,  # noqa: FBT001 - a column of the table
    running: int,
    status: str,
) -> None:
    """A resumed agent is idle, busy or offline, whichever it is."""
    paused = _agent(desired_state=DesiredState.PAUSED, status=AgentStatus.PAUSED, online=online)
    change = machine.control(paused, AgentAction.RESUME, None, running=running)
    assert change is not None
    assert change.fields == {"desired_state": "active", "status": status}


def test_what_already_is_so_changes_nothing() -> None:
    """Asking twice is one event."""
    paused = _agent(desired_state=DesiredState.PAUSED, status=AgentStatus.PAUSED)
    assert machine.control(paused, AgentAction.PAUSE, None, running=0) is None
    assert machine.control(IDLE, AgentAction.RESUME, None, running=0) is None
    assert machine.update(IDLE, SPEC) is None
    assert machine.observe(IDLE, online=True, running=0) is None


@pytest.mark.parametrize("action", [AgentAction.RESTART, AgentAction.STOP])
def test_restart_and_stop_wait_for_the_process(action: AgentAction) -> None:
    """They are appended to whatever waits by then, not to what was loaded; the status stays."""
    change = machine.control(IDLE, action, "new model", running=0)
    assert change is not None
    assert change.event == "agent.control_requested"
    assert change.fields["control_count"] == Plus("control_count")
    assert change.fields["controls"] == Append(
        "controls",
        {
            "control_id": Plus("control_count"),
            "action": action,
            "requested_at": NOW,
            "reason": "new model",
        },
        CONTROLS_KEPT,
    )


def test_too_many_requests_that_nobody_takes_are_refused() -> None:
    """The list has a bound; enforced actions still work."""
    waiting = tuple(
        ControlRequest(n, AgentAction.RESTART, EPOCH) for n in range(1, CONTROLS_KEPT + 1)
    )
    full = _agent(controls=waiting)
    with pytest.raises(Conflict, match=f"has {CONTROLS_KEPT} requests"):
        machine.control(full, AgentAction.STOP, None, running=0)
    assert machine.control(full, AgentAction.PAUSE, None, running=0) is not None


def test_announce_takes_over_only_what_is_new() -> None:
    """Capabilities count as a set; a version that is gone is taken away."""
    known = _agent(agent_version="1.0")
    same = machine.announce(known, capabilities=("gpu", "cpu"), slots=2, version="1.0")
    assert same is None
    changed = machine.announce(known, capabilities=("cpu",), slots=3, version=None)
    assert changed == Change(
        "agent.updated", {"capabilities": ["cpu"], "slots": 3, "agent_version": ABSENT}
    )
    silent = machine.announce(IDLE, capabilities=None, slots=None, version=None)
    assert silent is None


@pytest.mark.parametrize(
    ("online", "running", "fields"),
    [
        (True, 1, {"status": "busy", "online": True}),
        (False, 0, {"status": "offline", "online": False}),
        (False, 1, {"status": "offline", "online": False}),
    ],
)
def test_observe_tells_what_has_changed(
    online: bool,  # noqa: FBT001 - a column of the table
    running: int,
    fields: dict[str, object],
) -> None:
    """One event when status or presence differ from what is stored."""
    assert machine.observe(IDLE, online=online, running=running) == Change(
        "agent.status_changed", fields
    )


def test_observe_notes_presence_under_a_pause() -> None:
    """The status stays paused, and whether it is there is still known on resume."""
    paused = _agent(desired_state=DesiredState.PAUSED, status=AgentStatus.PAUSED)
    change = machine.observe(paused, online=False, running=0)
    assert change is not None
    assert change.fields == {"status": "paused", "online": False}


def test_registering_is_the_first_sign_of_life() -> None:
    """A new agent is idle and counts as heard of now."""
    fields = machine.register(SPEC).fields
    assert (fields["status"], fields["online"]) == ("idle", True)
    assert fields["last_heartbeat_at"] == NOW


def test_unregistering_leaves_a_tombstone() -> None:
    """The event needs a document; the tombstone counts as absent."""
    change = machine.unregister(IDLE)
    assert change.event == "agent.unregistered"
    assert change.fields["deleted"] is True
