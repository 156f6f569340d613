"""Messages of one agent, over its link: what waits goes out, and goes away when acknowledged.

At most `MOST_UNACKNOWLEDGED` are out at a time. A message that the agent did not acknowledge comes
again over its next link.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from hive.errors import HiveError
from hive.messages import Message, Messages
from server.frames import control_frame

MOST_UNACKNOWLEDGED: Final = 50
log = structlog.get_logger(__name__)


class AgentMessages:
    """What this link knows of the agent's mailbox. `write` sends a frame, `spawn` runs a task."""

    def __init__(
        self,
        agent_id: str,
        messages: Messages,
        write: Callable[[bytes], object],
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._agent_id = agent_id
        self._messages = messages
        self._write = write
        self._spawn = spawn
        self._out: set[str] = set()
        self._is_looking = False
        self._look_again = False

    def look(self) -> None:
        """Send soon what waits and was not sent over this link yet."""
        self._look_again = True
        if not self._is_looking:
            self._is_looking = True
            self._spawn(self._push(), f"messages to {self._agent_id}")

    def acknowledged(self, message_id: str) -> None:
        """The agent has taken the message: there is room for another one."""
        self._out.discard(message_id)
        self.look()

    async def _push(self) -> None:
        try:
            while self._look_again:
                self._look_again = False
                waiting = await self._messages.waiting(
                    self._agent_id, after=None, limit=MOST_UNACKNOWLEDGED
                )
                self._out &= {message.message_id for message in waiting}
                for message in waiting:
                    if message.message_id not in self._out:
                        self._out.add(message.message_id)
                        self._write(_frame(message))
        except HiveError as error:
            # The next message, acknowledgement or heartbeat looks again.
            log.warning("link.messages_unknown", agent_id=self._agent_id, cause=str(error))
        finally:
            self._is_looking = False


def _frame(message: Message) -> bytes:
    return control_frame(
        "message",
        **{
            "message_id": message.message_id,
            "from": message.sender,
            "data": message.data,
            "created_at": message.created_at,
            "expires_at": message.expires_at,
        },
    )
