"""Keys with which requests are signed."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from handlers.context import Context, Reply
from handlers.pages import open_page
from handlers.views import signing_key_view
from hive.signing import SigningAlgorithm

PATH = "/api/v1/signing-keys"


async def list_signing_keys(
    context: Context,
    *,
    owner: str | None,
    limit: int,
    cursor: str | None,
    fields: list[str] | None,
) -> Reply:
    """One's own, newest first; an admin sees everybody's."""
    page = open_page(
        context,
        "list_signing_keys",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={"owner": owner},
    )
    keys = await context.services.signing_keys.list(
        context.caller, owner=owner, after=page.position, limit=limit + 1
    )
    shown = keys[:limit]
    return page.reply(
        [signing_key_view(key) for key in shown],
        last=shown[-1].signing_key_id if len(keys) > limit else None,
    )


async def create_signing_key(context: Context, *, body: dict[str, Any]) -> Reply:
    """Register a key; the secret of an HMAC key is in this answer and never again."""
    issued = await context.services.signing_keys.create(
        context.caller,
        name=body["name"],
        algorithm=SigningAlgorithm(body["algorithm"]),
        public_key=body.get("public_key"),
        key_id=body.get("key_id"),
        actor=context.actor,
        seed=context.new_seed("sgk"),
    )
    view = signing_key_view(issued.key)
    if issued.secret is not None:
        view["secret"] = b64encode(issued.secret).decode()
    return Reply(view, headers={"Location": f"{PATH}/{issued.key.signing_key_id}"})


async def get_signing_key(context: Context, *, signing_key_id: str) -> Reply:
    """One key; never its secret."""
    key = await context.services.signing_keys.get(context.caller, signing_key_id)
    return Reply(signing_key_view(key))


async def revoke_signing_key(context: Context, *, signing_key_id: str) -> Reply:
    """Refuse its signatures from now on."""
    await context.services.signing_keys.revoke(context.caller, signing_key_id, context.actor)
    return Reply({"message": "Signing key revoked"})
