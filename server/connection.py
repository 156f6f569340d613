"""The state machine of one client's connection to `/ws`: a cursor over the event log.

1. Before the first `subscribe` nothing is sent but answers.
2. `behind`: events are read from the hub, from the cursor on, as fast as the socket takes them.
   Reaching the tail of a replay is announced by `bookmark` with `replay_end`.
3. `live`: the hub delivers. When the socket does not take an event, the connection is behind again.

Nothing is queued: what a socket has not taken is only a number, the cursor. `seq` is strictly
increasing, a hole is announced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Final

import structlog

from hive.errors import LogTrimmed, Unavailable
from hive.events import Audience, audience_of
from server.closing import CloseCode, Disconnect, ErrorCode, FrameRefused
from server.frames import control_frame
from server.hub import Hub
from server.peer import Frame, Peer, Phase
from server.ring import Entry
from server.subscriptions import MAX_EXACT, MAX_WILDCARD, Filter, Subscriptions

EVENT_BYTES: Final = 128 * 1024
"""Events fill the buffer up to here; what is above is for answers."""
BATCH: Final = 128
BOOKMARK_EVENTS: Final = 500
BOOKMARK_SECONDS: Final = 10.0
LAGGING_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 1.0
SNAPSHOT: Final = "/api/v1/hive/status"
MAX_SEQ: Final = 10**16 - 1
MAX_CURSOR: Final = 20
_SMALL: Final = 1024

log = structlog.get_logger(__name__)


class Mode(StrEnum):
    """Where the connection's events come from."""

    SILENT = "silent"
    BEHIND = "behind"
    LIVE = "live"


