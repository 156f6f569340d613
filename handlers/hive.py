"""The hive as a whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from handlers.context import Context, Reply


async def get_hive_status(context: Context) -> Reply:
    """Agents and tasks counted by status, and where the event log stands."""
    services = context.services
    event_log: dict[str, Any] = {"seq": str(await services.events.tail())}
    recorder = await services.events.recorder()
    if recorder is not None:
        event_log["recorder"] = recorder
    return Reply(
        {
            "agents": await services.agents.count_by_status(),
            "tasks": await services.tasks.count_by_status(),
            "event_log": event_log,
            "time": datetime.now(UTC),
        }
    )
