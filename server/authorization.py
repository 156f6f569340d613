"""Who may run what, from where: one decision for REST and for WebSocket commands."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from hive.errors import Forbidden
from hive.permissions import ADMIN_PERMISSIONS, KEY_PERMISSIONS, Principal
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

    def permit(
        self, operation: Operation, principal: Principal | None, address: str
    ) -> Principal | None:
        """The principal as it may act from there. Raises Forbidden, AddressNotAllowed."""
        if operation.public:
            return principal
        if (
            principal is None
            or operation.permission is None
            or not principal.may(operation.permission)
        ):
            raise Forbidden
        if self._settings.current.admits(address):
            return principal
        if operation.permission in ADMIN_PERMISSIONS:
            raise AddressNotAllowed(address=address, principal_id=principal.principal_id)
        return replace(principal, confined=operation.permission in KEY_PERMISSIONS)
