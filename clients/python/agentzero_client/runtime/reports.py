"""What an agent says of a lease, in a form that fits both transports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from agentzero_client.models import Progress
from agentzero_client.resources.leases import progress_body

VERBS: Final[Mapping[str, str]] = {
    "progress": "renew",
    "log": "logs",
    "complete": "complete",
    "fail": "fail",
    "release": "release",
    "reject": "release",
}
"""Type of the frame -> last segment of the REST twin's path."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The lease that a report is about, and the fence that it was granted with."""

    lease_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Report:
    """`kind` is the type of the frame, `members` what it carries besides the proof."""

    kind: str
    members: Mapping[str, Any]

    def body(self, proof: Proof) -> dict[str, Any]:
        """The body of the REST twin."""
        return {"fence": proof.fence, **self.members}

    def frame(self, proof: Proof, frame_id: str) -> dict[str, Any]:
        """The frame of the agent's link."""
        return {
            "type": self.kind,
            "id": frame_id,
            "lease_id": proof.lease_id,
            "fence": proof.fence,
            **self.members,
        }


class Reporter(Protocol):
    """Carries a report to the server, once."""

    async def report(self, proof: Proof, report: Report) -> Any:
        """Give the body of the answer.

        Raise ProblemError when the server refuses and ConnectionFailedError when no answer came:
        the report may have counted or not.
        """
        ...


def renewal(progress: Progress | None = None) -> Report:
    """Extend the lease, and record the progress."""
    return Report("progress", {} if progress is None else {"progress": progress_body(progress)})


def log(lines: Sequence[Mapping[str, str]]) -> Report:
    """Append lines to the task's log."""
    return Report("log", {"lines": [dict(line) for line in lines]})


def completion(result: Any) -> Report:
    """End the task with a result; None is no result."""
    return Report("complete", {} if result is None else {"result": result})


def failure(code: str, message: str, *, retryable: bool) -> Report:
    """End the attempt with an error."""
    return Report("fail", {"error": {"code": code, "message": message, "retryable": retryable}})


def release(reason: str) -> Report:
    """Give the task back unfinished."""
    return Report("release", {"reason": reason})


def rejection(reason: str) -> Report:
    """Don't take the assignment."""
    return Report("reject", {"reason": reason})
