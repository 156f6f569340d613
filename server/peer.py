"""One end of a WebSocket: who it is, what it may send, whether it is there, how it ends.

Life cycle: `open` authenticates (or waits for `connect`), `receive` takes frames one by one, `tick`
is called about twice a second, `closed` when the transport is gone. Knows neither Tornado nor what
the frames are about; those are in subclasses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, ClassVar, Final, Protocol

import structlog

from hive.errors import Forbidden, HiveError, Unauthenticated, Unavailable
from hive.permissions import Principal
from server.allowance import Allowance
from server.closing import CloseCode, Disconnect, ErrorCode, FrameRefused
from server.contract import Message
from server.frames import control_frame
from server.json_body import MalformedJson, cut_raw_members, decode_json
from server.liveness import Liveness, Outgoing, PeerLimits

RESERVED_BYTES: Final = 8 * 1024
MAX_ID: Final = 64
SWITCHING_PROTOCOLS: Final = 101
NO_CLOSE_FRAME: Final = 1006
PONG: Final = control_frame("pong")

log = structlog.get_logger(__name__)

Frame = dict[str, Any]


class Authenticate(Protocol):
    """Who is behind a credential."""

    async def __call__(self, credential: str, address: str | None = None, /) -> Principal:
        """Raise Unauthenticated (which kind says why), Unavailable."""


class Transport(Outgoing, Protocol):
    """The bytes of a socket. After its end everything is ignored."""

    def write(self, frame: bytes) -> None:
        """Write a frame behind what was written before."""

    async def drained(self) -> None:
        """Wait until everything written so far is taken, or the socket is gone."""

    def close(self, code: int, reason: str) -> None:
        """Send the close frame and end; never raises."""


class Registry(Protocol):
    """Where peers are counted."""

    def admit(self, peer: Peer, principal: Principal) -> None:
        """Raise Disconnect when the principal has too many connections."""


class Settled(Protocol):
    """Told once how the attempt to connect ended, and who it was as far as that is known."""

    def __call__(self, principal: Principal | None, status: int, /) -> None:
        """The status is 101, or the code that closed the socket. Raises Unavailable."""


def _nobody_asks(principal: Principal | None, status: int, /) -> None:
    """Where there is no audit log."""


class Phase(Enum):
    """Where a peer is in its life; it only moves down this list."""

    OPENING = 0
    AWAITING_CONNECT = 1
    OPEN = 2
    ENDED = 3


class Peer:
    """What all connections share. `handlers` and `raw_members` are by the frame's type."""

    permission: ClassVar[str]
    handlers: ClassVar[Mapping[str, Callable[[Any, Frame], Awaitable[None]]]]
    raw_members: ClassVar[Mapping[str, frozenset[str]]] = {}

    def __init__(
        self,
        transport: Transport,
        *,
        session: str,
        address: str,
        messages: Mapping[str, Message],
        authenticate: Authenticate,
        registry: Registry,
        limits: PeerLimits,
        settled: Settled = _nobody_asks,
    ) -> None:
        self.session = session
        self.address = address
        self.principal: Principal | None = None
        self.phase = Phase.OPENING
        self._transport = transport
        self._messages = messages
        self._authenticate = authenticate
        self._registry = registry
        self._settled: Settled | None = settled
        self._identified: Principal | None = None
        self._limits = limits
        self._now = asyncio.get_running_loop().time()
        self._liveness = Liveness(limits, self._now)
        self._allowance = Allowance(limits.frames_per_second, limits.frames_burst, self._now)
        self._connected = False
        self.frame_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ended(self) -> bool:
        """Nothing is sent and nothing received any more."""
        return self.phase is Phase.ENDED

    async def open(self, credential: str | None) -> None:
        """Authenticate with the handshake's credential, or wait for `connect`."""
        try:
            if credential is None:
                self._move(Phase.AWAITING_CONNECT)
            else:
                await self._admit(credential)
                await self.authenticated()
        except Exception as error:  # noqa: BLE001 - `_fail` tells them apart
            self._fail(error)

    async def receive(self, encoded: bytes) -> None:
        """Take one text frame."""
        if self.ended:
            return
        self.heard()
        frame: Frame = {}
        try:
            self._charge()
            self.frame_bytes = len(encoded)
            frame = _decode(encoded)
            await self._dispatch(frame, encoded)
        except Exception as error:  # noqa: BLE001 - `_fail` tells them apart
            refusal = self._fail(error, frame.get("id"))
            if refusal is not None:
                await self.answer(refusal)

    def heard(self) -> None:
        """Note a sign of life: a frame of any kind."""
        self._liveness.heard(asyncio.get_running_loop().time())

    def tick(self, now: float) -> None:
        """Look at the clocks."""
        self._now = now
        if self.ended:
            return
        try:
            if self.phase is not Phase.OPEN:
                self._liveness.look_before_admission(now)
                return
            for frame in self._liveness.look(now, self._transport):
                self.write(frame)
            self.ticked(now)
        except Exception as error:  # noqa: BLE001 - `_fail` tells them apart
            self._fail(error)

    def end(self, code: CloseCode, reason: str) -> None:
        """Close with a code. Idempotent; what is under way is cancelled."""
        if not self.ended:
            log.info("socket.closing", session=self.session, code=int(code), reason=reason)
            self._settle(int(code))
            self.closed()
            self._transport.close(code, reason)

    def expire(self, expires_at: float) -> None:
        """The credential ends then, and not when it said; in seconds of the Unix epoch."""
        if self.principal is not None:
            self.principal = replace(self.principal, expires_at=expires_at)
            self._liveness.expire_at(expires_at)

    def closed(self) -> None:
        """The transport is gone, or is about to be. Idempotent."""
        if self.ended:
            return
        self._settle(NO_CLOSE_FRAME)
        self.phase = Phase.ENDED
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self.finished()

    def notify(self, kind: str, after_ms: int | None = None) -> None:
        """Send a notice."""
        self.write(control_frame("notice", kind=kind, after_ms=after_ms))

    def write(self, frame: bytes) -> None:
        """Send a small frame now, out of the reserve."""
        if not self.ended:
            self._transport.write(frame)

    async def room(self, size: int = 0) -> None:
        """Wait until a reply of `size` bytes fits. Meanwhile nothing is read from the peer."""
        limit = self._limits.buffered_bytes - RESERVED_BYTES
        while not self.ended and 0 < self._transport.buffered > limit - size:
            await self._transport.drained()

    async def answer(self, frame: bytes) -> None:
        """Send a reply when there is room for it."""
        await self.room(len(frame))
        self.write(frame)

    # What subclasses say.

    def permit(self, principal: Principal) -> None:
        """Raise Forbidden when the principal has the permission but not for this."""

    async def authenticated(self) -> None:
        """The principal is known."""

    async def introduced(self, frame: Frame) -> Mapping[str, Any]:
        """Answer `connect`: what `welcome` says beyond the common fields."""
        del frame
        return {}

    def ticked(self, now: float) -> None:
        """Called with the clock while the peer is open."""

    def finished(self) -> None:
        """The peer has ended."""

    # For subclasses.

    def spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        """Run until the peer ends; an exception ends the peer, with a code."""
        task = asyncio.create_task(self._guard(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def on_ping(self, frame: Frame) -> None:
        """Answer `ping`."""
        await self.answer(control_frame("pong", t=frame["t"]) if "t" in frame else PONG)

    async def on_pong(self, frame: Frame) -> None:
        """Any frame is a sign of life, and was noted."""

    async def on_connect(self, frame: Frame) -> None:
        """Introduce the client; authenticate it unless the handshake did."""
        if self._connected:
            raise Disconnect(CloseCode.SECOND_CONNECT, "connect came a second time")
        self._connected = True
        if self.phase is Phase.AWAITING_CONNECT:
            if "token" not in frame:
                raise Disconnect(CloseCode.CREDENTIALS_REFUSED, "connect carries no token")
            await self._admit(frame["token"])
            await self.authenticated()
        if self.principal is None or self.ended:
            return
        expires_at = self.principal.expires_at
        await self.answer(
            control_frame(
                "welcome",
                session=self.session,
                heartbeat_seconds=self._limits.heartbeat_seconds,
                expires_at=expires_at and datetime.fromtimestamp(expires_at, UTC),
                **await self.introduced(frame),
            )
        )

    def common_limits(self) -> dict[str, int]:
        """The limits that `welcome` tells."""
        return {
            "frame_bytes": self._limits.frame_bytes,
            "frames_per_second": int(self._limits.frames_per_second),
        }

    def _move(self, phase: Phase) -> None:
        if not self.ended:
            self.phase = phase

    def _settle(self, status: int) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(self._identified, status)

    async def _admit(self, credential: str) -> None:
        try:
            principal = await self._authenticate(credential, self.address)
        except Unauthenticated as error:
            raise Disconnect(CloseCode.CREDENTIALS_REFUSED, error.detail) from error
        except Forbidden as error:
            raise Disconnect(CloseCode.FORBIDDEN, error.detail) from error
        if self.ended:
            return
        self._identified = principal
        if not principal.may(self.permission):
            raise Disconnect(CloseCode.FORBIDDEN, f"{self.permission} is needed")
        try:
            self.permit(principal)
        except Forbidden as error:
            raise Disconnect(CloseCode.FORBIDDEN, error.detail) from error
        self._registry.admit(self, principal)
        self._settle(SWITCHING_PROTOCOLS)
        self.principal = principal
        self._move(Phase.OPEN)
        self._liveness.expire_at(principal.expires_at)
        log.info(
            "socket.opened",
            session=self.session,
            principal=principal.principal_id,
            channel=type(self).__name__,
        )

    async def _dispatch(self, frame: Frame, encoded: bytes) -> None:
        kind = frame["type"]
        if self.phase is Phase.AWAITING_CONNECT and kind != "connect":
            raise Disconnect(CloseCode.CREDENTIALS_REFUSED, "authenticate with connect first")
        handler = self.handlers.get(kind)
        if handler is None:
            raise FrameRefused(ErrorCode.UNKNOWN_TYPE, "No frame of this channel has this type.")
        payload = self._messages[kind].payload
        if not payload.is_valid(frame):
            pointer, detail = payload.errors(frame, size=len(encoded))[0]
            raise FrameRefused(
                ErrorCode.CONTRACT_MISMATCH, f"{pointer}: {detail}" if pointer else detail
            )
        raw = self.raw_members.get(kind)
        await handler(self, cut_raw_members(encoded, frame, raw) if raw else frame)

    def _charge(self) -> None:
        if not self._allowance.take(self._liveness.heard_at):
            rate, burst = self._limits.frames_per_second, self._limits.frames_burst
            raise Disconnect(
                CloseCode.RATE_LIMITED, f"more than {rate:.0f} frames a second (burst {burst})"
            )

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - `_fail` tells them apart
            refusal = self._fail(error)
            if refusal is not None:
                self.write(refusal)

    def _fail(self, error: Exception, frame_id: object = None) -> bytes | None:
        """End the peer, or give the `error` frame that keeps it."""
        if self.ended:
            return None
        if isinstance(error, Disconnect):
            self.end(error.code, error.reason)
            return None
        refused = error if isinstance(error, FrameRefused) else None
        if isinstance(error, Unavailable):
            retry_after_ms = error.retry_after_seconds * 1000
            refused = FrameRefused(
                ErrorCode.UNAVAILABLE, error.detail, retry_after_ms=retry_after_ms
            )
        elif isinstance(error, HiveError):
            refused = FrameRefused(ErrorCode.REFUSED, error.detail)
        if refused is not None and self.phase is Phase.OPEN:
            return _error_frame(refused, frame_id)
        log.error("socket.failed", session=self.session, exc_info=error)
        self.end(CloseCode.INTERNAL, "the server failed")
        return None


def _error_frame(refused: FrameRefused, frame_id: object) -> bytes:
    known = isinstance(frame_id, str) and 0 < len(frame_id) <= MAX_ID
    return control_frame(
        "error",
        id=frame_id if known else None,
        code=refused.code,
        detail=refused.detail,
        retryable=refused.retry_after_ms is not None,
        retry_after_ms=refused.retry_after_ms,
    )


def _decode(encoded: bytes) -> Frame:
    try:
        frame = decode_json(encoded)
    except MalformedJson as error:
        raise Disconnect(CloseCode.BAD_FRAME, error.detail.replace("body", "frame")) from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise Disconnect(CloseCode.BAD_FRAME, "a frame is a JSON object with a type")
    return frame
