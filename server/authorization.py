"""Who may run what, from where: one decision for REST and for WebSocket commands."""

from __future__ import annotations

from typing import Protocol

from hive.errors import Forbidden
from hive.permissions import ADMIN_PERMISSIONS, Principal
from hive.system_settings import AddressNotAllowed, SystemSettings
from server.contract import Operation


class FollowsSettings(Protocol):
    """Knows the settings of the system."""

    @property
    def current(self) -> SystemSettings:
        """What counts on this node."""
        ...


class Authorization:
    """The permission that the contract names; for what only admins may, the allowlist, too."""

    def __init__(self, settings: FollowsSettings) -> None:
        self._settings = settings

    def permit(self, operation: Operation, principal: Principal | None, address: str) -> None:
        """Raise Forbidden, AddressNotAllowed."""
        if operation.public:
            return
        if (
            principal is None
            or operation.permission is None
            or not principal.may(operation.permission)
        ):
            raise Forbidden
        if operation.permission in ADMIN_PERMISSIONS and not self._settings.current.admits(address):
            raise AddressNotAllowed(address=address, principal_id=principal.principal_id)
