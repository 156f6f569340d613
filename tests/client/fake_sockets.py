# ruff: noqa: D102
# Tornado's names say what they are.
"""The two WebSockets of the fake hive, and the application with all of its routes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import tornado.web
import tornado.websocket

from tests.client.fake_hive import FakeHive, Refusal, problem
from tests.client.fake_rest import Rest, bearer

REFUSED = 1008
TAKEN_OVER = 4010
LINK_CLOSED = "the link closed"
VERBS = {
    "accept": "renew",
    "reject": "release",
    "progress": "renew",
    "log": "logs",
    "complete": "complete",
    "fail": "fail",
    "release": "release",
}


def make_app(hive: FakeHive) -> tornado.web.Application:
    """The routes."""
    known = {"hive": hive}
    return tornado.web.Application(
        [
            (r"/ws", EventSocket, known),
            (r"/ws/agents/([^/]+)", AgentSocket, known),
            (r"/.*", Rest, known),
        ],
        log_function=lambda _: None,
    )


class Socket(tornado.websocket.WebSocketHandler):
    """What both sockets share."""

    def initialize(self, hive: FakeHive) -> None:
        self.hive = hive

    async def prepare(self) -> None:
        if self.hive.blocks_sockets:
            self.hive.requests.append(("GET", self.request.path, None))
            self.hive.notify()
            self.set_status(403)
            self.finish()

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "agentzero.v1" if "agentzero.v1" in subprotocols else None

    def admit(self) -> bool:
        if bearer(self.request) in self.hive.tokens:
            return True
        self.close(REFUSED, "invalid token")
        return False

    def read(self, message: str | bytes) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(message)
        self.hive.check_frame(frame)
        self.hive.frames.append(frame)
        self.hive.notify()
        return frame

    def tell(self, frame: dict[str, Any]) -> None:
        self.hive.check_frame(frame)
        if self.ws_connection is not None and not self.ws_connection.is_closing():
            asyncio.ensure_future(self.send(frame))  # noqa: RUF006  # It ends with the socket.

    async def send(self, frame: dict[str, Any]) -> bool:
        """Whether the socket was still open."""
        try:
            await self.write_message(json.dumps(frame))
        except tornado.websocket.WebSocketClosedError:
            return False
        return True

    def abort(self) -> None:
        if isinstance(self.ws_connection, tornado.websocket.WebSocketProtocol13):
            self.ws_connection._abort()


class EventSocket(Socket):
    """Serves `/ws`."""

    def open(self) -> None:
        self.patterns: list[str] = []
        if self.admit():
            self.cursor = int(self.get_query_argument("cursor", "-1"))
            if self.cursor > len(self.hive.events):
                self.close(4009, "the cursor is not of this log")

    def on_message(self, message: str | bytes) -> None:
        frame = self.read(message)
        if frame["type"] != "subscribe":
            return
        self.patterns = frame.get("events", ["*"])
        replays, place = self.cursor >= 0, self.cursor
        if not replays:
            place = len(self.hive.events)
        events = {"events": self.patterns, "cursor": str(place)}
        self.tell({"type": "subscribed", "id": frame["id"], **events})
        if replays and place < self.hive.trimmed_up_to:
            to = self.hive.trimmed_up_to
            gap = {"from": str(place), "to": str(to), "reason": "trimmed"}
            self.tell({"type": "gap", **gap, "snapshot": "/api/v1/hive/status"})
            place = to
        if replays:
            place = max(0, place - self.hive.repeats_events)
        for event in self.hive.events[place:]:
            self.deliver(event)
        end = {"cursor": str(len(self.hive.events)), "replay_end": True}
        self.tell({"type": "bookmark", **end})
        self.hive.watchers.add(self)
        self.hive.notify()

    def deliver(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if any(
            p in ("*", kind) or (p.endswith(".*") and kind.startswith(p[:-1]))
            for p in self.patterns
        ):
            self.tell(event)

    def on_close(self) -> None:
        self.hive.watchers.discard(self)
        self.hive.notify()


class AgentSocket(Socket):
    """Serves `/ws/agents/{agent_id}`."""

    def open(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.slots = 0
        self.reserved = 0
        self.held: set[str] = set()
        self.admit()

    def room(self) -> int:
        return self.slots - len(self.held) - self.reserved

    def assign(self, lease: dict[str, Any]) -> None:
        self.held.add(lease["lease_id"])
        asyncio.ensure_future(self.hand_over(lease))  # noqa: RUF006  # It ends with the socket.

    async def hand_over(self, lease: dict[str, Any]) -> None:
        """Send the lease; when the socket has closed meanwhile it goes back."""
        frame = {"type": "assign", "lease": lease}
        self.hive.check_frame(frame)
        if not await self.send(frame):
            body = {"fence": lease["fence"], "reason": LINK_CLOSED}
            self.hive.report(lease["lease_id"], "release", body)

    def drop(self, lease_id: str, *, tell: bool = False) -> None:
        if lease_id in self.held:
            self.held.discard(lease_id)
            if tell:
                self.tell({"type": "cancel", "lease_id": lease_id, "reason": "lost"})

    def on_message(self, message: str | bytes) -> None:
        frame = self.read(message)
        kind = frame["type"]
        if kind == "hello":
            self.greet(frame)
        elif kind == "heartbeat":
            free = frame.get("free_slots")
            if free is not None:
                self.reserved = max(0, self.slots - len(self.held) - free)
            body = self.hive.heartbeat(self.agent_id, frame)
            if "id" in frame:
                self.tell({"type": "result", "id": frame["id"], "status": 200, "body": body})
            self.hive.push()
        elif kind in VERBS:
            self.report(frame)

    def greet(self, frame: dict[str, Any]) -> None:
        older = self.hive.links.get(self.agent_id)
        if older is not None:
            older.close(TAKEN_OVER, "taken over")
        self.slots = frame["slots"]
        asked = [proof["lease_id"] for proof in frame["resume_leases"]]
        self.held = {lease_id for lease_id in asked if lease_id in self.hive.leases}
        ready = {
            "agent_id": self.agent_id,
            "heartbeat_seconds": self.hive.heartbeat_seconds,
            "lease_seconds": self.hive.lease_seconds,
            "slots": self.slots,
            "desired_state": "active",
            "resumed": sorted(self.held),
            "lost": [lease_id for lease_id in asked if lease_id not in self.held],
        }
        self.tell({"type": "ready", **ready})
        self.hive.links[self.agent_id] = self
        self.hive.push()
        self.hive.notify()

    def report(self, frame: dict[str, Any]) -> None:
        body = {k: v for k, v in frame.items() if k not in ("type", "id", "lease_id")}
        result: dict[str, Any] = {"type": "result", "id": frame["id"]}
        try:
            answer = self.hive.report(frame["lease_id"], VERBS[frame["type"]], body)
            result |= {"status": 200, "body": answer}
        except Refusal as refusal:
            self.drop(frame["lease_id"])
            said = problem(refusal.status, refusal.code, refusal.detail, "/")
            result |= {"status": refusal.status, "problem": json.loads(said)}
        if frame["type"] in self.hive.swallows:
            self.hive.swallows.discard(frame["type"])
            self.abort()
            return
        self.tell(result)
        self.hive.push()

    def on_close(self) -> None:
        if self.hive.links.get(self.agent_id) is self:
            del self.hive.links[self.agent_id]
        self.hive.notify()
