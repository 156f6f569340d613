"""The history of everything."""

from __future__ import annotations

from handlers.context import Context, Reply
from handlers.pages import page_position, page_reply
from hive.events import audience_of, envelope
from hive.ports import EventFilter

PATH = "/api/v1/events"


async def list_events(
    context: Context,
    *,
    after: int | None,
    order: str,
    type: str | None,  # noqa: A002 - the contract's name
    subject: str | None,
    limit: int,
    cursor: str | None,
) -> Reply:
    """A page of the event log."""
    position = page_position(context, "list_events", cursor)
    newest_first = order == "desc"
    # Descending, `after` is where the list ends; it starts at the newest event.
    start = 0 if newest_first or after is None else after
    if position is not None:
        start = int(position)
    events = await context.services.events.read(
        EventFilter(type, subject, audience_of(context.caller)),
        after=start,
        limit=limit + 1,
        newest_first=newest_first,
    )
    if newest_first and after is not None:
        events = [event for event in events if event.seq > after]
    page = events[:limit]
    return page_reply(
        context,
        "list_events",
        PATH,
        [envelope(event) for event in page],
        last=str(page[-1].seq) if len(events) > limit else None,
        query={"order": order, "type": type, "subject": subject, "limit": limit}
        | ({"after": after} if newest_first else {}),
    )
