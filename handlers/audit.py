"""Who did what, from where, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from handlers.context import Context, Reply
from handlers.pages import open_page
from hive.audit import AuditOutcome, Record, canonical
from hive.audit_ports import AuditFilter
from hive.errors import Invalid

PATH = "/api/v1/audit"
EXPORTED = 2_000


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
    fields: list[str] | None,
) -> Reply:
    """The newest records first."""
    query = {
        "actor": actor,
        "operation": operation,
        "outcome": outcome,
        "resource": resource,
        "since": since,
        "until": until,
    }
    page = open_page(
        context,
        "list_audit_records",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query=query,
    )
    records = await context.services.audit.list(
        _filter(query), before=page.position, limit=limit + 1
    )
    shown = records[:limit]
    return page.reply(shown, last=shown[-1]["record_id"] if len(records) > limit else None)


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
    """One record a line, chain by chain, in the form that was hashed."""
    query = {
        "actor": actor,
        "operation": operation,
        "outcome": outcome,
        "resource": resource,
        "since": since,
        "until": until,
    }
    page = open_page(context, "export_audit_records", f"{PATH}/export", cursor=cursor, query=query)
    records = await context.services.audit.export(
        _filter(query), after=_place(page.position), limit=EXPORTED + 1
    )
    shown = records[:EXPORTED]
    last = f"{shown[-1]['boot']}:{shown[-1]['n']}" if len(records) > EXPORTED else None
    return Reply(b"".join(map(_line, shown)), headers=page.links(last))


async def get_audit_record(context: Context, *, record_id: str) -> Reply:
    """One record."""
    return Reply(await context.services.audit.get(record_id))


def _filter(query: Mapping[str, Any]) -> AuditFilter:
    outcome = query["outcome"]
    return AuditFilter(
        actor=query["actor"],
        operation=query["operation"],
        outcome=AuditOutcome(outcome) if outcome is not None else None,
        resource=query["resource"],
        since=_time(query["since"], "since"),
        until=_time(query["until"], "until"),
    )


def _time(value: str | None, name: str) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"The time in `{name}` does not exist here.") from error


def _place(position: str | None) -> tuple[str, int] | None:
    if position is None:
        return None
    boot, _, n = position.rpartition(":")
    return boot, int(n)


def _line(record: Record) -> bytes:
    return canonical(record) + b"\n"
