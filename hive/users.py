"""Users: what an admin changes of them, and the one who has to stay."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hive.errors import Conflict, Invalid, NotFound
from hive.identity import User
from hive.permissions import Role


class UserNotFound(NotFound):
    """No user of this identifier exists."""

    code = "user-not-found"
    title = "User not found"
    default_detail = "User not found"


class LastAdmin(Conflict):
    """Without an enabled admin nobody could ever make another one."""

    code = "last-admin"
    title = "The last admin"
    default_detail = (
        "This is the last enabled admin, who can't be deleted, disabled or given another role."
        " Make another admin first."
    )


class WrongPassword(Invalid):
    """The current password is not this one (422: the credential of the request is fine)."""

    code = "wrong-password"
    title = "Wrong password"
    default_detail = "The current password is wrong."


@dataclass(frozen=True, slots=True)
class UserFilter:
    """Which users a list shows; None is any."""

    role: Role | None = None
    disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class UserChange:
    """What an admin wants of a user; None stays as it is."""

    role: Role | None = None
    disabled: bool | None = None

    @property
    def may_remove_admin(self) -> bool:
        """Whether an enabled admin would not be one after this."""
        return self.disabled is True or self.role not in (None, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class UserDetail:
    """A user, and whether it has a live key of its own that signs requests."""

    user: User
    signing: bool = False


def apply_change(user: User, change: UserChange, *, has_other_admin: bool) -> User:
    """The user after the change, one version on; the same one when nothing changes.

    `has_other_admin` tells whether another enabled admin stays. Raises LastAdmin.
    """
    changed = replace(
        user,
        role=user.role if change.role is None else change.role,
        disabled=user.disabled if change.disabled is None else change.disabled,
    )
    if changed == user:
        return user
    if is_enabled_admin(user) and not is_enabled_admin(changed):
        require_other_admin(user, has_other_admin=has_other_admin)
    return replace(changed, version=user.version + 1)


def require_other_admin(user: User, *, has_other_admin: bool) -> None:
    """Raise LastAdmin when the user is an enabled admin and no other one stays."""
    if is_enabled_admin(user) and not has_other_admin:
        raise LastAdmin(user_id=user.user_id)


def is_enabled_admin(user: User) -> bool:
    """Tell whether the user can administer now."""
    return user.role is Role.ADMIN and not user.disabled
