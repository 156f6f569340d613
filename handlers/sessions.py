"""Where one is logged in."""

from __future__ import annotations

from handlers.context import Context, Reply
from handlers.pages import open_page
from handlers.views import session_view

PATH = "/api/v1/auth/sessions"


async def list_sessions(
    context: Context, *, limit: int, cursor: str | None, fields: list[str] | None
) -> Reply:
    """One's own live sessions, newest first."""
    caller = context.caller
    page = open_page(
        context, "list_sessions", PATH, cursor=cursor, limit=limit, fields=fields, query={}
    )
    sessions = await context.services.sessions.list(
        caller.principal_id, after=page.position, limit=limit + 1
    )
    shown = sessions[:limit]
    return page.reply(
        [session_view(each, current=each.session_id == caller.session_id) for each in shown],
        last=shown[-1].session_id if len(sessions) > limit else None,
    )


async def revoke_other_sessions(context: Context) -> Reply:
    """End all of one's sessions but the one that asks."""
    caller = context.caller
    ended = await context.services.sessions.revoke_all(
        caller.principal_id, context.actor, but=caller.session_id
    )
    return Reply({"revoked": ended})


async def revoke_session(context: Context, *, session_id: str) -> Reply:
    """End one of one's own sessions."""
    await context.services.sessions.revoke(context.caller.principal_id, session_id, context.actor)
    return Reply({"message": "Session revoked"})
