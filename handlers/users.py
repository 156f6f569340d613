"""Who may log in."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply


async def list_users(
    context: Context, *, role: str | None, disabled: bool | None, limit: int, cursor: str | None
) -> Reply:
    """List users."""
    raise NotImplementedError


async def create_user(context: Context, *, body: dict[str, Any]) -> Reply:
    """Create a user."""
    raise NotImplementedError


async def get_user(context: Context, *, user_id: str) -> Reply:
    """Get a user."""
    raise NotImplementedError


async def delete_user(context: Context, *, user_id: str) -> Reply:
    """Delete a user."""
    raise NotImplementedError


async def update_user(context: Context, *, user_id: str, body: dict[str, Any]) -> Reply:
    """Update a user."""
    raise NotImplementedError


async def reset_user_password(
    context: Context, *, user_id: str, body: dict[str, Any] | None = None
) -> Reply:
    """Reset a user's password."""
    raise NotImplementedError


async def list_user_sessions(
    context: Context, *, user_id: str, limit: int, cursor: str | None
) -> Reply:
    """List a user's sessions."""
    raise NotImplementedError


async def revoke_user_sessions(context: Context, *, user_id: str) -> Reply:
    """End a user's sessions."""
    raise NotImplementedError


async def revoke_user_session(context: Context, *, user_id: str, session_id: str) -> Reply:
    """End one of a user's sessions."""
    raise NotImplementedError
