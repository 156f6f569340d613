"""What the way of a request is made of: the parts that `server/rest.py` brings together, as ports.

`server/bootstrap/` makes each part once; `make_app` puts them into one `Pipeline`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from typeid import TypeID

from hive.idempotency import Chosen
from hive.permissions import Principal
from hive.ports import Services
from server.addresses import AddressResolver
from server.answers import Answer
from server.contract import Operation
from server.cors import Cors
from server.origins import Origins
from server.routing import Routes
from server.turns import Turns

if TYPE_CHECKING:
    from server.large_bodies import LargeBodies
    from server.load import Occupancy
    from server.rest import RestHandler


@dataclass(slots=True)
class Call:
    """One call on its way: what its audit record will say.

    `operation` stays None for what is no operation of the contract, `principal` for whoever could
    not prove who they are. `resource` is the identifier that the call is about; `signed` says
    whether the request carried a signature of its principal that was verified. `headers` are what
    the parts of the pipeline want to have on the answer, whatever it is.
    """

    call_id: str
    request_id: str
    channel: str
    address: str
    client: str = ""
    method: str = ""
    path: str = ""
    action: str | None = None
    operation: Operation | None = None
    principal: Principal | None = None
    resource: str | None = None
    signed: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    charged: bool = False
    place: Occupancy | None = None
    began: float = field(default_factory=time.monotonic)

    def learn(self, principal: Principal | None, headers: Mapping[str, str]) -> None:
        """Take what the outcome tells: who logged in, and what was made (its `Location`)."""
        if self.principal is None:
            self.principal = principal
        if self.resource is None and "Location" in headers:
            self.resource = headers["Location"].rpartition("/")[2]


class Authenticates(Protocol):
    """Turns a bearer credential into a principal."""

    async def authenticate(self, bearer: str, address: str | None = None) -> Principal:
        """Give the principal.

        Raises Unauthenticated; Forbidden when the credential may not come from this address;
        Unavailable.
        """


class Permits(Protocol):
    """Says whether a principal may run an operation from where it is."""

    def permit(
        self, operation: Operation, principal: Principal | None, address: str
    ) -> Principal | None:
        """Give the principal as it may act from there.

        Raises Forbidden: the permission is missing, or the address is not on the allowlist.
        """


class ChecksSignatures(Protocol):
    """Demands a request signature (RFC 9421) where one is due."""

    async def check(
        self,
        operation: Operation,
        principal: Principal | None,
        request: HTTPServerRequest,
        body: bytes,
    ) -> bool:
        """Return when no signature is due, or a valid one is there; whether one was verified.

        Raises Unauthenticated; Unavailable when a replay can't be ruled out.
        """


class Throttles(Protocol):
    """Bounds what runs at once; every call that was admitted leaves."""

    def admit(self, call: Call) -> None:
        """Count the call in. Raises Overloaded."""

    def seat(self, call: Call) -> None:
        """Take a slot of its principal. Raises TooManyConcurrent."""

    def park(self, call: Call, arguments: Mapping[str, Any]) -> None:
        """Let go of the slot of a call that is going to wait. Raises TooManyConcurrent."""

    def leave(self, call: Call) -> None:
        """Give back what the call holds. Idempotent."""


class Charges(Protocol):
    """Says how often a principal and an address may call (`x-rate-limit`)."""

    async def charge(self, call: Call) -> None:
        """Charge the call to both. Raises RateLimited; then neither was charged."""

    async def charge_address(self, call: Call) -> None:
        """Charge what is no operation to the address alone. Raises RateLimited."""

    async def charge_more(self, call: Call, count: int) -> None:
        """Charge whoever calls for so many more calls of the kind: all or none.

        Raises RateLimited; MoreThanLimit when all of them never fit.
        """

    async def charge_failure(self, call: Call, error: Exception) -> Exception:
        """Charge the address for a call that came not that far; give what to answer."""


class Announces(Protocol):
    """Tells who calls a deprecated operation so."""

    def announce(self, call: Call, path: Mapping[str, str]) -> None:
        """Put what there is to say into the headers of the call."""

    def note(self, call: Call) -> None:
        """Write down who called."""


class Audits(Protocol):
    """Keeps a record of every call."""

    async def admit(self, call: Call) -> None:
        """Raise Unavailable when the call may change something and no record could be kept."""

    async def record(self, call: Call, status: int, code: str | None) -> None:
        """Record the outcome. The record of a mutation is durable on return; else Unavailable."""

    def note(self, call: Call, status: int, code: str | None) -> None:
        """Record the outcome, durable within a second. Raises Unavailable when there is no room."""


class CachesAnswers(Protocol):
    """Gives answers again that are still true (`x-cache`)."""

    async def answer(
        self,
        operation: Operation,
        principal: Principal | None,
        arguments: Mapping[str, Any],
        make: Callable[[], Awaitable[Answer]],
    ) -> Answer:
        """Give a kept answer, or one that is made now. Raises what `make` raises."""


class CarriesOutOnce(Protocol):
    """Carries out once what comes under one `Idempotency-Key` (`x-idempotent`)."""

    async def answer(
        self,
        exchange: RestHandler,
        operation: Operation,
        principal: Principal,
        make: Callable[[Chosen | None], Awaitable[Answer]],
    ) -> Answer:
        """Make the answer, or give the one that was kept. Raises what `make` raises.

        Raises IdempotencyInFlight, IdempotencyKeyReused, SecretNotReplayed, Unavailable.
        """


class Compresses(Protocol):
    """Sends answers in the content coding that the client likes best."""

    async def compress(
        self, operation: Operation, headers: HTTPHeaders, answer: Answer, /
    ) -> Answer:
        """Give the answer as it is to be sent; secrets as they are."""


class Judges(Protocol):
    """Raises ContractViolation when an exchange does not match the contract."""

    def check_exchange(self, request: RestHandler, body: bytes, answer: Answer, /) -> None:
        """Judge one exchange."""


@dataclass(slots=True)
class Pipeline:
    """What every request needs, made once by `make_app`.

    `running` counts those under way; while `draining`, each answer sends its connection away.
    """

    routes: Routes
    services: Services
    authenticator: Authenticates
    authorization: Permits
    signatures: ChecksSignatures
    audit: Audits
    load: Throttles
    versions: Announces
    limits: Charges
    addresses: AddressResolver
    origins: Origins
    cors: Cors
    max_body_bytes: int
    large_bodies: LargeBodies
    new_call_id: Callable[[], str]
    referee: Judges | None = None
    cache: CachesAnswers | None = None
    compression: Compresses | None = None
    idempotency: CarriesOutOnce | None = None
    new_request_id: Callable[[], str] = field(default=lambda: str(TypeID("req")))
    turns: Turns = field(default_factory=Turns)
    running: int = 0
    draining: bool = False