class Connection(Peer):
    """One client of `/ws`."""

    permission = "events:read"

    def __init__(self, *args: Any, hub: Hub, cursor: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mode = Mode.SILENT
        self._hub = hub
        self._asked = cursor
        self._subscriptions = Subscriptions()
        self._audience = Audience()
        self._position: int | None = None
        self._replaying = False
        self._lag_told = False
        self._filtered, self._filtered_since = 0, 0.0

    async def authenticated(self) -> None:
        """Go to the place that the handshake named. Raises Disconnect when it is none."""
        if self.principal is not None:
            self._audience = audience_of(self.principal)
        if self._asked is not None:
            await self._resume_at(self._asked)

    async def introduced(self, frame: Frame) -> Mapping[str, Any]:
        """Go to the cursor, if any, and tell what the log still has behind it."""
        if "cursor" in frame:
            if self.mode is not Mode.SILENT:
                raise FrameRefused(ErrorCode.CANNOT_RESUME, "Events were subscribed to already.")
            await self._resume_at(frame["cursor"])
        tail = self._hub.tail
        fields: dict[str, Any] = {
            "cursor": str(tail if self._position is None else self._position),
            "limits": self.common_limits()
            | {"exact_subscriptions": MAX_EXACT, "wildcard_subscriptions": MAX_WILDCARD},
        }
        if self._position is not None:
            missing = await self._count_missing(self._position)
            fields |= {"recovered": missing == 0, "replayed": tail - self._position - missing}
        return fields

    async def on_subscribe(self, frame: Frame) -> None:
        """Add patterns; the first ones set events in motion."""
        patterns = frame.get("events", ["*"])
        since = frame.get("since")
        place = None if since is None else await self._find_place(since)
        await self.room()
        if place is not None:
            self._rewind(place)
        self._subscriptions.add(patterns, Filter.of(frame.get("filter", {})))
        if self._position is None:
            self._position = self._hub.tail
        self.write(
            control_frame(
                "subscribed", id=frame.get("id"), events=patterns, cursor=str(self._position)
            )
        )
        if self.mode is Mode.SILENT and not self.ended:
            self._fall_behind()

    async def on_unsubscribe(self, frame: Frame) -> None:
        """Take patterns away; nothing of them follows the answer."""
        await self.room()
        self._subscriptions.remove(frame["events"])
        self.write(control_frame("unsubscribed", id=frame.get("id"), events=frame["events"]))

    handlers: ClassVar = {
        "connect": Peer.on_connect,
        "subscribe": on_subscribe,
        "unsubscribe": on_unsubscribe,
        "ping": Peer.on_ping,
        "pong": Peer.on_pong,
    }

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Take entries from the hub while live."""
        try:
            for entry in entries:
                if self.ended:
                    return
                if not self._take(entry):
                    self._fall_behind()
                    return
        except Exception:
            # The hub goes on with the others, and nobody is left without a code.
            log.exception("connection.delivery_failed", session=self.session)
            self.end(CloseCode.INTERNAL, "the server failed")

    def ticked(self, now: float) -> None:
        """Tell the place when filters left events out for a while."""
        if self._filtered and now - self._filtered_since >= BOOKMARK_SECONDS and self._fits(_SMALL):
            self._bookmark()

    def finished(self) -> None:
        """Leave the hub."""
        self._hub.detach(self)

    @property
    def _cursor(self) -> int:
        if self._position is None:
            raise AssertionError("the connection has no place in the log yet")
        return self._position

    async def _resume_at(self, cursor: str) -> None:
        is_number = cursor.isascii() and cursor.isdigit() and len(cursor) <= MAX_CURSOR
        if not is_number or int(cursor) > MAX_SEQ:
            raise Disconnect(CloseCode.BAD_FRAME, "the cursor is not a decimal number")
        try:
            self._rewind(await self._find_place(cursor))
        except FrameRefused as error:
            raise Disconnect(CloseCode.CANNOT_RESUME, error.detail) from error
        except Unavailable as error:
            # Going on without the place would be a gap that nobody announces.
            raise Disconnect(CloseCode.INTERNAL, error.detail) from error

    async def _find_place(self, cursor: str) -> int:
        place = int(cursor)
        if place > self._hub.tail:
            # This node may be a moment behind the one that the client was on.
            await self._hub.heal()
        if place > self._hub.tail:
            raise FrameRefused(ErrorCode.CANNOT_RESUME, "The cursor is beyond the end of the log.")
        return place

    def _rewind(self, place: int) -> None:
        if self.mode is Mode.LIVE:
            raise FrameRefused(
                ErrorCode.CANNOT_RESUME, "The connection is live; events come in order only."
            )
        if self.mode is Mode.BEHIND and place < self._cursor:
            raise FrameRefused(
                ErrorCode.CANNOT_RESUME, "Events behind this cursor were delivered already."
            )
        if self.mode is Mode.SILENT:
            self._position = place
            self._replaying = True

    async def _count_missing(self, place: int) -> int:
        if self._hub.peek(place, 1) is not None:
            return 0
        return max(0, await self._hub.oldest() - place - 1)

    def _fall_behind(self) -> None:
        self._hub.detach(self)
        self.mode = Mode.BEHIND
        if self._hub.peek(self._cursor, 1) == []:
            self._go_live()
        else:
            self.spawn(self._catch_up(), name=f"catch-up {self.session}")

    def _go_live(self) -> None:
        self.mode = Mode.LIVE
        self._hub.attach(self)
        if self._replaying:
            self._replaying = False
            self._bookmark(replay_end=True)
        if self._lag_told:
            self._lag_told = False
            self.notify("caught_up")

    async def _catch_up(self) -> None:
        began = asyncio.get_running_loop().time()
        while not self.ended:
            entries = await self._read_on()
            # No await between seeing the tail and being attached: nothing can come in between.
            if self._hub.tail == self._cursor:
                self._go_live()
                return
            for entry in entries:
                await self._take_in_time(entry, began)
            # A fast socket would otherwise keep the loop from everybody else.
            await asyncio.sleep(0)

    async def _take_in_time(self, entry: Entry, began: float) -> None:
        while not (self.ended or self._take(entry)):
            await self._transport.drained()
            lag = asyncio.get_running_loop().time() - began
            if lag > LAGGING_SECONDS and not (self._lag_told or self._replaying):
                self._lag_told = True
                self.notify("lagging")

    async def _read_on(self) -> Sequence[Entry]:
        kept = self._hub.peek(self._cursor, BATCH)
        if kept is not None:
            return kept
        try:
            entries = await self._read_log()
        except Unavailable as error:
            log.warning("connection.log_unavailable", session=self.session, cause=str(error))
            entries = None
        if entries is None:
            await asyncio.sleep(RETRY_SECONDS)
        return entries or ()

    async def _read_log(self) -> Sequence[Entry] | None:
        try:
            return await self._hub.read(self._cursor) or None
        except LogTrimmed:
            oldest = await self._hub.oldest()
            self._gap(max(oldest - 1, self._cursor), "trimmed")
            return ()

    def _take(self, entry: Entry) -> bool:
        """Send the entry if it is wanted and move behind it; False when there is no room."""
        if entry.seq <= self._cursor:
            return True
        wanted = self._may_see(entry) and self._subscriptions.select(entry)
        if not self._fits(_SMALL + (len(entry.frame) if wanted else 0)):
            return False
        if entry.seq != self._cursor + 1:
            self._gap(entry.seq - 1, "trimmed")
        if entry.type == "log.reset":
            self._gap(entry.seq, "reset")
        self._position = entry.seq
        if wanted:
            self._filtered = 0
            self.write(entry.frame)
            return True
        if not self._filtered:
            self._filtered_since = self._now
        self._filtered += 1
        if self._filtered >= BOOKMARK_EVENTS:
            self._bookmark()
        return True

    def _may_see(self, entry: Entry) -> bool:
        return not entry.is_private or self._audience.sees_private(entry.owner)

    def _fits(self, size: int) -> bool:
        buffered = self._transport.buffered
        return buffered == 0 or buffered + size <= EVENT_BYTES

    def _bookmark(self, *, replay_end: bool | None = None) -> None:
        self._filtered = 0
        self.write(control_frame("bookmark", cursor=str(self._cursor), replay_end=replay_end))

    def _gap(self, to: int, reason: str) -> None:
        fields = {"from": str(self._cursor), "to": str(to), "reason": reason}
        self.write(control_frame("gap", **fields, snapshot=SNAPSHOT))
        self._position = to


__all__ = ["Connection", "Mode", "Phase"]
