"""Logging in and out, and who one is."""

from __future__ import annotations

from typing import Any, Final

from handlers.context import Context, Cookie, Reply
from hive.errors import Malformed, OriginNotAllowed, Unauthenticated
from hive.identity_ports import TokenPair

REFRESH_COOKIE: Final = "__Host-agentzero-refresh"


async def login(context: Context, *, body: dict[str, Any]) -> Reply:
    """Exchange a name and a password for tokens."""
    in_cookie = body.get("cookie", False)
    if in_cookie and not context.from_own_page:
        raise OriginNotAllowed
    pair = await context.services.identity.login(
        body["username"],
        body["password"],
        device=body.get("device"),
        address=context.address,
        request_id=context.request_id,
        call_id=context.call_id,
    )
    return _tokens(pair, in_cookie=in_cookie)


async def refresh(
    context: Context, *, body: dict[str, Any], agentzero_refresh: str | None = None
) -> Reply:
    """Exchange a refresh token, of the body or of the cookie, for a new pair."""
    given = body.get("refresh_token")
    if given is not None and agentzero_refresh is not None:
        raise Malformed("Send the refresh token in the body or as a cookie, not both.")
    token = agentzero_refresh if given is None else given
    if token is None:
        raise Unauthenticated
    pair = await context.services.identity.refresh(token)
    return _tokens(pair, in_cookie=given is None)


async def logout(context: Context, *, body: dict[str, Any] | None = None) -> Reply:
    """End the session of the access token that was presented."""
    del body  # The contract takes an empty object, because the original's clients send one.
    await context.services.identity.logout(context.caller, context.actor)
    return Reply({"message": "Logged out"}, cookie=Cookie(REFRESH_COOKIE, "", 0))


async def get_me(context: Context) -> dict[str, Any]:
    """Describe the principal behind the credential."""
    caller = context.caller
    described = {
        "principal_id": caller.principal_id,
        "username": caller.name,
        "role": caller.role.value,
        "permissions": sorted(caller.permissions),
        "session_id": caller.session_id,
        "key_id": caller.key_id,
        "agent_id": caller.agent_id,
    }
    return {name: value for name, value in described.items() if value is not None}


async def change_password(context: Context, *, body: dict[str, Any]) -> Reply:
    """Change your own password."""
    await context.services.users.change_password(
        context.caller,
        body["current_password"],
        body["new_password"],
        context.actor,
        address=context.address,
    )
    return Reply({"message": "Password changed"})


async def create_ws_ticket(
    context: Context, *, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Get a ticket for one WebSocket."""
    del body  # The contract takes an empty object, because many clients can't send none.
    ticket = await context.services.tickets.issue(context.caller)
    return {"ticket": ticket.secret, "expires_in": ticket.expires_in}


def _tokens(pair: TokenPair, *, in_cookie: bool) -> Reply:
    """The pair; a refresh token in a cookie is for no script to read, so it is nowhere else."""
    body = {
        "access_token": pair.access_token,
        "token_type": "bearer",  # the name of a scheme, no secret  # nosec B105
        "expires_in": pair.expires_in,
    }
    if in_cookie:
        cookie = Cookie(REFRESH_COOKIE, pair.refresh_token, pair.refresh_expires_in)
        return Reply(body, principal=pair.principal, cookie=cookie)
    body["refresh_token"] = pair.refresh_token
    return Reply(body, principal=pair.principal)
