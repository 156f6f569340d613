"""Whether this node is alive, and whether it is ready to serve."""

from __future__ import annotations

from handlers.context import Context, Reply

NOT_READY = 503
RETRY_AFTER_SECONDS = 2


async def get_liveness(context: Context) -> Reply:
    """The process is alive; nothing is said about its stores."""
    return Reply({"status": "alive", "version": context.services.version})


async def get_readiness(context: Context) -> Reply:
    """Whether every store answers and the event log moves."""
    readiness = await context.services.readiness()
    if readiness["status"] == "ready":
        return Reply(readiness)
    return Reply(readiness, NOT_READY, {"Retry-After": str(RETRY_AFTER_SECONDS)})
