"""Keys with which requests are signed."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply


async def list_signing_keys(
    context: Context, *, owner: str | None, limit: int, cursor: str | None
) -> Reply:
    """List signing keys."""
    raise NotImplementedError


async def create_signing_key(context: Context, *, body: dict[str, Any]) -> Reply:
    """Register a signing key."""
    raise NotImplementedError


async def get_signing_key(context: Context, *, signing_key_id: str) -> Reply:
    """Get a signing key."""
    raise NotImplementedError


async def revoke_signing_key(context: Context, *, signing_key_id: str) -> Reply:
    """Revoke a signing key."""
    raise NotImplementedError
