"""Long-lived credentials of programs."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply


async def list_api_keys(
    context: Context, *, owner: str | None, status: str | None, limit: int, cursor: str | None
) -> Reply:
    """List API keys."""
    raise NotImplementedError


async def create_api_key(context: Context, *, body: dict[str, Any]) -> Reply:
    """Create an API key."""
    raise NotImplementedError


async def get_api_key(context: Context, *, key_id: str) -> Reply:
    """Get an API key."""
    raise NotImplementedError


async def revoke_api_key(context: Context, *, key_id: str) -> Reply:
    """Revoke an API key."""
    raise NotImplementedError


async def rotate_api_key(
    context: Context, *, key_id: str, body: dict[str, Any] | None = None
) -> Reply:
    """Rotate an API key."""
    raise NotImplementedError
