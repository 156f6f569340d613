"""The page docs/permissions.md, made from the contract and the table of roles."""

from __future__ import annotations

from collections.abc import Iterator

from hive.permissions import ADMIN_PERMISSIONS, OWNERSHIPS, PERMISSIONS, ROLE_PERMISSIONS, Role
from server.contract import Contract, Operation

_ROLES = (Role.VIEWER, Role.USER, Role.AGENT, Role.ADMIN)
_HEAD = """# Who may do what

This page is what `agentzero permissions` prints; a test keeps it so. An operation names one
permission, a role has permissions, and an API key has those of its owner's role, narrowed by its
scopes. What is not in these tables is refused.
"""
_LEGEND = """
`signed`: demands a signature (RFC 9421) of whoever has signing on. `allowlist`: refused from
addresses outside the admin allowlist, when there is one. A disabled user, an ended session and an
expired or revoked key are nobody (401).
"""


def permission_page(contract: Contract) -> str:
    """The page as Markdown."""
    parts = [_HEAD, "## Roles\n", *_role_rows(), "\n## Operations\n", *_operation_rows(contract)]
    parts += [_LEGEND, "## Ownership\n", *_ownership_rows()]
    return "\n".join(parts) + "\n"


def _role_rows() -> Iterator[str]:
    yield _row("permission", *_ROLES)
    yield _row("---", *["---"] * len(_ROLES))
    for permission in sorted(PERMISSIONS):
        held = (_mark(permission in ROLE_PERMISSIONS[role]) for role in _ROLES)
        yield _row(f"`{permission}`", *held)


def _operation_rows(contract: Contract) -> Iterator[str]:
    yield _row("operation", "", "permission", "anonymous", *_ROLES, "ownership", "besides")
    yield _row(*["---"] * (6 + len(_ROLES)))
    for operation in contract.operations.values():
        permission = operation.permission
        may = (_mark(operation.public or permission in ROLE_PERMISSIONS[role]) for role in _ROLES)
        yield _row(
            f"`{operation.operation_id}`",
            f"{operation.method} {operation.path}",
            f"`{permission}`" if permission else "",
            _mark(operation.public),
            *may,
            operation.ownership or "",
            ", ".join(_besides(operation)),
        )


def _besides(operation: Operation) -> Iterator[str]:
    if operation.signed:
        yield "signed"
    if operation.permission in ADMIN_PERMISSIONS:
        yield "allowlist"


def _ownership_rows() -> Iterator[str]:
    yield _row("ownership", "who may name it")
    yield _row("---", "---")
    for name, meaning in OWNERSHIPS.items():
        yield _row(f"`{name}`", meaning)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _mark(held: bool) -> str:  # noqa: FBT001 - a cell
    return "yes" if held else "-"
