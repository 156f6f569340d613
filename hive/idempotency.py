"""Requests that may be sent again: what is chosen before they run, and what is kept of them.

A request with an `Idempotency-Key` is carried out once (draft-ietf-httpapi-idempotency-key-header):

1. `IdempotencyStore.claim` writes down whose request it is and the seed of its identifiers.
2. It runs; what it makes, it makes under identifiers of that seed.
3. `IdempotencyStore.finish` keeps the answer, and only then it is sent.

Whoever dies in between leaves a claim without an answer. A repetition takes it over and runs with
the same seed: what is there already under its identifier was made by the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from hive.errors import Conflict, Invalid

ENTROPY_BYTES: Final = 32
KEPT_SECONDS: Final = 86_400.0
HELD_SECONDS: Final = 15.0
"""Longer than any operation that makes something takes: each wait for a store ends within 2 s."""


class IdempotencyInFlight(Conflict):
    """The request of this key is still being carried out; it can be asked for again."""

    code = "idempotency-in-flight"
    title = "Still being carried out"
    default_detail = (
        "A request with this Idempotency-Key is being carried out. Send it again in a moment."
    )
    retry_after_seconds = 1


class IdempotencyKeyReused(Invalid):
    """The key is that of another request: another operation, path, query or body."""

    code = "idempotency-key-reused"
    title = "Key of another request"
    default_detail = (
        "This Idempotency-Key was used for another request. Take a new key for each request, and "
        "send a request again exactly as it was."
    )


class SecretNotReplayed(Conflict):
    """The request was carried out; the answer held a secret, which is shown once."""

    code = "secret-not-replayed"
    title = "Secret not shown again"
    default_detail = (
        "This request was carried out before; Location names what it made. Its answer held a "
        "secret that is not shown again. If that answer was lost, replace the secret or remove "
        "what was made."
    )

    def __init__(self, location: str | None) -> None:
        super().__init__()
        self.location = location


class UndoneMeanwhile(Conflict):
    """What the request made was removed before the request could be answered."""

    code = "undone-meanwhile"
    title = "Removed meanwhile"
    default_detail = (
        "This request was carried out before, and what it made was removed. Take a new "
        "Idempotency-Key to make it again."
    )


@dataclass(frozen=True, slots=True)
class Seed:
    """What a new secret is made of, and the identifier that it belongs to."""

    identifier: str
    entropy: bytes = field(repr=False)


class Chosen(Protocol):
    """What was chosen for a request before it ran: the same each time that it runs again."""

    def new_id(self, prefix: str) -> str:
        """The next identifier of this kind, such as `tsk_01m7...`."""

    def new_seed(self, prefix: str) -> Seed:
        """The next identifier with `ENTROPY_BYTES` that nobody can guess."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request under a key.

    `record_id` stands for the principal and its key, `fingerprint` for the operation, the path, the
    query and the body; neither tells any of them.
    """

    record_id: str
    fingerprint: str
    principal_id: str
    operation_id: str


@dataclass(frozen=True, slots=True)
class Runner:
    """Who carries a request out: a call, in one life (`boot`) of a node.

    `is_alone` tells that nothing else in this life of the node runs under the same key, so that
    what another call of this life has claimed was given up.
    """

    call_id: str
    node_id: str
    boot: str
    is_alone: bool


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it was, without what is never shown twice.

    `withheld` tells that it held a secret: the body is empty then. `code` is that of a problem.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    content_type: str | None
    code: str | None = None
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """What the store knows of a request after an attempt to claim it.

    `is_held` tells that the runner holds it now; then `suffix` and `nonce` are its seed. `answer`
    is there once it was carried out. With neither, somebody else carries it out.
    """

    fingerprint: str
    is_held: bool
    suffix: str
    nonce: bytes = field(repr=False)
    answer: KeptAnswer | None = None


class IdempotencyStore(Protocol):
    """Requests under keys, for 24 hours. Each method is one atomic, majority-committed update."""

    async def claim(
        self, request: KeyedRequest, runner: Runner, suffix: str, nonce: bytes
    ) -> Claim:
        """Take the request for the runner, with this seed when it is new.

        One that was claimed keeps its seed. It is taken over from a runner that is gone: of an
        earlier life of the same node, of this life when the new runner `is_alone`, and of any other
        node once the time that a claim is held for is over. Of any number at once one gets it.
        """

    async def finish(self, record_id: str, call_id: str, answer: KeptAnswer) -> bool:
        """Keep the answer and forget the nonce; False when the call does not hold it any more."""

    async def release(self, record_id: str, call_id: str) -> None:
        """Let the next repetition take it over at once. Idempotent."""
