"""Lists that come in pages: follow the `Link` header (RFC 8288) until there is no next one."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from agentzero_client.decoding import decode_model
from agentzero_client.errors import UnexpectedAnswerError
from agentzero_client.http import Http, Query

T = TypeVar("T")
Filters = Mapping[str, str | int | Sequence[str] | None]

Order = Literal["asc", "desc"]

PAGE_SIZE = 200
_LINK = re.compile(r"<([^>]*)>((?:\s*;\s*[^,;=\s]+\s*=\s*(?:\"[^\"]*\"|[^\",;\s]+))*)")
_REL = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\",;\s]+))", re.IGNORECASE)


def label_filter(labels: Mapping[str, str] | None) -> list[str] | None:
    """All of these labels, as a query has them."""
    return [f"{key}:{value}" for key, value in labels.items()] if labels else None


def next_query(link: str | None) -> dict[str, str | list[str]] | None:
    """Give the query of the page that `rel="next"` names, or None on the last page."""
    for target, parameters in _LINK.findall(link or ""):
        relation = _REL.search(parameters)
        if relation and "next" in (relation[1] or relation[2]).lower().split():
            given = parse_qs(urlsplit(target).query, keep_blank_values=True)
            return {name: texts if texts[1:] else texts[0] for name, texts in given.items()}
    return None


async def pages(
    http: Http,
    path: str,
    model: type[T],
    filters: Filters,
    limit: int | None,
) -> AsyncIterator[T]:
    """Yield at most `limit` items (None: all) as `model`."""
    async for item in raw_pages(http, path, filters, limit):
        yield decode_model(model, item)


async def raw_pages(
    http: Http, path: str, filters: Filters, limit: int | None
) -> AsyncIterator[Mapping[str, Any]]:
    """Yield at most `limit` JSON objects, asking for a page when the one before is used up.

    Only the query of the next page's address is used: the credential never goes to another host.
    """
    left = limit
    size = PAGE_SIZE if left is None else min(PAGE_SIZE, left)
    query: Query | None = {
        **{name: value for name, value in filters.items() if value is not None},
        "limit": size,
    }
    while query is not None and (left is None or left > 0):
        answer = await http.request("GET", path, params=query)
        if not isinstance(answer.body, list):
            raise UnexpectedAnswerError(f"GET {path}: expected an array")
        for item in answer.body[:left]:
            yield item
        if left is not None:
            left -= len(answer.body)
        query = next_query(answer.headers.get("link"))
