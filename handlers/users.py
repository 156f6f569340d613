"""Who may log in."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply
from handlers.pages import open_page
from handlers.views import session_view, user_view
from hive.permissions import Role
from hive.preconditions import read_if_match
from hive.users import UserChange, UserFilter

PATH = "/api/v1/users"


async def list_users(
    context: Context,
    *,
    role: str | None,
    disabled: bool | None,
    limit: int,
    cursor: str | None,
    fields: list[str] | None,
) -> Reply:
    """All users, oldest first."""
    page = open_page(
        context,
        "list_users",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={"role": role, "disabled": disabled},
    )
    wanted = UserFilter(Role(role) if role else None, disabled)
    users = await context.services.users.list(wanted, after=page.position, limit=limit + 1)
    shown = users[:limit]
    return page.reply(
        [user_view(each) for each in shown],
        last=shown[-1].user.user_id if len(users) > limit else None,
    )


async def create_user(context: Context, *, body: dict[str, Any]) -> Reply:
    """Make a user who can log in."""
    created = await context.services.users.create(
        body["username"],
        body["password"],
        Role(body.get("role", Role.USER)),
        context.actor,
        user_id=context.new_id("usr"),
    )
    return Reply(user_view(created), headers={"Location": f"{PATH}/{created.user.user_id}"})


async def get_user(context: Context, *, user_id: str) -> Reply:
    """One user."""
    return Reply(user_view(await context.services.users.get(user_id)))


async def delete_user(context: Context, *, user_id: str, if_match: str | None) -> Reply:
    """Delete a user with its sessions, API keys and signing keys."""
    await context.services.users.delete(user_id, context.actor, expected=read_if_match(if_match))
    return Reply({"message": "User deleted"})


async def update_user(
    context: Context, *, user_id: str, if_match: str | None, body: dict[str, Any]
) -> Reply:
    """Change the role, disable or enable."""
    role = body.get("role")
    change = UserChange(Role(role) if role else None, body.get("disabled"))
    updated = await context.services.users.update(
        user_id, change, context.actor, expected=read_if_match(if_match)
    )
    return Reply(user_view(updated))


async def reset_user_password(
    context: Context, *, user_id: str, body: dict[str, Any] | None = None
) -> Reply:
    """Give the user another password; a random one is shown here and never again."""
    password = (body or {}).get("password")
    made = await context.services.users.reset_password(user_id, password, context.actor)
    shown = {} if made is None else {"password": made}
    return Reply({"message": "Password reset", **shown})


async def list_user_sessions(
    context: Context, *, user_id: str, limit: int, cursor: str | None, fields: list[str] | None
) -> Reply:
    """Where the user is logged in, newest first."""
    path = f"{PATH}/{user_id}/sessions"
    page = open_page(
        context,
        "list_user_sessions",
        path,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={},
    )
    await context.services.users.get(user_id)
    sessions = await context.services.sessions.list(user_id, after=page.position, limit=limit + 1)
    shown = sessions[:limit]
    current = context.caller.session_id
    return page.reply(
        [session_view(each, current=each.session_id == current) for each in shown],
        last=shown[-1].session_id if len(sessions) > limit else None,
    )


async def revoke_user_sessions(context: Context, *, user_id: str) -> Reply:
    """End every session of the user."""
    await context.services.users.get(user_id)
    ended = await context.services.sessions.revoke_all(user_id, context.actor)
    return Reply({"revoked": ended})


async def revoke_user_session(context: Context, *, user_id: str, session_id: str) -> Reply:
    """End one session of the user."""
    await context.services.sessions.revoke(user_id, session_id, context.actor)
    return Reply({"message": "Session revoked"})
