"""Who may run what, from where: one decision for REST and for WebSocket commands."""

from __future__ import annotations

from hive.errors import Forbidden
from hive.permissions import Principal
from server.contract import Operation


class Authorization:
    """The permission that the contract names."""

    def permit(self, operation: Operation, principal: Principal | None, address: str) -> None:
        """Raise Forbidden."""
        del address
        if operation.public:
            return
        if (
            principal is None
            or operation.permission is None
            or not principal.may(operation.permission)
        ):
            raise Forbidden
