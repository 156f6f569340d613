"""Pages of lists: cursors and `fields` in, `Link` headers out (RFC 8288)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from handlers.context import Context, Reply


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is asked for.

    `query` is what the client filters and sorts by, `limit` how many items it wants, and `fields`
    what it wants to see of them besides what they always have (None: everything). `position` is
    that of the last item of the page before, None on the first one.
    """

    context: Context
    operation: str
    path: str
    query: Mapping[str, Any]
    limit: int | None
    fields: Sequence[str] | None
    position: str | None

    def reply(self, items: Sequence[Any], *, last: str | None) -> Reply:
        """The items as a JSON array; `last` is the position of the last one if more may follow."""
        shown = [self._select(item) for item in items] if self.fields is not None else list(items)
        return Reply(shown, headers=self.links(last))

    def links(self, last: str | None) -> dict[str, str]:
        """`Link` with the next page, and with the first one on any other; empty for the only."""
        links = []
        if self.position is not None:
            links.append(f'<{self._target()}>; rel="first"')
        if last is not None:
            cursor = self.context.services.cursors.encode(
                _scope(self.operation, self.path, self.query), last
            )
            links.append(f'<{self._target(cursor=cursor)}>; rel="next"')
        return {"Link": ", ".join(links)} if links else {}

    def _target(self, **cursor: str) -> str:
        query: dict[str, Any] = {**self.query}
        if self.limit is not None:
            query["limit"] = self.limit
        if self.fields is not None:
            query["fields"] = ",".join(self.fields)
        query |= cursor
        return f"{self.path}?{urlencode(query, doseq=True)}" if query else self.path

    def _select(self, item: Mapping[str, Any]) -> dict[str, Any]:
        shown = self.context.services.item_fields[self.operation].required.union(self.fields or ())
        return {name: value for name, value in item.items() if name in shown}


def open_page(
    context: Context,
    operation: str,
    path: str,
    *,
    cursor: str | None,
    limit: int | None = None,
    fields: Sequence[str] | None = None,
    query: Mapping[str, Any],
) -> Page:
    """The page that a request is for. A cursor is good for the list, filters and order it came of.

    Raises MalformedCursor, UnknownField.
    """
    given = {name: _text(value) for name, value in query.items() if value is not None}
    if fields is not None:
        context.services.item_fields[operation].check(fields)
    position = (
        None
        if cursor is None
        else context.services.cursors.decode(_scope(operation, path, given), cursor)
    )
    return Page(context, operation, path, given, limit, fields, position)


def _scope(operation: str, path: str, query: Mapping[str, Any]) -> str:
    return f"{operation} {path}?{urlencode(sorted(query.items()), doseq=True)}"


def _text(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [str(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_labels(given: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """Keys and values of `key:value`; a key has no colon."""
    pairs = (one.partition(":") for one in given or ())
    return tuple((key, value) for key, _, value in pairs)
