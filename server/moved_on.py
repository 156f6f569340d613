"""What a duty does to what it saw a moment ago, and which somebody else may have changed since."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import structlog

from hive.errors import HiveError, Unavailable

T = TypeVar("T")
log = structlog.get_logger(__name__)


async def unless_moved_on(duty: str, change: Awaitable[T]) -> T | None:
    """What came of the change; None when it was refused, for then there is nothing left to do.

    Raises Unavailable.
    """
    try:
        return await change
    except Unavailable:
        raise
    except HiveError as error:
        log.info("duty.moved_on", duty=duty, cause=str(error))
        return None
