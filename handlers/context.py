"""What every handler gets first, and what it gives back."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hive.changes import Actor
from hive.idempotency import ENTROPY_BYTES, Chosen, Seed
from hive.inner_calls import InnerCalls
from hive.permissions import Principal
from hive.ports import Services


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks, from where, under which request id, and the services of this node.

    `call_id` is the identifier that the audit record of this call has; `signed` tells whether the
    request carried a valid signature of the caller (RFC 9421). `from_own_page` tells whether a
    browser sent it for a page that may keep and use this server's cookies. `chosen` is there when
    the request may come again (`Idempotency-Key`). `inner` charges and records the calls that one
    request stands for.
    """

    principal: Principal | None
    request_id: str
    address: str
    services: Services
    call_id: str | None = None
    signed: bool = False
    from_own_page: bool = False
    chosen: Chosen | None = None
    inner: InnerCalls | None = None

    @property
    def caller(self) -> Principal:
        """The authenticated principal; the pipeline made sure that there is one."""
        if self.principal is None:
            raise AssertionError("an operation that needs a principal was declared public")
        return self.principal

    @property
    def calls(self) -> InnerCalls:
        """The calls that this one stands for; the pipeline gave the way to charge them."""
        if self.inner is None:
            raise AssertionError("nobody could be charged for what this call stands for")
        return self.inner

    @property
    def actor(self) -> Actor:
        """Whom the event of a change names."""
        return Actor(self.caller.principal_id, self.request_id, self.call_id)

    def new_id(self, prefix: str) -> str:
        """The identifier of what is made now: the same one when the request comes again."""
        if self.chosen is not None:
            return self.chosen.new_id(prefix)
        return self.services.identifiers.new(prefix)

    def new_seed(self, prefix: str) -> Seed:
        """The identifier and the entropy of a secret, as `new_id`."""
        if self.chosen is not None:
            return self.chosen.new_seed(prefix)
        return Seed(self.services.identifiers.new(prefix), secrets.token_bytes(ENTROPY_BYTES))


@dataclass(frozen=True, slots=True)
class Cookie:
    """One cookie of a browser, for this server's pages only; no script can read it."""

    name: str
    value: str
    max_age_seconds: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: body, status (None: the contract's first success status), extra headers.

    The body is JSON, `bytes` as they are to be sent, or `Bytes` that are sent piece by piece.

    `principal` is who turned out to call, when the operation itself is what proves it: a login.
    `cookie` is one that the client is to keep, or to drop.
    """

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    principal: Principal | None = None
    cookie: Cookie | None = None
