"""What admins decide while the system runs."""

from __future__ import annotations

from typing import Any

from handlers.context import Context
from hive.networks import read_networks
from hive.preconditions import read_if_match
from hive.system_settings import SettingsChange, SystemSettings


async def get_system_settings(context: Context) -> dict[str, Any]:
    """Get the settings of the system."""
    return _view(await context.services.system.read())


async def update_system_settings(
    context: Context, *, if_match: str | None, body: dict[str, Any]
) -> dict[str, Any]:
    """Change the settings of the system."""
    wanted = SettingsChange(
        admin_allowlist=read_networks(body["admin_allowlist"], pointer="/admin_allowlist")
        if "admin_allowlist" in body
        else None,
        signing_required=body.get("signing_required"),
    )
    return _view(
        await context.services.system.change(
            wanted,
            context.actor,
            address=context.address,
            signed=context.signed,
            expected=read_if_match(if_match),
        )
    )


def _view(settings: SystemSettings) -> dict[str, Any]:
    described = {
        "admin_allowlist": settings.admin_allowlist,
        "signing_required": settings.signing_required,
        "version": settings.version,
        "updated_at": settings.updated_at,
        "updated_by": settings.updated_by,
    }
    return {name: value for name, value in described.items() if value is not None}
