"""Frames of no single meaning end the connection with a code, and never hurt the server."""

from __future__ import annotations

import pytest
from websockets.exceptions import ConnectionClosed

from tests.realtime.conftest import RealtimeNode
from tests.unit.test_json_body import REFUSED

BAD_FRAME = 4400
NOT_UTF8 = 1007


def close_code_of(frame: bytes) -> int:
    """Text frames are UTF-8 (RFC 6455, section 8.1) before they are JSON."""
    try:
        frame.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    return BAD_FRAME


@pytest.mark.parametrize("path", ["/ws", "/ws/agents/agt_1"])
async def test_json_of_no_single_meaning_closes_the_socket(node: RealtimeNode, path: str) -> None:
    """The whole corpus; the next client is served as if nothing had been."""
    token = "agent" if "agents" in path else "user"
    for name, frame in REFUSED.items():
        if len(frame) > 60_000:  # That is another answer, 1009.
            continue
        async with node.open(path, token=token) as socket:
            await socket.socket.send(frame, text=True)
            assert await socket.close_code() == close_code_of(frame), name
    async with node.open() as socket:
        await socket.subscribe("task.*")


async def test_a_frame_of_the_wrong_shape_closes_the_socket(node: RealtimeNode) -> None:
    """JSON, but no object with a type."""
    for frame in ("[]", "null", "1", '"subscribe"', "{}", '{"type":1}', '{"type":["ping"]}'):
        async with node.open() as socket:
            await socket.send_text(frame)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == BAD_FRAME
