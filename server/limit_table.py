"""The page docs/limits.md, made from the code's constants and the contracts.

How to add a limit: put one `Limit(what, limit, answer, note)` into `_rest`, `_sockets` or `_stores`
(of tasks, agents and what they exchange: into `server/work_limits.py`) and run
`.venv/bin/agentzero limits > docs/limits.md`. `limit` is made from the constant that the code uses,
or from the contract. `answer` is the class of the refusal (status and code come from
`server/problems.py`), a close code, or the words for what happens when nobody is answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hive import api_keys, login_attempts, signing
from hive.api_keys import TooManyApiKeys
from hive.errors import HiveError, LogTrimmed, Unavailable
from hive.idempotency import (
    KEPT_SECONDS,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    SecretNotReplayed,
)
from hive.permissions import Role
from hive.rate_limits import (
    ADDRESS,
    AGENT,
    AUTH,
    MULTIPLIERS,
    RateLimited,
    default_policies,
)
from hive.sessions import MOST_SESSIONS
from hive.signing import SignatureInvalid, TooManySigningKeys
from hive.tickets import TICKET_SECONDS
from server import (
    app,
    connection_counts,
    exchange,
    http1,
    json_body,
    large_bodies,
    login_guard,
    password_policy,
    passwords,
    peers,
    reports_in_flight,
    request_heads,
    signatures,
    subscriptions,
)
from server.closing import CloseCode, ErrorCode
from server.contract import Contract, ContractMismatch
from server.json_body import MalformedJson
from server.limit_row import Limit, default_of, size_of
from server.liveness import LINK_LIMITS, PeerLimits
from server.load import AGENT_FACTOR, Overloaded, TooManyConcurrent
from server.parameters import parse_query
from server.password_policy import WeakPassword
from server.problems import (
    ContentTooLarge,
    HeadersTooLarge,
    MalformedRequest,
    RequestTimeout,
    UriTooLong,
    status_of_kind,
)
from server.settings import Settings
from server.work_limits import artifact_limits, work_limits

_HEAD = """# Limits

This page is what `agentzero limits` prints; a test keeps it so. Every limit has an answer that says
so. REST answers are problems (`application/problem+json`) with this status and code.
"""
_SOCKETS = """
## WebSocket

