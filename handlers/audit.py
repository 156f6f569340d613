"""Who did what, from where, and how it ended."""

from __future__ import annotations

from handlers.context import Context, Reply


async def list_audit_records(
    context: Context,
    *,
    actor: str | None,
    operation: str | None,
    outcome: str | None,
    resource: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    cursor: str | None,
) -> Reply:
    """List audit records."""
    raise NotImplementedError


async def export_audit_records(
    context: Context,
    *,
    actor: str | None,
    operation: str | None,
    outcome: str | None,
    resource: str | None,
    since: str | None,
    until: str | None,
    cursor: str | None,
) -> Reply:
    """Export audit records."""
    raise NotImplementedError


async def get_audit_record(context: Context, *, record_id: str) -> Reply:
    """Get an audit record."""
    raise NotImplementedError
