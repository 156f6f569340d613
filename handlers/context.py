"""What every handler gets first, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hive.changes import Actor
from hive.permissions import Principal
from hive.ports import Services


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks, from where, under which request id, and the services of this node.

    `call_id` is the identifier that the audit record of this call has; `signed` tells whether the
    request carried a valid signature of the caller (RFC 9421). `from_own_page` tells whether a
    browser sent it for a page that may keep and use this server's cookies.
    """

    principal: Principal | None
    request_id: str
    address: str
    services: Services
    call_id: str | None = None
    signed: bool = False
    from_own_page: bool = False

    @property
    def caller(self) -> Principal:
        """The authenticated principal; the pipeline made sure that there is one."""
        if self.principal is None:
            raise AssertionError("an operation that needs a principal was declared public")
        return self.principal

    @property
    def actor(self) -> Actor:
        """Whom the event of a change names."""
        return Actor(self.caller.principal_id, self.request_id, self.call_id)


@dataclass(frozen=True, slots=True)
class Cookie:
    """One cookie of a browser, for this server's pages only; no script can read it."""

    name: str
    value: str
    max_age_seconds: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: JSON body, status (None: the contract's first success status), extra headers.

    `principal` is who turned out to call, when the operation itself is what proves it: a login.
    `cookie` is one that the client is to keep, or to drop.
    """

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    principal: Principal | None = None
    cookie: Cookie | None = None
