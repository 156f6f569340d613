"""What makes a configuration weak or contradictory, although each setting reads well.

`find_contradictions` looks at settings together and touches nothing outside of them;
`server/start_checks.py` looks at the machine. Both are asked before a server starts, and all that
they find is reported at once.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from server.settings import Settings

MIN_SECRET_BYTES = 32
MIN_DISTINCT = 8
# As it stands in tutorials, in examples and in compose files that nobody edited.
_PLACEHOLDERS = re.compile(
    r"change.?(me|this|it)|place.?holder|your.?(256|secret|key|super)|(super|top|my).?secret|"
    r"secret.?key|default.?(secret|key)|in.?secure|not.?(so.?)?(secret|secure)|do.?not.?use|"
    r"for.?(testing|development)|example|letmein|qwerty|xxxx",
    re.IGNORECASE,
)
_ORIGIN_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Option of the address (in lower case) -> the values that keep what an acknowledged write promises.
_SAFE_MONGODB_OPTIONS: dict[str, frozenset[str]] = {
    "w": frozenset({"majority"}),
    "journal": frozenset({"true"}),
    "retrywrites": frozenset({"true"}),
    "retryreads": frozenset({"true"}),
    "readpreference": frozenset({"primary"}),
    "readconcernlevel": frozenset({"majority", "linearizable"}),
    "tlsinsecure": frozenset({"false"}),
    "tlsallowinvalidcertificates": frozenset({"false"}),
    "tlsallowinvalidhostnames": frozenset({"false"}),
}
_SAFE_REDIS_OPTIONS = {"ssl_cert_reqs": frozenset({"required"})}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Why the settings don't fit; `fields` are those that the operator may change."""

    fields: tuple[str, ...]
    reason: str


