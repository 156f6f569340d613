"""Messages to agents: at least once, until they are acknowledged or expire.

waiting -> acknowledged     by the agent
waiting -> (gone)           at `expires_at`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from hive.agents import Agent
from hive.changes import NOW, Actor, After, Change
from hive.errors import Invalid, NotFound, TooManyRequests
from hive.raw_json import RawJson

MOST_BYTES: Final = 64 * 1024
"""Of one message."""
MOST_WAITING: Final = 10_000
"""Messages that wait for one agent. As many more as are being sent at that moment may get in."""
MOST_RECIPIENTS: Final = 10_000
"""Agents of one broadcast."""
EXPIRES_IN_SECONDS: Final = 3_600.0
SUMMARY_FIELDS: Final = ("agent_id", "from", "expires_at", "version", "created_at")
"""What events tell of a message, besides `message_id`: never what is in it."""


class MessageNotFound(NotFound):
    """The agent has no message of this identifier, or it has expired."""

    code = "message-not-found"
    title = "Message not found"
    default_detail = "Message not found"


class MessageTooLarge(Invalid):
    """A message is longer than `MOST_BYTES`."""

    code = "message-too-large"
    title = "Message too large"


class TooManyRecipients(Invalid):
    """The selector of a broadcast matches more agents than one broadcast may have; none got it."""

    code = "too-many-recipients"
    title = "Too many recipients"
    default_detail = f"A broadcast is for {MOST_RECIPIENTS:,} agents at most. Send it in parts."

    def __init__(self) -> None:
        super().__init__(pointer="/selector")


class MailboxFull(TooManyRequests):
    """So many messages wait for the agent that it takes no more."""

    code = "mailbox-full"
    title = "Mailbox full"
    default_detail = (
        f"{MOST_WAITING} messages wait for this agent. Try again when it has taken some."
    )


@dataclass(frozen=True, slots=True)
class Message:
    """A message that waits, or was acknowledged: then `data` is gone. Times are the database's."""

    message_id: str
    agent_id: str
    sender: str
    version: int
    created_at: datetime
    expires_at: datetime
    data: RawJson | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """Which agents a broadcast is for: those that have all that is named. None is any."""

    capabilities: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    agent_type: str | None = None
    status: str | None = None

    def selects(self, agent: Agent) -> bool:
        """Tell whether the agent is one of them."""
        spec = agent.spec
        return (
            set(self.capabilities) <= set(spec.capabilities)
            and all(spec.labels.get(key) == value for key, value in self.labels)
            and self.agent_type in (None, spec.agent_type)
            and self.status in (None, agent.status)
        )


def send(agent_id: str, sender: str, data: RawJson, expires_in_seconds: float) -> Change:
    """Put a message into the mailbox of an agent. Raises MessageTooLarge."""
    if len(data.encoded) > MOST_BYTES:
        raise MessageTooLarge(f"A message has at most {MOST_BYTES} bytes.", pointer="/data")
    return Change(
        "message.sent",
        {
            "agent_id": agent_id,
            "from": sender,
            "data": data,
            "acknowledged": False,
            "created_at": NOW,
            "expires_at": After(expires_in_seconds),
        },
    )


class Messages(Protocol):
    """The mailboxes. All methods raise `Unavailable` when the store does not answer in time."""

    async def send(self, message_id: str, change: Change, actor: Actor) -> Message:
        """Add a message under the identifier, or give the one that is there. Raises MailboxFull."""

    async def waiting(self, agent_id: str, *, after: str | None, limit: int) -> Sequence[Message]:
        """What the agent has neither acknowledged nor let expire, the oldest first."""

    async def acknowledge(self, agent_id: str, message_id: str) -> None:
        """Take a message off the mailbox, with what is in it. Idempotent until it expires.

        Raises MessageNotFound.
        """


class Mailboxes(Protocol):
    """Messages as they come."""

    async def wait(
        self, agent_id: str, *, after: str | None, limit: int, wait_seconds: float
    ) -> Sequence[Message]:
        """As `Messages.waiting`; waits so long for the first one."""
