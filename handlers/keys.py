"""The keys that sign access tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.context import Context
from hive.token_keys import TokenAlgorithm, TokenKey


async def get_jwks(context: Context) -> dict[str, Any]:
    """The public keys of access tokens (RFC 7517); none while they are signed with HS256."""
    return {"keys": list(context.services.token_keys.public_keys())}


async def rotate_token_keys(
    context: Context, *, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make the next key that signs access tokens, and tell which others verify."""
    wanted = (body or {}).get("algorithm")
    algorithm = None if wanted is None else TokenAlgorithm(wanted)
    return describe_ring(await context.services.token_keys.rotate(context.actor, algorithm))


def describe_ring(ring: Sequence[TokenKey]) -> dict[str, Any]:
    """The newest key of the ring, and those before it whose tokens are still accepted."""
    *older, new = ring
    return {
        "kid": new.kid,
        "algorithm": new.algorithm.value,
        "signs_from": new.signs_from,
        "verifying": [
            {
                "kid": key.kid,
                "algorithm": key.algorithm.value,
                "verifies_until": key.verifies_until,
            }
            for key in older
        ],
    }
