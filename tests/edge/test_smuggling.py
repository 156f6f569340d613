"""No bytes are read as two requests here and as one elsewhere (RFC 9112, sections 6 and 11.2).

Behind each of the messages stands `GET /hidden`, which a reader with another idea of where the
first one ends would take for a request of its own.
"""

from __future__ import annotations

import pytest

from tests.contract.running import Unaudited, serve_small
from tests.edge.wires import AUTHORIZED, Wire, connect

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\nX-Request-Id: hidden\r\n\r\n"
CHUNKED = b"5\r\n12345\r\n0\r\n\r\n"
POST = b"POST /things HTTP/1.1\r\n"
HOST = b"Host: a\r\n"


def post(*fields: bytes, body: bytes = b"") -> bytes:
    """A POST with these header fields."""
    return POST + HOST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    """A POST with this chunked body."""
    return post(b"Transfer-Encoding: chunked", body=body)


MALFORMED = {
    # Two ideas of the length.
    "two lengths": post(b"Content-Length: 5", b"Content-Length: 6", body=b"12345"),
    "one length twice": post(b"Content-Length: 5", b"Content-Length: 5", body=b"12345"),
    "one length twice in one field": post(b"Content-Length: 5, 5", body=b"12345"),
    "length and coding": post(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=CHUNKED
    ),
    "coding and length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 5", body=CHUNKED
    ),
    "length of zero and coding": post(
        b"Content-Length: 0", b"Transfer-Encoding: chunked", body=CHUNKED
    ),
    # Lengths that are none.
    "length with a sign": post(b"Content-Length: +5", body=b"12345"),
    "negative length": post(b"Content-Length: -5", body=b"12345"),
    "length with an underscore": post(b"Content-Length: 1_0", body=b"1234567890"),
    "hexadecimal length": post(b"Content-Length: 0x5", body=b"12345"),
    "length with a point": post(b"Content-Length: 5.0", body=b"12345"),
    "length in other digits": post(b"Content-Length: \xb2", body=b"12"),
    "empty length": post(b"Content-Length:", body=b"12345"),
    "length with a space inside": post(b"Content-Length: 1 0", body=b"1234567890"),
    # Codings that are none, or hidden.
    "coding twice": post(
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNKED
    ),
    "coding twice in one field": post(b"Transfer-Encoding: chunked, chunked", body=CHUNKED),
    "identity and chunked": post(
        b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=CHUNKED
    ),
    "another coding": post(b"Transfer-Encoding: xchunked", body=CHUNKED),
    "gzip and chunked": post(b"Transfer-Encoding: gzip, chunked", body=CHUNKED),
    "identity alone": post(b"Transfer-Encoding: identity", body=b"12345"),
    "quoted coding": post(b'Transfer-Encoding: "chunked"', body=CHUNKED),
    "coding with a comma": post(b"Transfer-Encoding: ,chunked", body=CHUNKED),
    "coding with a parameter": post(b"Transfer-Encoding: chunked;q=1", body=CHUNKED),
    "coding with a vertical tab": post(b"Transfer-Encoding:\x0bchunked", body=CHUNKED),
    "empty coding": post(b"Transfer-Encoding:", body=CHUNKED),
    "coding in HTTP/1.0": b"POST /things HTTP/1.0\r\n" + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    # Fields that others may read as one.
    "space before the colon": post(b"Content-Length : 5", body=b"12345"),
    "tab before the colon": post(b"Transfer-Encoding\t: chunked", body=CHUNKED),
    "folded field": post(b"X: a\r\n Content-Length: 5", body=b"12345"),
    "folded coding": post(b"Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "first field indented": POST + b" Content-Length: 5\r\n" + HOST + b"\r\n12345",
    "no colon": post(b"Content-Length 5", body=b"12345"),
    "no name": post(b": 5", body=b"12345"),
    "NUL in a value": post(b"X: a\0b"),
    "NUL in a name": post(b"X\0: a"),
    "CR in a value": post(b"X: a\rContent-Length: 5", body=b"12345"),
    "letters beyond ASCII in a name": post(b"Content-L\xc3\xabngth: 5", body=b"12345"),
    # Line ends.
    "LF ends all lines": post(b"Content-Length: 5", body=b"12345").replace(b"\r\n", b"\n"),
    "LF ends one line": POST + HOST + b"X: a\nContent-Length: 5\r\n\r\n12345",
    "LF ends the request line": b"POST /things HTTP/1.1\n" + HOST + b"\r\n",
    "LF ends the head": POST + b"Host: a\r\nContent-Length: 0\n\n",
    "LF and CR LF end the head": POST + b"Host: a\n\r\n",
    "two empty lines before": b"\r\n\r\n" + post(),
    "CR CR LF": POST + b"Host: a\r\r\n\r\n",
    # Hosts and targets.
    "no Host": POST + b"\r\n",
    "two Hosts": post(b"Host: b"),
    "one Host twice": post(b"Host: a"),
    "Host with a slash": POST + b"Host: a/b\r\n\r\n",
    "Host with two names": POST + b"Host: a, b\r\n\r\n",
    "Host with an at sign": POST + b"Host: user@a\r\n\r\n",
    "authority as target": b"GET a:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "URL with a password": b"GET http://u:p@a/open HTTP/1.1\r\n" + HOST + b"\r\n",
    "URL of another scheme": b"GET file:///open HTTP/1.1\r\n" + HOST + b"\r\n",
    "URL without a host": b"GET http:///open HTTP/1.1\r\n" + HOST + b"\r\n",
    # Request lines.
    "no version": b"GET /open\r\n" + HOST + b"\r\n",
    "version 0.9": b"GET /open HTTP/0.9\r\n" + HOST + b"\r\n",
    "version 1.2": b"GET /open HTTP/1.2\r\n" + HOST + b"\r\n",
    "version 2.0": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two spaces": b"GET  /open HTTP/1.1\r\n" + HOST + b"\r\n",
    "space in the target": b"GET /open /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab in the request line": b"GET\t/open HTTP/1.1\r\n" + HOST + b"\r\n",
    "space before the method": b" GET /open HTTP/1.1\r\n" + HOST + b"\r\n",
    "small version": b"GET /open http/1.1\r\n" + HOST + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    # Chunks.
    "chunk with an extension": chunked(b"5;a=b\r\n12345\r\n0\r\n\r\n"),
    "chunk with a long extension": chunked(b"5;" + b"a" * 200 + b"\r\n12345\r\n0\r\n\r\n"),
    "chunk of 0x5": chunked(b"0x5\r\n12345\r\n0\r\n\r\n"),
    "chunk of +5": chunked(b"+5\r\n12345\r\n0\r\n\r\n"),
    "chunk of -5": chunked(b"-5\r\n12345\r\n0\r\n\r\n"),
    "chunk with a space": chunked(b"5 \r\n12345\r\n0\r\n\r\n"),
    "chunk with LF": chunked(b"5\n12345\r\n0\r\n\r\n"),
    "chunk that is longer": chunked(b"5\r\n123456\r\n0\r\n\r\n"),
    "chunk that is shorter": chunked(b"5\r\n1234\r\n0\r\n\r\n"),
    "chunk without its end": chunked(b"5\r\n12345xx0\r\n\r\n"),
    "chunk without a size": chunked(b"\r\n12345\r\n0\r\n\r\n"),
    "chunk of 17 digits": chunked(b"10000000000000005\r\n12345\r\n0\r\n\r\n"),
    "trailer": chunked(b"5\r\n12345\r\n0\r\nX: a\r\n\r\n"),
    "end with LF": chunked(b"5\r\n12345\r\n0\r\n\n\n"),
}  # fmt: skip


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
async def test_a_message_of_two_meanings_ends_the_connection(wire: Wire, message: bytes) -> None:
    """One problem and a close: what follows is never read as another request."""
    await wire.send_bytes(message + HIDDEN)
    await wire.assert_refused(400, "malformed-request")


