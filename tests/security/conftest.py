"""The product, running, for the tests of what it must withstand."""

from __future__ import annotations

from tests.api.conftest import (
    admin,
    agent,
    anonymous,
    node,
    other_user,
    people,
    user,
    viewer,
)

__all__ = ["admin", "agent", "anonymous", "node", "other_user", "people", "user", "viewer"]
