"""Bodies that take long to decode never stand in one line before everybody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

import server.operations
from server.json_body import decode_json
from server.turns import LARGE_BYTES
from tests.contract.running import serve_small
from tests.edge.wires import AUTHORIZED, connect

MIB = 1024 * 1024
CLIENTS = 20


async def test_no_round_of_the_loop_decodes_two_large_bodies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last byte of each arrives at the same moment; others get the loop in between."""
    rounds = 0
    decoded: Counter[int] = Counter()

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    def decode(encoded: bytes) -> Any:
        decoded[rounds] += 1
        return decode_json(encoded)

    monkeypatch.setattr(server.operations, "decode_json", decode)
    async with serve_small(max_body_bytes=MIB) as (_, base), AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connect(base)) for _ in range(CLIENTS)]
        for wire in wires:
            await wire.send(
                "POST /things HTTP/1.1", AUTHORIZED, "Content-Type: application/json",
                f"Content-Length: {LARGE_BYTES}", body=b" " * (LARGE_BYTES - 1),
            )  # fmt: skip
        counting = asyncio.create_task(count_rounds())
        for wire in wires:
            wire.writer.write(b" ")
        answers = [await wire.receive() for wire in wires]
        counting.cancel()
    assert [answer and answer.status for answer in answers] == [400] * CLIENTS
    assert list(decoded.values()) == [1] * CLIENTS
