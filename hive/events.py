"""The event log's vocabulary: every type of event there is, the event itself and its envelope.

An event is a CloudEvent 1.0 that clients of the original contract can read (`type` and `data`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hive.permissions import Principal

EVENT_TYPES: Final[Mapping[str, str]] = {
    "agent.registered": "An agent was registered.",
    "agent.updated": "The configuration of an agent was replaced.",
    "agent.unregistered": "An agent was removed from the hive.",
    "agent.status_changed": "An agent is idle, busy, paused, draining or offline now.",
    "agent.control_requested": "The process of an agent is asked to restart or to stop.",
    "task.created": "A task was accepted: queued at once, or blocked, or scheduled.",
    "task.blocked": "The time of a scheduled task has come, and it waits for dependencies now.",
    "task.queued": "What the task waited for is over, or it is retried by hand; it can be claimed.",
    "task.updated": "What was asked for was changed while the task waits.",
    "task.started": "An agent took the task.",
    "task.progress": "The agent reported progress.",
    "task.log": "Log lines were appended; at most one event per task and second.",
    "task.artifact_added": "The agent handed a file over, or replaced one.",
    "task.retrying": "An attempt ended without success and the task is tried again.",
    "task.late_result": "What came under a lease that was taken back is kept; it does not count.",
    "task.released": "The agent gave the task back unfinished.",
    "task.cancelling": "The agent that runs the task was asked to stop.",
    "task.completed": "The task ended with a result.",
    "task.failed": "The task ended with an error.",
    "task.cancelled": "The task was cancelled, or skipped because of a dependency.",
    "message.sent": "A message was sent to an agent.",
    "schedule.created": "A schedule was made.",
    "schedule.updated": "The configuration of a schedule was replaced.",
    "schedule.deleted": "A schedule was deleted; it makes no more tasks.",
    "schedule.paused": "A schedule makes no tasks until it is resumed.",
    "schedule.resumed": "A schedule goes on with its next time.",
    "schedule.fired": "A schedule made a task, at its time or because somebody asked for it.",
    "schedule.skipped": "Times of a schedule were passed over: overlapping, or too long ago.",
    "schedule.buffered": "A time of a schedule waits until the earlier tasks have ended.",
    "user.created": "A user was made.",
    "user.updated": "The role of a user changed, or the user was disabled or enabled.",
    "user.deleted": "A user was deleted, with its sessions and API keys.",
    "user.password_changed": "A user has another password; its other sessions ended.",
    "session.opened": "A user logged in.",
    "session.revoked": "A session ended: logged out, revoked, or its refresh token was stolen.",
    "api_key.created": "An API key was made.",
    "api_key.rotated": "An API key has a successor, and ends after the overlap.",
    "api_key.revoked": "An API key was revoked.",
    "api_key.expiring": "An API key expires soon.",
    "signing_key.created": "A key for signing requests was registered.",
    "signing_key.revoked": "A key for signing requests was revoked.",
    "system.settings_updated": "The settings of the system changed.",
    "system.token_keys_rotated": "Access tokens are signed with a new key.",
    "hive.paused": "The hive grants no new leases.",
    "hive.resumed": "The hive grants leases again.",
    "hive.draining": "The hive grants no new leases, and is to become empty.",
    "log.reset": "Events before this one may be missing: read a snapshot.",
}

SOURCES: Final[Mapping[str, str]] = {
    "agt": "/api/v1/agents/",
    "tsk": "/api/v1/tasks/",
    "sch": "/api/v1/schedules/",
    "usr": "/api/v1/users/",
    "ses": "/api/v1/auth/sessions/",
    "key": "/api/v1/api-keys/",
    "sgk": "/api/v1/signing-keys/",
}
SYSTEM_SOURCE: Final = "/api/v1/system/settings"
HIVE_SOURCE: Final = "/api/v1/hive/status"

PRIVATE_NOUNS: Final = frozenset({"user", "session", "api_key", "signing_key", "system"})
"""Events of these are for the owner whom they name, and for admins."""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the log.

    `seq` is dense; `data` is a summary of the resource after the change. `owner` is who may see a
    private event besides admins (None: nobody); it is not part of the envelope.
    """

    seq: int
    id: str
    type: str
    subject: str
    time: datetime
    data: Mapping[str, Any]
    actor: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Audience:
    """Who looks at events; without anything given, somebody who sees the public ones only."""

    principal_id: str | None = None
    sees_all: bool = False

    def sees_private(self, owner: str | None) -> bool:
        """Tell whether a private event of this owner may be shown."""
        return self.sees_all or (owner is not None and owner == self.principal_id)


WHOLE_LOG: Final = Audience(sees_all=True)
"""For what the node itself reads; whatever it passes on, it looks at each event again."""


def check_type(event_type: str) -> str:
    """Give the type back; raise ValueError when it is not declared, where the event is made."""
    if event_type not in EVENT_TYPES:
        raise ValueError(f"event type {event_type!r} is not declared in hive/events.py")
    return event_type


def is_private(event_type: str) -> bool:
    """Tell whether only the owner and admins see events of this type."""
    return event_type.partition(".")[0] in PRIVATE_NOUNS


def audience_of(principal: Principal) -> Audience:
    """Admins see every event, all others the public ones and their own."""
    return Audience(principal.principal_id, sees_all=principal.is_admin)


def source_of(subject: str, data: Mapping[str, Any] | None = None) -> str:
    """Where the resource of an event is: a path of the REST contract, or the log itself."""
    if subject.startswith("msg_") and data is not None:
        return f"/api/v1/agents/{data['agent_id']}/messages"
    if subject == "system":
        return SYSTEM_SOURCE
    if subject == "hive":
        return HIVE_SOURCE
    prefix = SOURCES.get(subject.partition("_")[0])
    return f"{prefix}{subject}" if prefix else "/api/v1/events"


def envelope(event: Event) -> dict[str, Any]:
    """The event as the contracts have it. `seq` is a decimal string: JSON numbers lose digits."""
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": source_of(event.subject, event.data),
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "seq": str(event.seq),
        "data": event.data,
    }
    if event.actor is not None:
        body["actor"] = event.actor
    return body


def matches(pattern: str, event_type: str) -> bool:
    """Tell whether `*`, `task.*` or an exact type selects the event."""
    if pattern in ("*", event_type):
        return True
    return pattern.endswith(".*") and event_type.startswith(pattern[:-1])
