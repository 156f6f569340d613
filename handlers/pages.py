"""Pages of lists: cursors in, `Link` headers out (RFC 8288)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from handlers.context import Context, Reply


def page_position(context: Context, operation: str, cursor: str | None) -> str | None:
    """Where the page starts: the last identifier of the page before. Raises MalformedCursor."""
    return None if cursor is None else context.services.cursors.decode(operation, cursor)


def page_reply(
    context: Context,
    operation: str,
    path: str,
    views: Sequence[Any],
    *,
    last: str | None,
    query: Mapping[str, Any],
) -> Reply:
    """A page as a JSON array; `last` is the position of its last item when there may be more."""
    if last is None:
        return Reply(list(views))
    given = {name: value for name, value in query.items() if value is not None}
    cursor = context.services.cursors.encode(operation, last)
    following = f"{path}?{urlencode({**given, 'cursor': cursor})}"
    return Reply(list(views), headers={"Link": f'<{following}>; rel="next"'})
