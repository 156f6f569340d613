"""Makes the rate limits: of this node alone, or together with the others over Redis."""

from __future__ import annotations

from hive.rate_limits import (
    ADDRESS,
    AGENT,
    AUTH,
    Policies,
    RateLimiter,
    default_policies,
)
from server.rate_limits import RateLimits, SharedRateLimiter, Unlimited
from server.settings import Settings
from storage.memory.rate_limits import MemoryRateLimiter
from storage.redis.client import RedisConnection
from storage.redis.rate_limits import RedisRateLimiter


def make_rate_limits(settings: Settings, redis: RedisConnection | None) -> RateLimits | Unlimited:
    """The limits that the settings ask for."""
    if not settings.rate_limit_enabled:
        return Unlimited()
    policies = Policies(
        default_policies(
            {
                "read": settings.rate_limit_read,
                "write": settings.rate_limit_write,
                "heavy": settings.rate_limit_heavy,
                "task-submit": settings.rate_limit_task_submit,
                AUTH: settings.rate_limit_auth,
                AGENT: settings.rate_limit_agent,
                ADDRESS: settings.rate_limit_address,
            }
        )
    )
    local = MemoryRateLimiter()
    limiter: RateLimiter = local
    if redis is not None:
        limiter = SharedRateLimiter(local, RedisRateLimiter(redis), nodes=settings.rate_limit_nodes)
    return RateLimits(policies, limiter)
