"""From a request target to an operation.

Paths are compared as they came, byte for byte, before any decoding. So `//`, `%2e%2e`, another
case or an encoded slash never reach an operation under another name than its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hive.errors import HiveError, NotFound
from server.binding import BoundOperation
from server.parameters import decode_text
from server.problems import MethodNotAllowed

_PARAMETER = re.compile(r"\{([^{}/]+)\}")
# What no identifier has in it; and what would be another path to a proxy that decodes.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\]|^\.{1,2}$")


class MovedToCanonical(HiveError):
    """The path has a trailing slash too many (307); `location` is the canonical target."""

    code = "moved"
    title = "Moved"

    def __init__(self, location: str) -> None:
        self.location = location
        super().__init__("This path has no trailing slash.")


@dataclass(frozen=True, slots=True)
class _Resource:
    pattern: re.Pattern[str]
    names: tuple[str, ...]
    operations: Mapping[str, BoundOperation]


class Routes:
    """The operations by path and method."""

    def __init__(self, bound: Iterable[BoundOperation]) -> None:
        by_path: dict[str, dict[str, BoundOperation]] = {}
        for one in bound:
            by_path.setdefault(one.operation.path, {})[one.operation.method] = one
        self._fixed: dict[str, _Resource] = {}
        self._templates: dict[int, list[_Resource]] = {}
        for path, operations in by_path.items():
            resource = _make_resource(path, operations)
            if resource.names:
                self._templates.setdefault(path.count("/"), []).append(resource)
            else:
                self._fixed[path] = resource

    def methods(self, path: str) -> list[str]:
        """The methods that the path has, in alphabetical order; none where there is no resource."""
        resource, _ = self._match(path)
        methods = set(resource.operations) if resource else set()
        return sorted(methods | {"HEAD"} if "GET" in methods else methods)

    def find(
        self, method: str, path: str, query: str = ""
    ) -> tuple[BoundOperation, dict[str, str]]:
        """Give the operation and its decoded path parameters.

        Raises NotFound, MethodNotAllowed, MovedToCanonical.
        """
        resource, values = self._match(path)
        if resource is None and path.endswith("/") and self._match(path[:-1])[0]:
            raise MovedToCanonical(f"{path[:-1]}?{query}" if query else path[:-1])
        if resource is None:
            raise NotFound
        parameters = _decode(resource.names, values)
        # RFC 9110, section 9.3.2: HEAD is GET without the body, and as much allowed.
        operations = resource.operations
        if method == "HEAD" and "GET" in operations:
            return operations["GET"], parameters
        if method not in operations:
            raise MethodNotAllowed([*operations, *(["HEAD"] if "GET" in operations else [])])
        return operations[method], parameters

    def _match(self, path: str) -> tuple[_Resource | None, tuple[str, ...]]:
        if fixed := self._fixed.get(path):
            return fixed, ()
        for resource in self._templates.get(path.count("/"), ()):
            if found := resource.pattern.fullmatch(path):
                return resource, found.groups()
        return None, ()


def _make_resource(path: str, operations: Mapping[str, BoundOperation]) -> _Resource:
    pieces = _PARAMETER.split(path)
    pattern = "".join(
        re.escape(piece) if i % 2 == 0 else "([^/]+)" for i, piece in enumerate(pieces)
    )
    return _Resource(re.compile(pattern), tuple(pieces[1::2]), operations)


def _decode(names: tuple[str, ...], values: tuple[str, ...]) -> dict[str, str]:
    try:
        decoded = [decode_text(value) for value in values]
    except ValueError:
        raise NotFound from None
    if any(map(_FORBIDDEN.search, decoded)):
        raise NotFound
    return dict(zip(names, decoded, strict=True))
