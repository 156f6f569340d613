"""What admins decide while the system runs."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply


async def get_system_settings(context: Context) -> Reply:
    """Get the settings of the system."""
    raise NotImplementedError


async def update_system_settings(context: Context, *, body: dict[str, Any]) -> Reply:
    """Change the settings of the system."""
    raise NotImplementedError
