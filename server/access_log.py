"""The access log: one line for every request that was answered."""

from __future__ import annotations

import time

import structlog

from server.pipeline import Call

MOST_METHOD, MOST_PATH = 32, 256
log = structlog.stdlib.get_logger("server.access")


def write_access(call: Call, status: int) -> None:
    """Write the line of a call that ends now; `duration_ms` is since it began."""
    operation, principal = call.operation, call.principal
    log.info(
        "request",
        method=call.method[:MOST_METHOD],
        # What stands in the places of parameters can be anything; identifiers are in the audit.
        path=operation.path if operation else call.path[:MOST_PATH],
        status=status,
        operation=operation.operation_id if operation else None,
        principal=principal.principal_id if principal else None,
        address=call.address,
        duration_ms=round(1000 * (time.monotonic() - call.began), 3),
        request_id=call.request_id,
    )


__all__ = ["write_access"]
