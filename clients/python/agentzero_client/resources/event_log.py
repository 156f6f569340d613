"""The history: `client.events`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from agentzero_client.events import Event, decode_event
from agentzero_client.http import Http
from agentzero_client.paging import raw_pages

PATH = "/api/v1/events"


class AsyncEvents:
    """`client.events`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def list(
        self,
        *,
        after: int | None = None,
        order: Literal["asc", "desc"] = "asc",
        type: str | None = None,  # noqa: A002  # The contract's name.
        subject: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Event]:
        """Iterate over the log page by page; `limit` bounds the whole iteration.

        `after` is a `seq`; `type` may be a pattern (`task.*`). Raise GoneError when the log no
        longer holds what follows `after`.
        """
        filters = {"after": after, "order": order, "type": type, "subject": subject}
        async for envelope in raw_pages(self._http, PATH, filters, limit):
            yield decode_event(envelope)
