"""The Tornado side of the WebSockets: handshake, transport, and the way to the state machines.

`Realtime` is made once by the composition point; `routes()` are its rules for
`Application.add_handlers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from typing import Any, ClassVar, Final

import structlog
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler, _WebSocketParams

from hive.errors import Forbidden, HiveError, Malformed
from hive.permissions import Principal
from hive.ports import Identifiers
from server.addresses import AddressResolver
from server.agent_link import AgentLink
from server.agent_links import AgentLinks
from server.answers import encode_json, security_headers
from server.closing import CloseCode
from server.connection import Connection
from server.contract import Contract
from server.cors import Cors
from server.handshake import (
    DEFAULT_ORIGINS,
    Offer,
    read_credential,
    read_offer,
)
from server.hub import Hub
from server.liveness import LINK_LIMITS, PeerLimits
from server.origins import Origins
from server.peer import Authenticate, Peer
from server.peers import Peers
from server.pipeline import Audits, Call
from server.problems import PROBLEM_JSON, MethodNotAllowed, build_problem
from server.socket_transport import SocketTransport
from server.websocket_protocol import StrictProtocol

VERSION: Final = "13"

log = structlog.get_logger(__name__)


class UpgradeRequired(HiveError):
    """The path speaks WebSocket only (426)."""

    code = "upgrade-required"
    title = "Upgrade required"
    default_detail = "This path speaks WebSocket (RFC 6455, version 13) only."


@dataclass(frozen=True, slots=True)
class Realtime:
    """What the handlers need. `redeem` is for tickets what `authenticate` is for bearer tokens."""

    contract: Contract
    authenticate: Authenticate
    redeem: Authenticate
    hub: Hub
    peers: Peers
    links: AgentLinks
    identifiers: Identifiers
    addresses: AddressResolver
    audit: Audits
    new_call_id: Callable[[], str]
    origins: Sequence[str] = DEFAULT_ORIGINS
    limits: PeerLimits = field(default_factory=PeerLimits)
    link_limits: PeerLimits = LINK_LIMITS

    def routes(self) -> list[Any]:
        """Rules for Tornado."""
        arguments = {"realtime": self}
        return [
            (r"/ws", EventsHandler, arguments),
            (r"/ws/agents/(?P<agent_id>[^/]+)", AgentLinkHandler, arguments),
        ]

    def with_heartbeat(self, seconds: float) -> Realtime:
        """The same with another period of the server's `ping`."""
        return replace(
            self,
            limits=replace(self.limits, heartbeat_seconds=seconds),
            link_limits=replace(self.link_limits, heartbeat_seconds=seconds),
        )


