"""What is large when it is opened, or has two meanings, is refused unopened: 400, 413, 415."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib

import pytest

from tests.contract.running import serve_small
from tests.edge.wires import AUTHORIZED, Wire, connect
from tests.unit.test_json_body import REFUSED

MANY = 100_000
UNOPENED = {
    "gzip": ("application/json", "gzip", gzip.compress(b"[" * 10_000_000)),
    "gzip twice": ("application/json", "gzip, gzip", gzip.compress(gzip.compress(b"{}"))),
    "deflate": ("application/json", "deflate", zlib.compress(b"[" * 10_000_000)),
    "zstd": ("application/json", "zstd", bytes.fromhex("28b52ffd")),
    "unknown coding": ("application/json", "br", b"\x1b"),
    "multipart": ("multipart/form-data; boundary=x", "", b"--x\r\n\r\n\r\n" * (MANY // 20)),
    "multipart without an end": ("multipart/form-data; boundary=x", "", b"--x" * 20_000),
    "form": ("application/x-www-form-urlencoded", "", b"a&" * (MANY // 4)),
    "text": ("text/plain", "", b"{}"),
    "XML": ("application/xml", "", b'<!DOCTYPE a [<!ENTITY a "a"><!ENTITY b "&a;&a;">]><a>&b;</a>'),
    "another charset": ("application/json; charset=utf-16", "", "{}".encode("utf-16")),
    "JSON of another kind": ("application/merge-patch+json", "", b"{}"),
    "no type": ("", "", b"{}"),
    "two types": ("application/json, text/plain", "", b"{}"),
}


async def post(wire: Wire, body: bytes, *fields: str) -> int:
    """The status of the answer; the connection lives on."""
    await wire.send(
        "POST /things HTTP/1.1", AUTHORIZED, *fields, f"Content-Length: {len(body)}", body=body
    )
    answer = await wire.receive()
    assert answer is not None
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(answer.body) < 4096
    return answer.status


@pytest.mark.parametrize(("content_type", "coding", "body"), UNOPENED.values(), ids=UNOPENED)
async def test_what_the_contract_does_not_declare_is_415_unopened(
    wire: Wire, content_type: str, coding: str, body: bytes
) -> None:
    """Neither unpacked nor parsed, whatever is in it."""
    fields = [f"Content-Type: {content_type}"] if content_type else []
    fields += [f"Content-Encoding: {coding}"] if coding else []
    assert await post(wire, body, *fields) == 415
    assert await wire.lives()


async def test_bombs_hold_nobody_up() -> None:
    """A hundred thousand parts or fields, and the loop is never long away."""
    bombs = [
        (b"--x\r\nA: b\r\n\r\n\r\n" * MANY, "Content-Type: multipart/form-data; boundary=x"),
        (b"a=1&" * MANY, "Content-Type: application/x-www-form-urlencoded"),
        (gzip.compress(b"\0" * 50_000_000), "Content-Encoding: gzip"),
    ]
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            # Of the loop's own work: a machine that does something else is no bomb.
            began = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - began)

    async with serve_small() as (_, base), connect(base) as wire:
        watching = asyncio.create_task(watch())
        for body, field in bombs:
            assert await post(wire, body, field) in (413, 415)
        watching.cancel()
    # 20 ms on a quiet machine; parsing any of these takes seconds.
    assert longest < 0.25


async def test_json_of_no_single_meaning_is_400() -> None:
    """Every one of the corpus over the wire, on one connection, each within a moment."""
    async with serve_small() as (_, base), connect(base) as wire:
        for name, body in REFUSED.items():
            began = time.monotonic()
            status = await post(wire, body, "Content-Type: application/json")
            assert status == 400, name
            # 20 ms on a quiet machine.
            assert time.monotonic() - began < 0.5, name
        assert await wire.lives()
