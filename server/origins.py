"""Which pages may act with what a browser sends by itself: a WebSocket's handshake, a cookie.

An origin (RFC 6454) is compared exactly: scheme, host and port. Besides those that the operator
names it is the server's own, as the request names it: `Host`, and the scheme of the connection, or
the one that a trusted proxy tells in `X-Forwarded-Proto`.
"""

from __future__ import annotations

from collections.abc import Iterable

from tornado.httputil import HTTPServerRequest

from server.addresses import AddressResolver


class Origins:
    """The allowed origins of pages."""

    def __init__(self, allowed: Iterable[str], addresses: AddressResolver) -> None:
        self._allowed = frozenset(allowed)
        self._addresses = addresses

    def admit(self, request: HTTPServerRequest) -> bool:
        """Tell whether the request names one origin, and an allowed one."""
        given = request.headers.get_list("Origin")
        return len(given) == 1 and (given[0] in self._allowed or given[0] == self._own(request))

    def admit_cookie(self, request: HTTPServerRequest) -> bool:
        """Tell whether cookies count: one that came with the request, one that it is to get."""
        sites = {site.strip().lower() for site in request.headers.get_list("Sec-Fetch-Site")}
        return self.admit(request) and "cross-site" not in sites

    def find_foreign(self, request: HTTPServerRequest) -> str | None:
        """The origin that the request names, when it is one that the operator allows."""
        given = request.headers.get_list("Origin")
        return given[0] if len(given) == 1 and given[0] in self._allowed else None

    def scheme(self, request: HTTPServerRequest) -> str:
        """`http` or `https`, whichever the client speaks: to us, or to a trusted proxy."""
        return self._addresses.scheme(
            request.remote_ip or "",
            request.protocol,
            request.headers.get_list("X-Forwarded-Proto"),
        )

    def _own(self, request: HTTPServerRequest) -> str:
        return f"{self.scheme(request)}://{request.host}"
