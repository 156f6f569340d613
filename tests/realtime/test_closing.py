"""What ends a connection, with which code, and what does not."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.realtime import fakes
from tests.realtime.conftest import RealtimeNode


@pytest.mark.parametrize(
    "text",
    ["", "ping", "[]", "1", "null", '{"type":1}', "{}", '{"type":"ping","type":"ping"}', "{" * 99],
)
async def test_what_is_no_frame_closes_with_4400(node: RealtimeNode, text: str) -> None:
    """Not JSON, ambiguous JSON, no object, no type."""
    async with node.open() as socket:
        await socket.send_text(text)
        assert await socket.close_code() == 4400


async def test_a_binary_frame_closes_with_4400(node: RealtimeNode) -> None:
    """Frames are text."""
    async with node.open() as socket:
        await socket.socket.send(b'{"type":"ping"}')
        assert await socket.close_code() == 4400


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "dance"}, "unknown-type"),
        ({"type": "welcome"}, "unknown-type"),
        ({"type": "hello"}, "unknown-type"),
        ({"type": "ping", "extra": 1}, "contract-mismatch"),
        ({"type": "subscribe", "events": ["task"]}, "contract-mismatch"),
        ({"type": "subscribe", "events": []}, "contract-mismatch"),
        ({"type": "subscribe", "filter": {"colour": "red"}}, "contract-mismatch"),
        ({"type": "unsubscribe"}, "contract-mismatch"),
    ],
)
async def test_a_refused_frame_keeps_the_connection(
    node: RealtimeNode, frame: dict[str, Any], code: str
) -> None:
    """An error is not a disconnect, and names the frame."""
    async with node.open() as socket:
        await socket.send(frame.pop("type"), **frame | {"id": "f1"})
        error = await socket.expect("error")
        assert error["code"] == code
        assert error["id"] == "f1"
        await socket.send("ping", t=7)
        assert await socket.receive() == {"type": "pong", "t": 7}


async def test_a_second_connect_closes_with_4409(node: RealtimeNode) -> None:
    """One introduces oneself once."""
    async with node.open() as socket:
        await socket.send("connect")
        await socket.expect("welcome")
        await socket.send("connect")
        assert await socket.close_code() == 4409


async def test_no_permission_closes_with_4403(node: RealtimeNode) -> None:
    """A known principal without events:read."""
    async with node.open(token="nobody") as socket:
        assert await socket.close_code() == 4403


async def test_a_frame_before_the_credential_closes_with_1008(node: RealtimeNode) -> None:
    """Without a credential only `connect` is taken."""
    async with node.open(token=None) as socket:
        await socket.send("ping")
        assert await socket.close_code() == 1008


async def test_no_credential_in_time_closes_with_1008(make_node: Callable[..., Any]) -> None:
    """Nobody may sit there unknown."""
    node = await make_node(connect_seconds=0.1)
    async with node.open(token=None) as socket:
        assert await socket.close_code() == 1008


async def test_a_bad_token_in_connect_closes_with_1008(node: RealtimeNode) -> None:
    """As one in the handshake."""
    async with node.open(token=None) as socket:
        await socket.send("connect", token="bad")
        assert await socket.close_code() == 1008


async def test_an_unreachable_identity_store_closes_with_4000(node: RealtimeNode) -> None:
    """Not the client's fault: it may come back."""
    async with node.open(token="unavailable") as socket:
        assert await socket.close_code() == 4000


