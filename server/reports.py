"""What an agent reports over its link, and the operation of the REST contract that it enters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from server.closing import ErrorCode
from server.frames import control_frame
from server.invocation import Outcome

Frame = Mapping[str, Any]
TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503


def _only(*names: str) -> Callable[[Frame], dict[str, Any]]:
    return lambda frame: {name: frame[name] for name in names if name in frame}


# The operation, and the members of the frame that are its body.
REPORTS: Final[Mapping[str, tuple[str, Callable[[Frame], dict[str, Any]]]]] = {
    "accept": ("renew_lease", _only("fence")),
    "reject": ("release_lease", _only("fence", "reason")),
    "progress": ("renew_lease", _only("fence", "progress")),
    "log": ("append_lease_logs", _only("fence", "lines")),
    "complete": ("complete_lease", _only("fence", "result")),
    "fail": ("fail_lease", _only("fence", "error")),
    "release": ("release_lease", _only("fence", "reason")),
    "heartbeat": ("heartbeat_agent", _only("free_slots", "load", "controls_taken")),
}
ACKNOWLEDGE: Final = "acknowledge"
"""Takes a message; its twin has no body."""
TAKEN: Final = frozenset({200, 404})
"""Statuses of an acknowledgement after which the message does not come again."""
ENDING: Final = frozenset({"complete", "fail", "release", "reject"})
"""Reports after which the lease is over."""


def call_of(frame: Frame, agent_id: str) -> tuple[str, dict[str, str], dict[str, Any] | None]:
    """The operation that the frame enters, its parameters and its body."""
    kind = frame["type"]
    if kind == ACKNOWLEDGE:
        named = {"agent_id": agent_id, "message_id": frame["message_id"]}
        return "acknowledge_message", named, None
    operation_id, body_of = REPORTS[kind]
    name = "agent_id" if kind == "heartbeat" else "lease_id"
    return operation_id, {name: frame.get("lease_id", agent_id)}, body_of(frame)


def answer_report(frame: Frame, outcome: Outcome) -> bytes | None:
    """The answer: `result` to a frame with an `id`, `error` to another one that failed."""
    if "id" in frame:
        return control_frame(
            "result",
            id=frame["id"],
            status=outcome.status,
            body=outcome.body,
            problem=outcome.problem,
        )
    if outcome.problem is None:
        return None
    unavailable = outcome.status == UNAVAILABLE
    return control_frame(
        "error",
        code=ErrorCode.UNAVAILABLE if unavailable else ErrorCode.REFUSED,
        detail=outcome.problem["detail"],
        retryable=unavailable or outcome.status == TOO_MANY_REQUESTS,
    )