def check_secret(secret: str) -> None:
    """Raise ValueError for a key that can be guessed: short, repeated, counted up, or well known.

    RFC 7518, section 3.2, asks for 32 bytes. Whether they are random can't be seen; whether they
    are certainly not, often can.
    """
    if len(secret.encode()) < MIN_SECRET_BYTES or len(set(secret)) < MIN_DISTINCT:
        raise ValueError(
            f"must be at least {MIN_SECRET_BYTES} random bytes (RFC 7518, section 3.2)"
        )
    if _PLACEHOLDERS.search(secret):
        raise ValueError("is a placeholder that everybody knows; make one: openssl rand -base64 48")
    steps = [ord(after) - ord(before) for before, after in itertools.pairwise(secret)]
    if sum(step in (-1, 0, 1) for step in steps) > len(steps) // 2:
        raise ValueError("is counted up or repeated, not random; make one: openssl rand -base64 48")
    if any(
        secret == (secret[:n] * len(secret))[: len(secret)] for n in range(1, len(secret) // 2 + 1)
    ):
        raise ValueError("repeats itself, it is not random; make one: openssl rand -base64 48")


def check_origin(origin: str) -> None:
    """Raise ValueError for what no browser sends as `Origin` (RFC 6454, section 6.2)."""
    parts = urlsplit(origin)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if "*" in origin or origin.lower() == "null":
        raise ValueError(f"{origin!r} would let every page in; name each origin")
    if (
        parts.scheme not in _DEFAULT_PORTS
        or origin != f"{parts.scheme}://{parts.netloc}"
        or not _ORIGIN_HOST.fullmatch(parts.netloc.removesuffix(f":{port}"))
        or port in (-1, 0, _DEFAULT_PORTS[parts.scheme])
    ):
        raise ValueError(
            f"{origin!r} is not an origin such as https://example.com: "
            "in lower case, without a path, a user and the scheme's own port"
        )


def find_contradictions(settings: Settings) -> Iterator[Contradiction]:
    """Everything that does not fit together, or would be weak."""
    yield from _transport(settings)
    yield from _pages(settings)
    yield from _secrets(settings)
    yield from _stores(settings)
    yield from _nodes(settings)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _transport(settings: Settings) -> Iterator[Contradiction]:
    has_tls = settings.tls_cert is not None
    if has_tls != (settings.tls_key is not None):
        missing = "tls_key" if has_tls else "tls_cert"
        yield Contradiction(
            (missing,), "a certificate and its key go together; this one is missing"
        )
    if settings.tls_redirect_port is not None:
        if not has_tls:
            yield Contradiction(
                ("tls_redirect_port",), "there is no port with TLS that it could lead to"
            )
        elif settings.tls_redirect_port and settings.tls_redirect_port == settings.port:
            yield Contradiction(("tls_redirect_port", "port"), "are one and the same port")
    open_to_others = not is_loopback(settings.host)
    if open_to_others and not (has_tls or settings.trusted_proxies or settings.allow_plaintext):
        yield Contradiction(
            ("host",),
            f"{settings.host} can be reached by other machines, and credentials would come in the "
            "clear: set AGENTZERO_TLS_CERT and AGENTZERO_TLS_KEY, or AGENTZERO_TRUSTED_PROXIES "
            "when a proxy speaks TLS, or AGENTZERO_ALLOW_PLAINTEXT=1 when the network is your own",
        )
    if any(network.prefixlen == 0 for network in settings.trusted_proxies):
        yield Contradiction(
            ("trusted_proxies",), "trusts everybody: each client could name its own address"
        )


def _pages(settings: Settings) -> Iterator[Contradiction]:
    for origin in settings.cors_origins:
        parts = urlsplit(origin)
        if (
            parts.scheme == "http"
            and not is_loopback(parts.hostname or "")
            and not settings.allow_plaintext
        ):
            yield Contradiction(
                ("cors_origins",),
                f"{origin} is not protected: whoever is on the network between could be that page "
                "and use the cookie of its user; name it with https",
            )


def _secrets(settings: Settings) -> Iterator[Contradiction]:
    secret = settings.secret_key.get_secret_value()
    if secret and secret == settings.admin_password.get_secret_value():
        yield Contradiction(
            ("admin_password", "secret_key"), "are the same secret: who knows one knows both"
        )


def _nodes(settings: Settings) -> Iterator[Contradiction]:
    """Several nodes are one hive only when they share their stores."""
    if settings.rate_limit_nodes == 1:
        return
    said = f"AGENTZERO_RATE_LIMIT_NODES says that there are {settings.rate_limit_nodes} nodes"
    if not settings.redis_url.get_secret_value():
        yield Contradiction(("redis_url",), f"{said}; without Redis each would have its own limits")
    if settings.embedded_mongodb:
        yield Contradiction(("mongodb_uri",), f"{said}; each would have a MongoDB of its own")
    if not settings.sql_url.get_secret_value().startswith("postgresql"):
        yield Contradiction(("sql_url",), f"{said}; they need one PostgreSQL for identities")


def _stores(settings: Settings) -> Iterator[Contradiction]:
    mongodb = settings.mongodb_uri.get_secret_value()
    yield from _unsafe_options("mongodb_uri", mongodb, _SAFE_MONGODB_OPTIONS)
    yield from _unsafe_options(
        "redis_url", settings.redis_url.get_secret_value(), _SAFE_REDIS_OPTIONS
    )
    sql = settings.sql_url.get_secret_value()
    if sql.startswith("sqlite") and (
        sql.partition("://")[2] in ("", "/", "/:memory:") or "mode=memory" in sql
    ):
        yield Contradiction(("sql_url",), "keeps identities in memory only, until the next restart")
    if "synchronous_commit" in sql and re.search(
        r"synchronous_commit(=|%3D)(off|local)", sql, re.IGNORECASE
    ):
        yield Contradiction(("sql_url",), "synchronous_commit: acknowledged writes could be lost")
    host = urlsplit(sql).hostname
    mode = dict(_options(sql)).get("sslmode")
    if mode in ("disable", "allow") and not (is_loopback(host or "") or settings.allow_plaintext):
        yield Contradiction(
            ("sql_url",),
            f"sslmode={mode}: passwords and hashes would cross the network in the clear",
        )


def _unsafe_options(
    field: str, url: str, safe: dict[str, frozenset[str]]
) -> Iterator[Contradiction]:
    for name, value in _options(url):
        accepted = safe.get(name)
        if accepted is not None and value.lower() not in accepted:
            wanted = " or ".join(sorted(accepted))
            yield Contradiction(
                (field,),
                f"{name}={value}: what was acknowledged could be lost; {wanted} it has to be",
            )


def _options(url: str) -> list[tuple[str, str]]:
    """The options of an address, names in lower case."""
    return [(name.lower(), value) for name, value in parse_qsl(url.partition("?")[2])]
