"""Targets, methods and the order of answers on raw sockets."""

from __future__ import annotations

import pytest

from tests.edge.wires import AUTHORIZED, Wire


@pytest.mark.parametrize(
    "target",
    ["/open%00", "/open\x80", "/things/%ff", "/things/%c0%ae", "/things/a%2fb", "/things/%2e%2e",
     "/things/a%5cb", "/things/%0d%0aX:%201", "/things/%zz", "http://b/nope", "//open"],
)  # fmt: skip
async def test_an_odd_target_is_not_found(wire: Wire, target: str) -> None:
    """404, and the connection lives on."""
    await wire.send(f"GET {target} HTTP/1.1", AUTHORIZED)
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (404, "not-found")
    assert await wire.lives()


@pytest.mark.parametrize(
    "query", ["limit=%zz", "kind=%ff", "kind=%00", "%00=1", "limit=%", "kind=\x80"]
)
async def test_an_odd_query_is_a_problem(wire: Wire, query: str) -> None:
    """Bad escapes, bad UTF-8 and NUL are 400."""
    await wire.send(f"GET /things?{query} HTTP/1.1", AUTHORIZED)
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.problem["code"]) == (400, "contract-mismatch")


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "FINISH", "WRITE_ERROR", "connect", "get"])
async def test_an_unknown_method_is_405_with_allow(wire: Wire, method: str) -> None:
    """No method of the handler's class can be called by its name."""
    await wire.send(f"{method} /open HTTP/1.1")
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_head_has_no_body(wire: Wire) -> None:
    """The next request on the connection is answered where it should be."""
    for path, status in (("/things", 401), ("/open", 200)):
        await wire.send_bytes(f"HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = await wire.receive(head_only=True)
        assert answer is not None
        assert answer.status == status
        assert await wire.lives()


async def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    """Two heads in one packet, two answers."""
    await wire.send_bytes(
        b"GET /open HTTP/1.1\r\nHost: a\r\nX-Request-Id: 1\r\n\r\n"
        b"GET /nope HTTP/1.1\r\nHost: a\r\nX-Request-Id: 2\r\n\r\n"
    )
    for request_id, status in (("1", 200), ("2", 404)):
        answer = await wire.receive()
        assert answer is not None
        assert (answer.headers["x-request-id"], answer.status) == (request_id, status)
