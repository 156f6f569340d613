"""The nodes of the hive: the processes that serve it, as each of them says of itself.

A node says every 2 s that it is there. One that has not been heard of for 6 s counts as gone; it is
listed for five minutes more, for whoever looks for it. Time is the database's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from hive.events import Event

SEEN_SECONDS: Final = 2.0
ALIVE_SECONDS: Final = 6.0
LISTED_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class NodeSign:
    """What a node says of itself. `address` is where it listens; empty before it does.

    `boot` is new with each start of its process: `node_id` belongs to its data directory.
    """

    node_id: str
    boot: str
    version: str
    address: str = ""
    duties: tuple[str, ...] = ()
    """The duties that it carries out, in alphabetical order."""
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as the others see it. `is_alive`: it was heard of within the last 6 s."""

    node_id: str
    version: str
    address: str
    duties: tuple[str, ...]
    started_at: datetime
    seen_at: datetime
    is_alive: bool
    is_draining: bool


class Nodes(Protocol):
    """Which nodes there are. All methods raise `Unavailable` when the store does not answer."""

    async def list(self) -> Sequence[NodeInfo]:
        """The nodes of the last five minutes, by `node_id`; those that ended in order are left out.

        What a node says of its duties is up to 2 s old: who holds one, only the leases know.
        """


class NodeRegistry(Nodes, Protocol):
    """What a node needs to be listed."""

    async def sign(self, node: NodeSign) -> None:
        """Say that the node is there. Another `boot` under its identifier is replaced."""

    async def leave(self, node_id: str, boot: str) -> None:
        """Take the node off the list, unless it was started again meanwhile. Idempotent."""


class Doorbell(Protocol):
    """Tells the other nodes of new events, as fast as it can and without any promise.

    What is told may be lost, come twice, late or in another order: who hears it looks at `seq`, and
    reads from the log what is missing.
    """

    async def ring(self, events: Sequence[Event]) -> None:
        """Tell of events that are in the log, in order; at least one. Raises Unavailable."""

    async def listen(
        self, opened: Callable[[], None], heard: Callable[[int, Sequence[Event]], None]
    ) -> None:
        """Call `opened` once what is told reaches this node, then `heard` for each ring.

        `heard` gets the `seq` of the newest event and the events, none when they were too many.
        Ends with Unavailable when the connection is lost; what this node rings is not given back.
        """
