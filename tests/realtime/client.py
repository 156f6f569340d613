"""A WebSocket client that judges: every frame of the server must be as `asyncapi.yaml` has it.

The judge is not the server's own: python-jsonschema reads the two files by itself. It also closes
the schemas that the contract leaves open for the future, and `seq` must grow strictly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # it ships no types
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT7
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 10.0
Frame = dict[str, Any]


@cache
def documents() -> dict[str, Any]:
    """Both contracts by file name."""
    return {
        name: yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        for name in ("openapi.yaml", "asyncapi.yaml")
    }


@cache
def registry() -> Registry[Any]:
    """What the `$ref`s of the contracts resolve to."""
    return Registry().with_resources(
        (f"http://contract/{name}", DRAFT7.create_resource(document))
        for name, document in documents().items()
    )


@cache
def validator(message: str) -> jsonschema.Draft7Validator:
    """The validator of a message's payload."""
    reference = f"http://contract/asyncapi.yaml#/components/messages/{message}/payload"
    return jsonschema.Draft7Validator({"$ref": reference}, registry=registry())


def message_of(frame: Mapping[str, Any]) -> str:
    """The name of the message that a frame is: its type, or the noun of an event."""
    noun, dot, _ = str(frame["type"]).partition(".")
    return f"{noun}_event" if dot else noun


def messages_of(channel: str, action: str) -> set[str]:
    """The messages that the server receives, or sends (as answers, too), on a channel."""
    found: set[str] = set()
    for operation in documents()["asyncapi.yaml"]["operations"].values():
        if operation["channel"]["$ref"] != f"#/channels/{channel}":
            continue
        carried = list(operation["messages"]) if operation["action"] == action else []
        if action == "send":
            carried += operation.get("reply", {}).get("messages", [])
        found |= {reference["$ref"].rpartition("/")[2] for reference in carried}
    return found


def known_fields(message: str) -> set[str]:
    """The fields that the contract names; of others nobody was told."""
    payload = documents()["asyncapi.yaml"]["components"]["messages"][message]["payload"]
    fields: set[str] = set()
    for part in payload.get("allOf", [payload]):
        resolved = part
        if "$ref" in part:
            resolved = documents()["openapi.yaml"]["components"]["schemas"]["Event"]
        fields |= resolved.get("properties", {}).keys()
    return fields


def judge(frame: Any, channel: str) -> Frame:
    """Give the frame back; raise AssertionError when the contract does not have it."""
    assert isinstance(frame, dict), f"a frame is an object, got {frame!r}"
    message = message_of(frame)
    assert message in messages_of(channel, "send"), f"{channel} sends no {message}: {frame}"
    errors = [
        f"/{'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator(message).iter_errors(frame)
    ]
    assert not errors, f"{message}: {errors} in {frame}"
    unknown = frame.keys() - known_fields(message)
    assert not unknown, f"{message} has undeclared fields {unknown}: {frame}"
    return frame


class JudgedSocket:
    """A socket whose every frame was judged. `seqs` are those of the events that came."""

    def __init__(self, socket: ClientConnection, channel: str) -> None:
        self.socket = socket
        self.channel = channel
        self.seqs: list[int] = []

    async def send(self, frame_type: str, **fields: Any) -> None:
        """Send a control frame."""
        await self.socket.send(json.dumps({"type": frame_type, **fields}))

    async def send_text(self, text: str) -> None:
        """Send any text."""
        await self.socket.send(text)

    async def receive(self) -> Frame:
        """The next frame. Raises ConnectionClosed, TimeoutError."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            text = await self.socket.recv(decode=True)
        frame = judge(json.loads(text), self.channel)
        if "seq" in frame:
            seq = int(frame["seq"])
            assert not self.seqs or seq > self.seqs[-1], f"{seq} came after {self.seqs[-1]}"
            self.seqs.append(seq)
        return frame

    async def expect(self, frame_type: str) -> Frame:
        """The next frame, which must be of the type."""
        frame = await self.receive()
        assert frame["type"] == frame_type, f"expected {frame_type}, got {frame}"
        return frame

    async def until(self, frame_type: str) -> Frame:
        """The next frame of the type; others are judged and dropped."""
        while True:
            frame = await self.receive()
            if frame["type"] == frame_type:
                return frame

    async def subscribe(self, *events: str, **fields: Any) -> Frame:
        """Subscribe, and give the answer."""
        await self.send("subscribe", events=list(events), **fields)
        return await self.until("subscribed")

    async def close_code(self) -> int | None:
        """The code that the server closes with; frames before it are judged."""
        while True:
            try:
                await self.receive()
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None


@asynccontextmanager
async def open_socket(
    url: str, path: str = "/ws", *, token: str | None = None, **options: Any
) -> AsyncIterator[JudgedSocket]:
    """Connect to a server; `token` goes into the header. `options` are those of websockets."""
    channel = "agent_link" if path.startswith("/ws/agents/") else "events"
    headers = dict(options.pop("additional_headers", {}))
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    settings = {
        "compression": None,
        "close_timeout": 0.5,
        "ping_interval": None,
        "proxy": None,
        "max_size": None,
    }
    async with connect(
        url.replace("http", "ws", 1) + path, additional_headers=headers, **settings | options
    ) as socket:
        yield JudgedSocket(socket, channel)