HARMLESS = {
    "plain": (post(b"Content-Length: 2", body=b"{}"), 401),
    "chunked": (chunked(b"2\r\n{}\r\n0\r\n\r\n"), 401),
    "small chunks": (chunked(b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), 401),
    "leading zeros": (chunked(b"0002\r\n{}\r\n000\r\n\r\n"), 401),
    "capitals": (post(b"TRANSFER-ENCODING: CHUNKED", body=b"2\r\n{}\r\n0\r\n\r\n"), 401),
    "space around the value": (post(b"Content-Length:   2 \t", body=b"{}"), 401),
    "one empty line before": (b"\r\n" + post(b"Content-Length: 2", body=b"{}"), 401),
    "body of a GET": (b"GET /open HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxxx", 400),
    "whole URL": (b"GET http://a/open HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    "whole URL of another host": (b"GET http://b:80/open HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    "whole URL and IPv6": (b"GET http://[::1]:80/open HTTP/1.1\r\n" + HOST + b"\r\n", 200),
    "options of the server": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "coding that is only offered": (b"GET /open HTTP/1.1\r\nHost: a\r\nTE: chunked\r\n\r\n", 200),
}  # fmt: skip


@pytest.mark.parametrize(("message", "status"), HARMLESS.values(), ids=HARMLESS)
async def test_a_body_ends_where_it_says(wire: Wire, message: bytes, status: int) -> None:
    """Two requests, two answers in their order."""
    await wire.send_bytes(message + HIDDEN)
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == status, answer
    answer = await wire.receive()
    assert answer is not None
    assert (answer.status, answer.headers["x-request-id"]) == (404, "hidden")
    assert await wire.lives()


async def test_a_whole_url_means_its_path_and_its_host(wire: Wire) -> None:
    """RFC 9112, section 3.2.2: Host does not count beside it."""
    await wire.send("GET https://b/things/1?kind=x HTTP/1.1", AUTHORIZED)
    answer = await wire.receive()
    assert answer is not None
    assert answer.problem["instance"] == "/things/1"


async def test_http_1_0_is_answered_and_closed(wire: Wire) -> None:
    """Without a Host, as it was then; nothing is kept alive unless asked."""
    await wire.send_bytes(b"GET /open HTTP/1.0\r\n\r\n" + HIDDEN)
    answer = await wire.receive()
    assert answer is not None
    assert answer.status == 200
    assert await wire.is_closed()


async def test_a_malformed_message_is_on_record() -> None:
    """Like every refusal: who, what, and with which answer; nothing of an unreadable head."""
    audit = Unaudited()
    async with serve_small(audit=audit) as (_, base):
        for message in (MALFORMED["two lengths"], MALFORMED["no version"], MALFORMED["trailer"]):
            async with connect(base) as wire:
                await wire.send_bytes(message)
                await wire.assert_refused(400, "malformed-request")
    assert [
        (call.method, call.path, call.address, status, code)
        for call, status, code in audit.recorded
    ] == [
        ("POST", "/things", "127.0.0.1", 400, "malformed-request"),
        ("", "", "127.0.0.1", 400, "malformed-request"),
        ("POST", "/things", "127.0.0.1", 400, "malformed-request"),
    ]


async def test_what_was_sent_is_never_quoted(wire: Wire) -> None:
    """A head that could not be read may be a secret, or a script."""
    await wire.send_bytes(b"GET /open HTTP/1.1\r\nHost: a\r\nX-Key <script>azk_secret\r\n\r\n")
    answer = await wire.assert_refused(400, "malformed-request")
    assert b"secret" not in answer.body
    assert b"script" not in answer.body
