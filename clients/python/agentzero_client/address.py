"""Where the server is, and who we say that we are."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLE = "AGENTZERO_SERVER"

try:
    VERSION = version("agentzero-client")
except PackageNotFoundError:  # Imported from a folder that was not installed.
    VERSION = "0"
USER_AGENT = f"agentzero-client/{VERSION} (python)"


def server_url(given: str | None) -> str:
    """Give the base URL: what was given, else AGENTZERO_SERVER, else this machine, port 8000.

    Raise ValueError for what is no http or https URL.
    """
    url = given or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"a server is named by an http or https URL, got {url!r}")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def socket_url(base_url: str, path: str, query: dict[str, str] | None = None) -> str:
    """Give the WebSocket URL of a path."""
    url = "ws" + base_url.removeprefix("http") + path
    return f"{url}?{urlencode(query)}" if query else url


def segment(identifier: str) -> str:
    """Quote an identifier for use in a path; raise ValueError for an empty one."""
    if not identifier:
        raise ValueError("an identifier can't be empty")
    return quote(identifier, safe="")
