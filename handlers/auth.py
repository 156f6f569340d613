"""Logging in and out, and who one is."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply
from hive.identity_ports import TokenPair


async def login(context: Context, *, body: dict[str, Any]) -> Reply:
    """Exchange a name and a password for tokens."""
    return _tokens(
        await context.services.identity.login(
            body["username"],
            body["password"],
            device=body.get("device"),
            address=context.address,
            request_id=context.request_id,
            call_id=context.call_id,
        )
    )


async def refresh(context: Context, *, body: dict[str, Any]) -> Reply:
    """Exchange a refresh token for its successor and a new access token."""
    return _tokens(await context.services.identity.refresh(body["refresh_token"]))


async def logout(context: Context, *, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """End the session of the access token that was presented."""
    del body  # The contract takes an empty object, because the original's clients send one.
    await context.services.identity.logout(context.caller, context.actor)
    return {"message": "Logged out"}


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


def _tokens(pair: TokenPair) -> Reply:
    body = {
        "access_token": pair.access_token,
        "refresh_token": pair.refresh_token,
        "token_type": "bearer",
        "expires_in": pair.expires_in,
    }
    return Reply(body, principal=pair.principal)
