"""Cookies (RFC 6265) as this server reads and writes them.

Only an operation that declares a cookie in the contract ever sees one, and only that one. Whatever
else stands in `Cookie` is for others and is not looked at, however it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from handlers.context import Cookie


def read_cookie(lines: Sequence[str], name: str) -> list[str]:
    """The values of the cookie in the `Cookie` header's lines; more than one is for the reader."""
    pairs = (pair.partition("=") for line in lines for pair in line.split(";"))
    return [value.strip(" \t") for given, _, value in pairs if given.strip(" \t") == name]


def write_cookie(cookie: Cookie) -> str:
    """`Set-Cookie` for a cookie that no script reads and no other site sends."""
    return (
        f"{cookie.name}={cookie.value}; Secure; HttpOnly; SameSite=Strict; Path=/; "
        f"Max-Age={cookie.max_age_seconds}"
    )