class RealtimeHandler(WebSocketHandler):
    """Checks the handshake and hands frames to a peer. `action` names it in the audit log."""

    realtime: Realtime
    action: ClassVar[str]

    def initialize(self, realtime: Realtime) -> None:
        """Take what the composition point made."""
        self.realtime = realtime
        self._peer: Peer | None = None
        self._offer: Offer = read_offer(self.request.headers.get("Sec-WebSocket-Protocol", ""))
        self._credential = read_credential(
            self.request.headers.get_list("Authorization"),
            self._query("ticket"),
            self._offer.credential,
            self._query("token"),
        )
        self._cursors = self._query("cursor")
        self._forget_query()

    @property
    def address(self) -> str:
        """The client's address."""
        return self.realtime.addresses.resolve(
            self.request.remote_ip or "", self.request.headers.get_list("X-Forwarded-For")
        )

    @cached_property
    def call(self) -> Call:
        """This attempt to connect, as the audit log will have it."""
        return Call(
            call_id=self.realtime.new_call_id(),
            request_id=self.realtime.identifiers.new("req"),
            channel="websocket",
            address=self.address,
            client=self.request.headers.get("User-Agent", ""),
            action=self.action,
            resource=getattr(self, "path_kwargs", {}).get("agent_id"),
        )

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Upgrade, or refuse with a problem."""
        refusal = self._find_refusal() or await self._find_no_room()
        if refusal is None:
            await super().get(*args, **kwargs)
        else:
            self._send_problem(refusal)

    async def open(self, *_: str, **path: str) -> None:
        """Begin with a peer in front of the socket."""
        protocol = self.ws_connection
        if not isinstance(protocol, StrictProtocol):
            raise TypeError("the handshake did not make a StrictProtocol")
        if self._offer.is_unknown:
            self._settle(None, int(CloseCode.UNKNOWN_SUBPROTOCOL))
            await protocol.violate(CloseCode.UNKNOWN_SUBPROTOCOL, "offer agentzero.v1 or nothing")
            return
        try:
            self._peer = self.make_peer(protocol, **path)
            self.realtime.peers.add(self._peer)
            await self._peer.open(self._credential.text if self._credential else None)
        except Exception:
            # Nobody is left without a code.
            log.exception("socket.open_failed")
            if self._peer is None:
                self._settle(None, int(CloseCode.INTERNAL))
            protocol.close(CloseCode.INTERNAL, "the server failed")
        finally:
            self._credential = None

    async def on_text(self, encoded: bytes) -> None:
        """Pass a text frame on."""
        if self._peer is not None:
            await self._peer.receive(encoded)

    def on_message(self, message: str | bytes) -> None:
        """Refuse a binary frame; text comes by `on_text`."""
        del message
        if self._peer is not None:
            self._peer.end(CloseCode.BAD_FRAME, "frames are text")

    def on_ping(self, data: bytes) -> None:
        """Take it as a sign of life; Tornado answers it."""
        del data
        if self._peer is not None:
            self._peer.heard()

    on_pong = on_ping

    def on_close(self) -> None:
        """Tell the peer that the socket is gone."""
        if self._peer is not None:
            self._peer.closed()
            self.realtime.peers.remove(self._peer)

    def make_peer(self, protocol: StrictProtocol, **path: str) -> Peer:
        """Make the state machine of this path."""
        raise NotImplementedError

    def peer_arguments(self, limits: PeerLimits) -> dict[str, Any]:
        """What every peer is made with, besides its transport."""
        return {
            "session": self.realtime.identifiers.new("con"),
            "address": self.address,
            "messages": self.realtime.contract.messages,
            "authenticate": (
                self.realtime.redeem
                if self._credential and self._credential.is_ticket
                else self.realtime.authenticate
            ),
            "registry": self.realtime.peers,
            "limits": limits,
            "settled": self._settle,
        }

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Select ours when it is offered; a credential is never echoed."""
        return self._offer.selected if self._offer.selected in subprotocols else None

    def check_origin(self, origin: str) -> bool:
        """Say yes: `_find_refusal` decided, and Tornado would not ask in every case."""
        del origin
        return True

    def get_compression_options(self) -> None:
        """Refuse deflate: it costs 145 KiB a connection."""
        return

    def get_websocket_protocol(self) -> StrictProtocol | None:
        """Make the strict protocol with the bound of this path."""
        params = _WebSocketParams(max_message_size=self.bounds.frame_bytes)
        return StrictProtocol(self, params)

    @property
    def bounds(self) -> PeerLimits:
        """The limits of this path."""
        return self.realtime.limits

    def set_default_headers(self) -> None:
        """Don't tell what the server is."""
        self.clear_header("Server")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer other methods and faults with a problem."""
        error = kwargs.get("exc_info", (None, HTTPError(status_code)))[1]
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            error = MethodNotAllowed(["GET"])
        elif status_code == HTTPStatus.BAD_REQUEST:
            error = Malformed("The address is not UTF-8.")
        self._send_problem(error)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log without the address: a token may stand in it."""
        if not isinstance(value, HTTPError):
            log.error("socket.failed", path=self.request.path, exc_info=(typ, value, tb))

    def _request_summary(self) -> str:
        return f"{self.request.method} {self.request.path} ({self.request.remote_ip})"

    @property
    def _origins(self) -> Origins:
        return Origins(self.realtime.origins, self.realtime.addresses)

    def _find_refusal(self) -> HiveError | None:
        headers = self.request.headers
        # Without one it is no page; a credential it needs all the same.
        if "Origin" in headers and not self._origins.admit(self.request):
            return Forbidden("Pages of this origin may not connect.")
        tokens = {token.strip().lower() for token in headers.get("Connection", "").split(",")}
        if (
            headers.get("Upgrade", "").lower() != "websocket"
            or "upgrade" not in tokens
            or headers.get("Sec-WebSocket-Version") != VERSION
            or not headers.get("Sec-WebSocket-Key")
        ):
            return UpgradeRequired()
        return None

    async def _find_no_room(self) -> HiveError | None:
        try:
            await self.realtime.audit.admit(self.call)
        except HiveError as error:
            return error
        return None

    def _settle(self, principal: Principal | None, status: int) -> None:
        """Record how the attempt to connect ended. Raises Unavailable when there is no room."""
        self.call.principal = principal
        self.realtime.audit.note(self.call, status, None)

    def _send_problem(self, error: BaseException) -> None:
        problem = build_problem(
            error,
            instance=self.request.path,
            request_id=self.call.request_id,
        )
        status, members = problem.status, problem.members
        origins = self._origins
        for name, value in {
            **security_headers(origins.scheme(self.request)),
            **Cors(origins).headers(self.request),
            **problem.headers,
            "Vary": "Origin",
        }.items():
            self.set_header(name, value)
        if isinstance(error, UpgradeRequired):
            status = HTTPStatus.UPGRADE_REQUIRED
            members |= {"status": int(status)}
            self.set_header("Upgrade", "websocket")
            self.set_header("Connection", "Upgrade")
            self.set_header("Sec-WebSocket-Version", VERSION)
        # Without room for a record this is refused anyway.
        with suppress(HiveError):
            self.realtime.audit.note(self.call, int(status), members["code"])
        self.set_status(status)
        self.set_header("Content-Type", PROBLEM_JSON)
        self.finish(encode_json(members))

    def _query(self, name: str) -> list[str]:
        values = self.request.query_arguments.get(name, ())
        return [value.decode("utf-8", "replace") for value in values]

    def _forget_query(self) -> None:
        """Take it off the request: whatever prints that must not print a token."""
        self.request.uri = self.request.path
        self.request.query = ""
        self.request.arguments = {}
        self.request.query_arguments = {}


class EventsHandler(RealtimeHandler):
    """`/ws`."""

    action = "connect_events"

    def make_peer(self, protocol: StrictProtocol, **path: str) -> Peer:
        """A connection to the event log."""
        del path
        limits = self.realtime.limits
        cursors = self._cursors
        return Connection(
            SocketTransport(protocol, limits.buffered_bytes),
            hub=self.realtime.hub,
            # Two of them mean nothing that we could know; the connection refuses it.
            cursor=",".join(cursors) if cursors else None,
            **self.peer_arguments(limits),
        )


class AgentLinkHandler(RealtimeHandler):
    """`/ws/agents/{agent_id}`."""

    action = "connect_agent"

    def make_peer(self, protocol: StrictProtocol, **path: str) -> Peer:
        """The link of the agent in the path."""
        limits = self.realtime.link_limits
        return AgentLink(
            SocketTransport(protocol, limits.buffered_bytes),
            agent_id=path["agent_id"],
            links=self.realtime.links,
            by=self.call,
            **self.peer_arguments(limits),
        )

    @property
    def bounds(self) -> PeerLimits:
        """The limits of this path."""
        return self.realtime.link_limits
