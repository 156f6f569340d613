"""Long-lived credentials of programs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from handlers.context import Context, Reply
from handlers.pages import open_page
from handlers.views import api_key_view
from hive.api_key_ports import ApiKeyFilter
from hive.api_keys import KeyStatus, KeyWish
from hive.identity_ports import IssuedKey

PATH = "/api/v1/api-keys"
OVERLAP_SECONDS = 86_400


async def list_api_keys(
    context: Context,
    *,
    owner: str | None,
    status: str | None,
    limit: int,
    cursor: str | None,
    fields: list[str] | None,
) -> Reply:
    """The caller's own keys, or everybody's for an admin; newest first."""
    page = open_page(
        context,
        "list_api_keys",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={"owner": owner, "status": status},
    )
    wanted = ApiKeyFilter(owner, KeyStatus(status) if status else None)
    keys = await context.services.api_keys.list(
        context.caller, wanted, after=page.position, limit=limit + 1
    )
    shown = keys[:limit]
    return page.reply(
        [api_key_view(seen.key, seen.status) for seen in shown],
        last=shown[-1].key.key_id if len(keys) > limit else None,
    )


async def create_api_key(context: Context, *, body: dict[str, Any]) -> Reply:
    """Make a key within what the caller's credential may do; it is shown here and never again."""
    wish = KeyWish(
        name=body["name"],
        scopes=tuple(body.get("scopes", ())),
        expires_in_days=body.get("expires_in_days"),
        allowed_addresses=tuple(body.get("allowed_addresses", ())),
    )
    keys = context.services.api_keys
    return _issued(await keys.create(context.caller, wish, context.actor, context.new_seed("key")))


async def get_api_key(context: Context, *, key_id: str) -> Reply:
    """One key, without its secret."""
    seen = await context.services.api_keys.get(context.caller, key_id)
    return Reply(api_key_view(seen.key, seen.status))


async def revoke_api_key(context: Context, *, key_id: str) -> Reply:
    """End a key."""
    seen = await context.services.api_keys.revoke(context.caller, key_id, context.actor)
    return Reply(api_key_view(seen.key, seen.status))


async def rotate_api_key(
    context: Context, *, key_id: str, body: dict[str, Any] | None = None
) -> Reply:
    """Make the successor of a key, which goes on working during the overlap."""
    overlap = timedelta(seconds=(body or {}).get("overlap_seconds", OVERLAP_SECONDS))
    keys, seed = context.services.api_keys, context.new_seed("key")
    return _issued(await keys.rotate(context.caller, key_id, context.actor, seed, overlap=overlap))


def _issued(issued: IssuedKey) -> Reply:
    view = api_key_view(issued.key, KeyStatus.ACTIVE) | {"api_key": issued.secret}
    return Reply(view, headers={"Location": f"{PATH}/{issued.key.key_id}"})