The contract has them under `x-limits`; what ends a connection has a close code (`x-close-codes` in
`asyncapi.yaml`).
"""


class StoreTimes(NamedTuple):
    """How long a store may take, in seconds; only the composition knows the stores."""

    mongodb_seconds: float
    sql_seconds: float


def limit_page(contract: Contract, stores: StoreTimes) -> str:
    """The page as Markdown."""
    parts = [_HEAD, "## REST\n", *_table(_rest(contract.openapi)), _SOCKETS, *_table(_sockets())]
    return "\n".join([*parts, "\n## Stores\n", *_table(_stores(stores))]) + "\n"


def _rest(openapi: Any) -> Iterator[Limit]:
    yield from _transport()
    yield from _rates()
    yield from _load()
    yield from _contract(openapi)
    yield from work_limits(openapi)
    yield from _identity(openapi)
    yield from _idempotency(openapi)


def _transport() -> Iterator[Limit]:
    """What is looked at before the operation is known."""
    body = size_of(Settings.model_fields["max_body_bytes"].default)
    drained = size_of(exchange.MAX_DRAINED_BYTES)
    yield Limit(
        "body",
        f"`AGENTZERO_MAX_BODY_BYTES`, {body}",
        ContentTooLarge,
        f"up to {drained} are read first, beyond that the connection is closed after the answer",
    )
    yield Limit("URL", size_of(exchange.MAX_URL_BYTES), UriTooLong)
    yield Limit("fields of a query", str(default_of(parse_query, "max_fields")), ContractMismatch)
    yield Limit(
        "header fields",
        str(request_heads.MAX_HEADER_FIELDS),
        HeadersTooLarge,
        "the connection is closed after the answer, as with all of the next ones",
    )
    heads = size_of(request_heads.MAX_HEADER_BYTES)
    yield Limit("request line and headers", heads, HeadersTooLarge)
    yield Limit("request line", heads, UriTooLong)
    yield Limit("what is no HTTP of one meaning (RFC 9112)", "none of it", MalformedRequest)
    yield Limit(
        "time for the headers, from the connection or the first byte of a later request",
        f"{app.HEADER_SECONDS:.0f} s",
        RequestTimeout,
        "silent when nothing was sent at all",
    )
    yield Limit("time for the body", f"{large_bodies.BODY_SECONDS:.0f} s", RequestTimeout)
    yield from artifact_limits()
    closed = "the connection is closed"
    yield Limit("idle after an answer", f"{http1.KEEP_ALIVE_SECONDS:.0f} s", closed)
    yield Limit("time in which a client takes an answer", f"{http1.ANSWER_SECONDS:.0f} s", closed)
    yield Limit(
        "connections",
        f"`AGENTZERO_MAX_CONNECTIONS`, {Settings.model_fields['max_connections'].default:,}, "
        f"or the open files of the process but {connection_counts.FILES_KEPT}",
        closed,
        "at once, WebSockets count",
    )
    per_address = Settings.model_fields["max_connections_per_address"].default
    yield Limit(
        "connections from one address",
        f"`AGENTZERO_MAX_CONNECTIONS_PER_ADDRESS`, {per_address:,}",
        closed,
        "at once; trusted proxies have no such bound",
    )
    yield Limit(
        "JSON",
        f"depth {json_body.MAX_DEPTH}, {json_body.MAX_STRUCTURE:,} arrays, objects and members, "
        "integers of 64 bits, finite numbers, unique keys, valid Unicode",
        MalformedJson,
    )


def _rates() -> Iterator[Limit]:
    """How often somebody may ask."""
    fields = Settings.model_fields
    of_whom = {AUTH: "one address", AGENT: "one agent", ADDRESS: "one address, of everybody there"}
    admin, viewer = MULTIPLIERS[Role.ADMIN], MULTIPLIERS[Role.VIEWER]
    by_role = f"; times {float(admin):g} for admins, {float(viewer):g} for viewers"
    for name, policy in default_policies().items():
        field = f"rate_limit_{name.replace('-', '_')}"
        yield Limit(
            f"requests of the rate limit `{name}`, of {of_whom.get(name, 'one principal')}",
            f"`AGENTZERO_{field.upper()}`, {fields[field].default:,} in {policy.window_seconds:g} s"
            + ("" if name in of_whom else by_role),
            RateLimited,
            "with `Retry-After`; [who is charged for what](rate-limits.md)",
        )


def _load() -> Iterator[Limit]:
    """What a node takes on at once."""
    fields = Settings.model_fields
    each = fields["max_concurrent_per_principal"].default
    yield Limit(
        "requests of one principal at once, and as many that wait for a lease, on a node",
        f"`AGENTZERO_MAX_CONCURRENT_PER_PRINCIPAL`, {each}; of an agent {each * AGENT_FACTOR}",
        TooManyConcurrent,
        "with `Retry-After`",
    )
    yield Limit(
        "requests at once on a node",
        f"what it can do, `AGENTZERO_MAX_RUNNING`, {fields['max_running'].default}, at most",
        Overloaded,
        "with `Retry-After`; [who is refused first](overload.md)",
    )


def _contract(openapi: Any) -> Iterator[Limit]:
    """What the contract says of parameters and bodies."""
    schemas = openapi["components"]["schemas"]
    logs = openapi["paths"]["/api/v1/tasks/{task_id}/logs"]["get"]["parameters"][0]["schema"]
    pages = openapi["components"]["parameters"]["Limit"]["schema"]
    rows = {
        "list page": f"`limit` {pages['minimum']} to {pages['maximum']}",
        "log page": f"`limit` {logs['minimum']} to {logs['maximum']:,}",
        "an API key: scopes, addresses": (
            f"{schemas['ApiKeyCreate']['properties']['scopes']['maxItems']}, "
            f"{schemas['Networks']['maxItems']}"
        ),
    }
    for what, limit in rows.items():
        yield Limit(what, limit, ContractMismatch)


def _identity(openapi: Any) -> Iterator[Limit]:
    """Logins, passwords, sessions, signatures."""
    quarter = login_attempts.WINDOW.total_seconds() / 60
    schemas = openapi["components"]["schemas"]
    new = schemas["NewPassword"]
    asked = schemas["LoginRequest"]["properties"]["password"]["maxLength"]
    shortest = max(new["minLength"], password_policy.MIN_CHARACTERS)
    longest = min(new["maxLength"], password_policy.MAX_CHARACTERS)
    yield Limit(
        "live sessions of a user",
        str(MOST_SESSIONS),
        "a login ends the one that was used least recently",
    )
    yield Limit("live API keys of a user", str(api_keys.MOST_KEYS), TooManyApiKeys)
    yield Limit("live signing keys of an owner", str(signing.MOST_KEYS), TooManySigningKeys)
    yield Limit(
        "a header of a signature",
        f"{signatures.MAX_HEADER_CHARACTERS:,} characters",
        SignatureInvalid,
    )
    yield Limit(
        "`created` of a signature",
        f"within {signing.WINDOW.total_seconds():.0f} s of the server's clock",
        SignatureInvalid,
    )
    yield Limit(
        "password at a login",
        f"{size_of(min(asked, passwords.MAX_PASSWORD_BYTES))} in UTF-8",
        passwords.UnusablePassword,
    )
    yield Limit("new password", f"{shortest} to {longest} characters", ContractMismatch)
    yield Limit("new password", "none of the common ones", WeakPassword)
    waiting = min(default_of(passwords.Passwords, "waiting"), login_guard.MAX_UNDER_WAY)
    yield Limit("logins that wait for hashing", str(waiting), Unavailable, "with `Retry-After`")
    guesses = {
        "failed logins on one account": (
            f"{login_attempts.GUESSES_PER_ACCOUNT} in {quarter:.0f} minutes from all addresses "
            f"that it does not know; {login_attempts.GUESSES_PER_KNOWN_PLACE} from each that it "
            "knows"
        ),
        "failed logins on one account, one after the other": (
            f"{login_attempts.MAX_STREAK}, then only addresses that it knows"
        ),
        "failed logins from one IPv4 address or IPv6 /64": (
            f"{login_attempts.FAILURES_PER_NETWORK} in {quarter:.0f} minutes, on all accounts "
            "that don't know it"
        ),
    }
    for what, limit in guesses.items():
        yield Limit(what, limit, login_attempts.TooManyAttempts, "with `Retry-After`")


def _sockets() -> Iterator[Limit]:
    socket, link = PeerLimits(), LINK_LIMITS
    yield Limit(
        "frame",
        f"{size_of(socket.frame_bytes)}; agent's link {size_of(link.frame_bytes)}",
        CloseCode.TOO_LARGE,
    )
    yield Limit(
        "frames",
        f"{socket.frames_per_second:,.0f}/s, burst {socket.frames_burst:,}; agent's link "
        f"{link.frames_per_second:,.0f}/s, burst {link.frames_burst:,}",
        CloseCode.RATE_LIMITED,
    )
    yield Limit(
        "subscriptions",
        f"{subscriptions.MAX_EXACT} exact, {subscriptions.MAX_WILDCARD} patterns",
        ErrorCode.TOO_MANY_SUBSCRIPTIONS,
    )
    yield Limit(
        "reports of an agent's link that are not yet answered",
        f"{reports_in_flight.MAX_REPORTS}, or {size_of(reports_in_flight.MAX_BYTES)}",
        "nothing more is read until some are",
    )
    yield Limit("connections of a principal", str(peers.PER_PRINCIPAL), CloseCode.RATE_LIMITED)
    yield Limit(
        "a socket without a credential",
        f"{socket.connect_seconds:.0f} s",
        CloseCode.CREDENTIALS_REFUSED,
    )
    yield Limit(
        "an agent's link without `hello`", f"{link.hello_seconds:.0f} s", CloseCode.NO_HEARTBEAT
    )
    yield Limit(
        "a ticket for a socket",
        f"once, within {TICKET_SECONDS} s",
        CloseCode.CREDENTIALS_REFUSED,
    )
    yield Limit(
        "a reader that stopped",
        f"{size_of(socket.buffered_bytes)} buffered, agent's link {size_of(link.buffered_bytes)}; "
        f"{socket.stuck_seconds:.0f} s",
        CloseCode.STUCK,
        "before, it is behind and catches up from the log",
    )


def _idempotency(openapi: Any) -> Iterator[Limit]:
    """Requests under an `Idempotency-Key`."""
    longest = openapi["components"]["parameters"]["IdempotencyKey"]["schema"]["maxLength"]
    yield Limit("`Idempotency-Key`", f"{longest} visible ASCII characters", ContractMismatch)
    kept = f"{KEPT_SECONDS / 3600:.0f} h"
    about = "[requests that are sent again](idempotency.md)"
    yield Limit("requests that a key is for", f"1 in {kept}", IdempotencyKeyReused, about)
    yield Limit("requests under way with one key", "1", IdempotencyInFlight, "with `Retry-After`")
    yield Limit("answers with one secret", "1", SecretNotReplayed, "`Location` names what was made")


def _stores(times: StoreTimes) -> Iterator[Limit]:
    again = "with `Retry-After`"
    yield Limit("a MongoDB operation", f"{times.mongodb_seconds:.0f} s", Unavailable, again)
    yield Limit("an SQL unit of work", f"{times.sql_seconds:.0f} s", Unavailable, again)
    days = Settings.model_fields["event_retention_days"].default
    yield Limit(
        "events",
        f"`AGENTZERO_EVENT_RETENTION_DAYS`, {days}",
        LogTrimmed,
        "on a socket `gap`",
    )


def _table(limits: Iterator[Limit]) -> Iterator[str]:
    yield _row("what", "limit", "status", "code", "note")
    yield _row(*["---"] * 5)
    for limit in limits:
        yield _row(limit.what, limit.limit, *_answer(limit.answer), limit.note)


def _answer(answer: type[HiveError] | CloseCode | ErrorCode | str) -> tuple[str, str]:
    """Status and code."""
    if isinstance(answer, CloseCode):
        return f"close {answer.value}", ""
    if isinstance(answer, ErrorCode):
        return "`error` frame", f"`{answer}`"
    if isinstance(answer, str):
        return answer, ""
    return str(status_of_kind(answer)), f"`{answer.code}`"


def _row(*cells: str) -> str:
    return "|".join(["", *(f" {cell} " if cell else " " for cell in cells), ""])