async def test_an_exception_in_a_handler_closes_with_4000(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never without a code."""
    monkeypatch.setattr("server.connection.Subscriptions.add", lambda *_: 1 / 0)
    async with node.open() as socket:
        await socket.send("subscribe")
        assert await socket.close_code() == 4000


async def test_an_exception_while_delivering_closes_with_4000_and_spares_others(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub goes on."""
    async with node.open() as one, node.open() as other:
        await one.subscribe("task.created")
        await other.subscribe("*")
        select = "server.connection.Subscriptions.select"
        original = __import__("server.subscriptions").subscriptions.Subscriptions.select

        def fail_for_exact(self: Any, entry: Any) -> bool:
            if self._exact:
                raise ZeroDivisionError
            return bool(original(self, entry))

        monkeypatch.setattr(select, fail_for_exact)
        node.publish()
        await other.expect("task.created")
        assert await one.close_code() == 4000


async def test_no_answer_to_ping_closes_with_4007(make_node: Callable[..., Any]) -> None:
    """The server pings, waits, and gives up."""
    node = await make_node(heartbeat_seconds=0.1, answer_seconds=0.2)
    async with node.open() as socket:
        ping = await socket.expect("ping")
        assert abs(ping["t"] / 1000 - time.time()) < 10
        assert await socket.close_code() == 4007


@pytest.mark.parametrize("answer", ["pong", "ping"])
async def test_any_frame_answers_ping(make_node: Callable[..., Any], answer: str) -> None:
    """Three heartbeats later the connection is still there."""
    node = await make_node(heartbeat_seconds=0.1, answer_seconds=0.3)
    async with node.open() as socket:
        for _ in range(3):
            await socket.until("ping")
            await socket.send(answer)


async def test_an_expired_token_closes_with_4100(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second of its end."""
    soon = replace(fakes.PRINCIPALS["user"], expires_at=time.time() + 0.3)
    monkeypatch.setitem(fakes.PRINCIPALS, "soon", soon)
    async with node.open(token="soon") as socket:
        await socket.subscribe("*")
        assert await socket.close_code() == 4100
        assert time.time() - (soon.expires_at or 0) < 1


async def test_an_expiring_token_is_noticed(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client can refresh it in time."""
    monkeypatch.setattr("server.liveness.EXPIRY_NOTICE_SECONDS", 58.0)
    later = replace(fakes.PRINCIPALS["user"], expires_at=time.time() + 59.5)
    monkeypatch.setitem(fakes.PRINCIPALS, "later", later)
    async with node.open(token="later") as socket:
        notice = await socket.expect("notice")
        assert notice["kind"] == "token_expiring"
        assert 50_000 < notice["after_ms"] < 59_000


@pytest.mark.parametrize(
    ("token", "subject"),
    [("user", "ses_1"), ("admin", "key_1"), ("viewer", "usr_viewer"), ("agent", "key_2")],
)
async def test_a_revoked_credential_closes_with_4101(
    node: RealtimeNode, token: str, subject: str
) -> None:
    """By session, by key, by user; others stay."""
    async with node.open(token=token) as socket:
        await socket.subscribe("*")
        node.peers.revoke("ses_other")
        node.peers.revoke(subject)
        assert await socket.close_code() == 4101


async def test_connections_of_a_principal_are_bounded(make_node: Callable[..., Any]) -> None:
    """The third of two is refused, and may come when one has gone."""
    node = await make_node(per_principal=2)
    async with node.open() as one:
        async with node.open() as two:
            await one.subscribe("*")
            await two.subscribe("*")
            async with node.open() as three:
                assert await three.close_code() == 4429
        await node.until(lambda: len(node.peers) == 1)
        async with node.open() as four:
            await four.subscribe("*")


async def test_a_flood_of_frames_closes_with_4429(node: RealtimeNode) -> None:
    """1,000 frames at once: the burst is answered, then the door closes."""
    async with node.open() as socket:
        try:
            for _ in range(1000):
                await socket.send("ping")
        except ConnectionClosed:
            pass
        assert await socket.close_code() == 4429


async def test_a_burst_within_the_bound_is_fine(node: RealtimeNode) -> None:
    """100 at once."""
    async with node.open() as socket:
        for number in range(100):
            await socket.send("ping", t=number)
        for number in range(100):
            assert (await socket.receive())["t"] == number


async def test_a_frame_of_65537_bytes_closes_with_1009(node: RealtimeNode) -> None:
    """And one of 65,536 is read."""
    async with node.open() as socket:
        await socket.send_text('{"type":"ping"}'.ljust(65_536))
        await socket.expect("pong")
        await socket.send_text('{"type":"ping"}'.ljust(65_537))
        assert await socket.close_code() == 1009


async def test_endless_fragments_close_with_1009(node: RealtimeNode) -> None:
    """The bound is on the message, however it is cut."""
    async with node.open() as socket:

        async def fragments() -> Any:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0)

        with pytest.raises(ConnectionClosed):
            await socket.socket.send(fragments())
        assert await socket.close_code() == 1009


async def test_a_fragmented_frame_is_put_together(node: RealtimeNode) -> None:
    """Fragments within the bound are one frame."""
    async with node.open() as socket:
        await socket.socket.send(iter(['{"type"', ':"pi', 'ng"}']))
        await socket.expect("pong")


async def test_a_storm_of_control_frames_closes_with_1008(node: RealtimeNode) -> None:
    """Pings cost something, too."""
    async with node.open() as socket:
        transport = socket.socket.transport
        mask = os.urandom(4)
        transport.write((b"\x89\x80" + mask) * 20_000)
        assert await socket.close_code() == 1008


async def test_pings_of_the_client_are_answered(node: RealtimeNode) -> None:
    """RFC 6455, section 5.5.3."""
    async with node.open() as socket:
        async with asyncio.timeout(5):
            await (await socket.socket.ping(b"there?"))


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1016, 2999, 5000, 65535])
async def test_an_illegal_close_code_is_answered_with_1002(node: RealtimeNode, code: int) -> None:
    """Not echoed."""
    async with node.open() as socket:
        payload = struct.pack(">H", code)
        socket.socket.transport.write(b"\x88\x82\0\0\0\0" + payload)
        assert await socket.close_code() == 1002


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"\x81\x02{}", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (b"\x09\x80\0\0\0\0", 1002),
        (b"\x80\x80\0\0\0\0", 1002),
        (b"\x88\x81\0\0\0\0\x03", 1002),
        (b"\x01\x81\0\0\0\0a\x81\x81\0\0\0\0b", 1002),
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),
        (b"\x88\x84\0\0\0\0\x03\xe8\xff\xff", 1007),
        (b"\x81\xff\0\0\0\0\0\x10\0\0\0\0\0\0", 1009),
    ],
)
async def test_violations_of_rfc_6455_have_codes(node: RealtimeNode, raw: bytes, code: int) -> None:
    """Reserved bits, no mask, unknown opcode, broken fragments, broken UTF-8, far too long."""
    async with node.open() as socket:
        socket.socket.transport.write(raw)
        assert await socket.close_code() == code


async def test_a_legal_close_is_echoed(node: RealtimeNode) -> None:
    """And the node forgets the connection."""
    async with node.open() as socket:
        await socket.socket.close(3001, "done")
        assert socket.socket.close_code == 3001
        await node.until(lambda: len(node.peers) == 0)


async def test_drain_says_when_to_come_back_and_closes_with_1012(node: RealtimeNode) -> None:
    """Everybody gets the notice; the node waits until they have gone and takes nobody new."""
    async with node.open() as socket:
        await socket.subscribe("*")
        draining = asyncio.create_task(node.peers.drain(5))
        notice = await socket.expect("notice")
        assert notice["kind"] == "draining"
        assert notice["after_ms"] > 0
        assert await socket.close_code() == 1012
        await draining
        assert len(node.peers) == 0
        async with node.open() as late:
            assert await late.close_code() == 1012


async def test_stop_closes_with_1001(node: RealtimeNode) -> None:
    """What was not drained is told at least that."""
    async with node.open() as socket:
        await socket.subscribe("*")
        await node.peers.stop()
        assert await socket.close_code() == 1001
