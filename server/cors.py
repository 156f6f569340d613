"""Cross-origin requests of pages (the Fetch standard, "CORS protocol").

The operator names the origins; each is compared as a whole, and only one that was allowed is ever
written into an answer: no `*`, no `null`, nothing that is made of what came. What a page may send
and read follows from the contract. Pages of a private network get no more than others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tornado.httputil import HTTPServerRequest

from hive.errors import OriginNotAllowed
from server.answers import Answer
from server.binding import BoundOperation
from server.operations import Operation
from server.origins import Origins
from server.routing import Routes

MAX_AGE_SECONDS = 600
REQUEST_HEADERS = frozenset(
    {"Authorization", "Content-Type", "Content-Digest", "Signature", "Signature-Input"}
    | {"X-Request-Id"}
)
"""What every operation takes, whether the contract says so at each or not."""
RESPONSE_HEADERS = frozenset({"Allow", "Retry-After", "WWW-Authenticate", "X-Request-Id"})
"""What an answer can carry that comes from no operation, such as 404, 405 and 503."""
# No script may read it, whatever is exposed.
_FOR_BROWSERS = frozenset({"Set-Cookie"})


class Cors:
    """What pages of other origins may do."""

    def __init__(
        self, origins: Origins, bound: Iterable[BoundOperation] = (), routes: Routes | None = None
    ) -> None:
        self._origins = origins
        self._routes = routes
        declared = {
            name
            for one in bound
            for response in one.operation.responses.values()
            for name in response.headers
        }
        self._exposed = ", ".join(sorted((declared | RESPONSE_HEADERS) - _FOR_BROWSERS))

    def headers(self, request: HTTPServerRequest) -> Mapping[str, str]:
        """What lets an allowed page read the answer; of a preflight only `preflight` decides."""
        origin = self._origins.find_foreign(request)
        if origin is None or asks_first(request):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": self._exposed,
        }

    def preflight(self, request: HTTPServerRequest) -> Answer:
        """Answer a preflight (204). Raise OriginNotAllowed and what `Routes.find` raises."""
        origin = self._origins.find_foreign(request)
        if origin is None:
            raise OriginNotAllowed("Pages of this origin may not use this API.")
        routes = self._routes or Routes(())
        bound, _ = routes.find(request.headers["Access-Control-Request-Method"], request.path)
        headers = {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": ", ".join(routes.methods(request.path)),
            "Access-Control-Allow-Headers": ", ".join(_taken_headers(bound.operation)),
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        }
        return Answer(204, headers, b"", None)


def asks_first(request: HTTPServerRequest) -> bool:
    """Tell whether it is a preflight: a browser asks what a page may send."""
    headers = request.headers
    return (
        request.method == "OPTIONS"
        and "Origin" in headers
        and "Access-Control-Request-Method" in headers
    )


def vary_by_origin(vary: str | None) -> str:
    """`Vary` with what decides about the headers of CORS: a cache must not mix pages up."""
    fields = [field.strip() for field in (vary or "").split(",") if field.strip()]
    if any(field == "*" or field.lower() == "origin" for field in fields):
        return ", ".join(fields)
    return ", ".join([*fields, "Origin"])


def _taken_headers(operation: Operation) -> list[str]:
    declared = {one.name for one in operation.parameters if one.location == "header"}
    return sorted(declared | REQUEST_HEADERS)
