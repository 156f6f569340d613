"""The keys that sign access tokens."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply


async def get_jwks(context: Context) -> Reply:
    """The public keys of access tokens."""
    raise NotImplementedError


async def rotate_token_keys(context: Context, *, body: dict[str, Any] | None = None) -> Reply:
    """Rotate the key of access tokens."""
    raise NotImplementedError
