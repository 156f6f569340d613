"""Changes the limits of a running node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hive.rate_limits import default_policies
from server.rate_limits import RateLimits
from tests.api.running import RunningNode


def limits_of(node: RunningNode) -> RateLimits:
    """What charges on the node."""
    charging = node.node.app.pipeline.limits
    assert isinstance(charging, RateLimits)
    return charging


@contextmanager
def limits(*nodes: RunningNode, **changes: int) -> Iterator[None]:
    """Other limits for a while; `_` stands for `-`."""
    changed = default_policies({name.replace("_", "-"): limit for name, limit in changes.items()})
    before = {id(node): limits_of(node).policies.by_name for node in nodes}
    for node in nodes:
        limits_of(node).policies.replace(changed)
    try:
        yield
    finally:
        for node in nodes:
            limits_of(node).policies.replace(before[id(node)])
