"""Request signatures (RFC 9421)."""

from __future__ import annotations

from tornado.httputil import HTTPServerRequest

from hive.permissions import Principal
from server.contract import Operation


class Signatures:
    """Demands a signature on operations that are `x-signed`."""

    async def check(
        self,
        operation: Operation,
        principal: Principal | None,
        request: HTTPServerRequest,
        body: bytes,
    ) -> None:
        """Nobody has registered a key."""
