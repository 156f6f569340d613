"""The history of everything."""

from __future__ import annotations

from handlers.context import Context, Reply
from handlers.pages import open_page
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
    fields: list[str] | None,
) -> Reply:
    """A page of the event log."""
    newest_first = order == "desc"
    page = open_page(
        context,
        "list_events",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={"order": order, "type": type, "subject": subject, "after": after},
    )
    # Descending, `after` is where the list ends; it starts at the newest event.
    start = 0 if newest_first or after is None else after
    if page.position is not None:
        start = int(page.position)
    events = await context.services.events.read(
        EventFilter(type, subject, audience_of(context.caller)),
        after=start,
        limit=limit + 1,
        newest_first=newest_first,
    )
    if newest_first and after is not None:
        events = [event for event in events if event.seq > after]
    shown = events[:limit]
    return page.reply(
        [envelope(event) for event in shown],
        last=str(shown[-1].seq) if len(events) > limit else None,
    )
