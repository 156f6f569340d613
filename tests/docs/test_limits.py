"""Every number on docs/limits.md is the code's, or the contract's."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hive import login_attempts, signing
from hive.agents import CONTROLS_KEPT
from hive.sessions import MOST_SESSIONS
from hive.tickets import TICKET_SECONDS
from server import (
    agent_link,
    app,
    exchange,
    json_body,
    login_guard,
    password_policy,
    passwords,
    peers,
    signatures,
    subscriptions,
)
from server.liveness import LINK_LIMITS, PeerLimits
from server.parameters import parse_query
from server.settings import Settings
from storage.mongo.client import TIMEOUT_MS
from storage.sql.database import Database

ROOT = Path(__file__).resolve().parents[2]
CONTRACT: Any = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
SCHEMAS = CONTRACT["components"]["schemas"]
LOG_LIMIT = CONTRACT["paths"]["/api/v1/tasks/{task_id}/logs"]["get"]["parameters"][0]["schema"]
SOCKET = PeerLimits()
QUARTER = login_attempts.WINDOW.total_seconds() / 60
KIB = 1024


def size(count: int) -> str:
    """Bytes as the page writes them."""
    unit, name = (KIB * KIB, "MiB") if count % (KIB * KIB) == 0 else (KIB, "KiB")
    assert count % unit == 0
    return f"{count // unit} {name}"


def default(function: Any, name: str) -> Any:
    """The default of a parameter."""
    return inspect.signature(function).parameters[name].default


def members(schema: str) -> Any:
    """The properties of a schema of the contract."""
    return SCHEMAS[schema]["properties"]


LIMITS: dict[str, list[str]] = {
    "body": [
        size(Settings.model_fields["max_body_bytes"].default),
        f"up to {size(exchange.MAX_DRAINED_BYTES)} are read first",
    ],
    "URL": [size(exchange.MAX_URL_BYTES)],
    "fields of a query": [str(default(parse_query, "max_fields"))],
    "header fields": [str(exchange.MAX_HEADER_FIELDS)],
    "all headers": [size(app.MAX_HEADER_BYTES)],
    "time to send the headers, and the body": [f"{app.HEADER_SECONDS:.0f} s each"],
    "an idle connection": [f"{app.HEADER_SECONDS:.0f} s"],
    "JSON: ": [f"depth {json_body.MAX_DEPTH},", f"{json_body.MAX_STRUCTURE:,} arrays"],
    "list page": [f"to {CONTRACT['components']['parameters']['Limit']['schema']['maximum']} "],
    "log page": [f"to {LOG_LIMIT['maximum']:,} "],
    "waiting for a lease": [f"up to {members('Claim')['wait_seconds']['maximum']} "],
    "dependencies of a task": [f"{members('TaskCreate')['dependencies']['maxItems']:,}"],
    "slots of an agent, leases in one claim, limit of a concurrency key": [
        str(SCHEMAS["Slots"]["maximum"]),
        str(members("Claim")["max_leases"]["maximum"]),
        str(members("Concurrency")["limit"]["maximum"]),
    ],
    "capabilities": [
        f"{SCHEMAS['Capabilities']['maxItems']} of an agent",
        f"{SCHEMAS['RequiredCapabilities']['maxItems']} required",
    ],
    "labels": [str(SCHEMAS["Labels"]["maxProperties"])],
    "an API key: scopes, addresses": [
        f"{members('ApiKeyCreate')['scopes']['maxItems']}, {SCHEMAS['Networks']['maxItems']}"
    ],
    "log lines in one call": [
        f"{members('LogAppend')['lines']['maxItems']} of",
        f"{members('NewLogLine')['message']['maxLength']:,} characters",
    ],
    "control requests that an agent has not taken": [str(CONTROLS_KEPT)],
    "password at a login": [
        f"{size(members('LoginRequest')['password']['maxLength'])} in UTF-8",
        f"{size(passwords.MAX_PASSWORD_BYTES)} in UTF-8",
    ],
    "new password": [
        f"{SCHEMAS['NewPassword']['minLength']} to {SCHEMAS['NewPassword']['maxLength']} ",
        f"{password_policy.MIN_CHARACTERS} to {password_policy.MAX_CHARACTERS} ",
    ],
    "failed logins on one account": [
        f"{login_attempts.GUESSES_PER_ACCOUNT} in {QUARTER:.0f} minutes",
        f"{login_attempts.GUESSES_PER_KNOWN_PLACE} from each",
    ],
    "failed logins on one account, one after the other": [f"{login_attempts.MAX_STREAK},"],
    "failed logins from one IPv4 address or IPv6 /64": [
        f"{login_attempts.FAILURES_PER_NETWORK} in {QUARTER:.0f} minutes"
    ],
    "logins that wait for hashing": [
        str(default(passwords.Passwords, "waiting")),
        str(login_guard.MAX_UNDER_WAY),
    ],
    "live sessions of a user": [str(MOST_SESSIONS)],
    "live signing keys of an owner": [str(signing.MOST_KEYS)],
    "a header of a signature": [f"{signatures.MAX_HEADER_CHARACTERS:,} characters"],
    "`created` of a signature": [f"within {signing.WINDOW.total_seconds():.0f} s"],
    "frame": [size(SOCKET.frame_bytes), f"link {size(LINK_LIMITS.frame_bytes)}"],
    "frames": [
        f"{SOCKET.frames_per_second:.0f}/s, burst {SOCKET.frames_burst};",
        f"link {LINK_LIMITS.frames_per_second:,.0f}/s, burst {LINK_LIMITS.frames_burst:,}",
    ],
    "subscriptions": [f"{subscriptions.MAX_EXACT} exact, {subscriptions.MAX_WILDCARD} patterns"],
    "reports of an agent's link that are not yet answered": [
        f"{agent_link.REPORTS_IN_FLIGHT}, or {size(agent_link.REPORT_BYTES_IN_FLIGHT)}"
    ],
    "connections of a principal": [str(peers.PER_PRINCIPAL)],
    "a socket without a credential": [f"{SOCKET.connect_seconds:.0f} s"],
    "an agent's link without `hello`": [f"{LINK_LIMITS.hello_seconds:.0f} s"],
    "a ticket for a socket": [f"within {TICKET_SECONDS} s"],
    "a reader that stopped": [
        f"{size(SOCKET.buffered_bytes)} buffered",
        f"link {size(LINK_LIMITS.buffered_bytes)}",
        f"; {SOCKET.stuck_seconds:.0f} s",
    ],
    "a MongoDB operation": [f"{TIMEOUT_MS // 1000} s"],
    "an SQL unit of work": [f"{default(Database, 'timeout_seconds'):.0f} s"],
    "events": [str(Settings.model_fields["event_retention_days"].default)],
}


def rows() -> list[str]:
    """The rows of the page's tables."""
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    return [row for row in re.findall(r"^\| (.+) \|$", text, re.MULTILINE) if row[:6] != "what |"]


def test_every_row_is_checked() -> None:
    """A new limit needs its constant in the table of this test."""
    unchecked = [row for row in rows() if not row.startswith(tuple(f"{k} |" for k in LIMITS))]
    assert [row for row in unchecked if not row.startswith("JSON: ")] == []


@pytest.mark.parametrize("what", LIMITS)
def test_limit_on_the_page_is_the_limit_in_the_code(what: str) -> None:
    """The row has the numbers."""
    start = what if what.endswith(" ") else f"{what} |"
    (row,) = (row for row in rows() if row.startswith(start))
    for number in LIMITS[what]:
        assert re.search(rf"(?<![\d,]){re.escape(number)}(?!\d)", row), f"{number!r}, not: {row}"
