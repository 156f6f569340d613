"""What admins decide while the system runs: where admins may come from, and who has to sign.

A change that would lock its own caller out is refused. The ways back in, when no request is left to
make, are the environment of the server, which wins, and its machine (`agentzero system`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from hive.changes import Actor
from hive.errors import Conflict, Forbidden
from hive.networks import within
from hive.preconditions import ExpectedVersions


@dataclass(frozen=True, slots=True)
class SystemSettings:
    """The settings. An empty `admin_allowlist` stands for everywhere; version 0 for never set."""

    admin_allowlist: tuple[str, ...] = ()
    signing_required: bool = False
    version: int = 0
    updated_at: datetime | None = None
    updated_by: str | None = None

    def admits(self, address: str) -> bool:
        """Tell whether admin operations are allowed from the address."""
        return not self.admin_allowlist or within(address, self.admin_allowlist)


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """What a caller wants changed; None stays as it is. The networks are canonical."""

    admin_allowlist: tuple[str, ...] | None = None
    signing_required: bool | None = None


class AddressNotAllowed(Forbidden):
    """Admin operations are not allowed from where the caller is."""

    code = "address-not-allowed"
    title = "Address not allowed"
    default_detail = "Admin operations are not allowed from this address."


class FixedByEnvironment(Conflict):
    """The environment of the server decides; no request can change it."""

    code = "fixed-by-environment"
    title = "Fixed by the environment"
    default_detail = "AGENTZERO_ADMIN_ALLOWLIST is set on the server and decides."


class WouldLockOut(Conflict):
    """After the change the caller could not make another one."""

    code = "would-lock-out"
    title = "Would lock you out"


DecideSettings = Callable[[SystemSettings], SystemSettings]


class SystemSettingsStore(Protocol):
    """The settings in the database that all nodes share."""

    async def read(self) -> SystemSettings:
        """The settings as they are now. Raises Unavailable."""
        ...

    async def change(self, decide: DecideSettings, actor: Actor) -> SystemSettings:
        """Decide under a lock and save, with the event, when the decision differs from what is.

        `decide` gets the settings as they are; version, time and actor are set here. What it
        raises goes through. Raises Unavailable.
        """
        ...


class System(Protocol):
    """What handlers ask of the settings."""

    async def read(self) -> SystemSettings:
        """The settings as they count on this node: what its environment fixes is fixed."""
        ...

    async def change(
        self,
        wanted: SettingsChange,
        actor: Actor,
        *,
        address: str,
        signed: bool,
        expected: ExpectedVersions | None = None,
    ) -> SystemSettings:
        """Change them for everybody; this node follows at once, the others within 1 s.

        `address` is where the caller is, `signed` whether this request carried a valid signature.
        Raises AddressNotAllowed, FixedByEnvironment, WouldLockOut, Unavailable, and
        PreconditionFailed when `expected` names other versions than the one that is changed.
        """
        ...


def change_settings(
    current: SystemSettings, wanted: SettingsChange, *, address: str, signed: bool
) -> SystemSettings:
    """The settings after the change. Raises AddressNotAllowed, WouldLockOut."""
    if not current.admits(address):
        # Another admin's change may have come first.
        raise AddressNotAllowed(address=address)
    changed = current
    if wanted.admin_allowlist is not None:
        changed = replace(changed, admin_allowlist=wanted.admin_allowlist)
    if wanted.signing_required is not None:
        changed = replace(changed, signing_required=wanted.signing_required)
    if not changed.admits(address):
        raise WouldLockOut(
            f"Your address, {address}, is in none of the networks; you could not change it back."
        )
    if wanted.signing_required and not signed:
        raise WouldLockOut("Sign this request: whoever can't sign could not take the demand back.")
    return changed
