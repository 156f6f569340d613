"""Where one is logged in."""

from __future__ import annotations

from handlers.context import Context, Reply


async def list_sessions(context: Context, *, limit: int, cursor: str | None) -> Reply:
    """List your own sessions."""
    raise NotImplementedError


async def revoke_other_sessions(context: Context) -> Reply:
    """End all of your other sessions."""
    raise NotImplementedError


async def revoke_session(context: Context, *, session_id: str) -> Reply:
    """End one of your sessions."""
    raise NotImplementedError
