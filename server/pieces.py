"""Sends an answer piece by piece: the next one is read when the client has taken the one before."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, Final

from tornado.http1connection import HTTP1Connection
from tornado.web import RequestHandler

from hive.artifacts import Bytes

PIECE_SECONDS: Final = 60.0
"""A client that does not take a piece within this time is cut off."""


async def send_pieces(handler: RequestHandler, content: Bytes) -> None:
    """Write them all. Raises StreamClosedError, TimeoutError, and what reading them raises."""
    pieces: Any = content.pieces
    async with aclosing(pieces):
        async for piece in pieces:
            handler.write(piece)
            async with asyncio.timeout(PIECE_SECONDS):
                await handler.flush()


def cut_off(handler: RequestHandler) -> None:
    """End the connection in the middle of an answer: the client sees that some of it is missing."""
    connection = handler.request.connection
    if isinstance(connection, HTTP1Connection):
        connection.stream.close()
