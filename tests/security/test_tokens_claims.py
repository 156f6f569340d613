"""A2: a claim that is missing, altered or of somebody else is refused, rightly signed or not."""

from __future__ import annotations

import time
from typing import Any

import pytest
import pytest_asyncio

from hive.permissions import Role
from hive.token_keys import TokenAlgorithm
from server.tokens import LEEWAY_SECONDS
from tests.api.running import Api, RunningNode
from tests.identity import forging
from tests.identity.forging import Forge
from tests.security.token_nodes import (
    ME,
    REFRESH,
    Tokens,
    log_in,
    make_forges,
    refusal,
    ring_of,
    sendable,
    turn_clock,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(node: RunningNode) -> Tokens:
    """A session of a user."""
    await node.add_user("ann", Role.USER)
    return await log_in(node, "ann")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(node: RunningNode) -> Tokens:
    """A session of another user."""
    await node.add_user("bob", Role.USER)
    return await log_in(node, "bob")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def forges(node: RunningNode, ann: Tokens) -> dict[str, Forge]:
    """The keys of the ring, in the hands of who alters claims of the first session."""
    return await make_forges(node, ann)


@pytest.fixture(scope="module")
def api(node: RunningNode) -> Api:
    """A client that judges nothing: 401 is looked for here, hundreds of times."""
    return node.client(judged=False)


async def _status(api: Api, forge: Forge, **changes: Any) -> int | None:
    return await refusal(api, forge.sign(forge.header(), forge.claims(**changes)).encode())


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
async def test_altered_claims_are_refused(
    api: Api, forges: dict[str, Forge], algorithm: str
) -> None:
    """Each claim left out, of another type, emptied or bent: 401 for all of them."""
    corpus = sendable(forging.bad_claims(forges[algorithm]))
    assert await _status(api, forges[algorithm]) == 200
    got = {name: await refusal(api, token) for name, token in corpus}
    assert {name: status for name, status in got.items() if status != 401} == {}
    for claim in forging.CLAIMS:
        assert got[f"without {claim}"] == 401
    for part in ("prefix", "suffix", "substring"):
        assert got[f"iss {part}" if part == "substring" else f"iss with {part}"] == 401


@pytest.mark.parametrize("algorithm", TokenAlgorithm)
async def test_session_of_somebody_else_is_refused(
    api: Api, forges: dict[str, Forge], bob: Tokens, algorithm: str
) -> None:
    """`sub` and `sid` have to belong together, and the session has to exist."""
    forge = forges[algorithm]
    assert await _status(api, forge, sid=bob.claims["sid"]) == 401
    assert await _status(api, forge, sub=bob.claims["sub"]) == 401
    assert await _status(api, forge, sid="ses_01m800kkbrez1vcmc27j99r4p4") == 401
    assert await _status(api, forge, sub="usr_01m800kkaaep4r1p5rqd7r13fr") == 401
    both = {name: bob.claims[name] for name in ("sub", "sid")}
    assert await _status(api, forge, **both) == 200


async def test_role_in_the_token_gives_nothing(node: RunningNode, forges: dict[str, Forge]) -> None:
    """Rightly signed with `admin` it is the token of the user that the session is of."""
    forge = forges["EdDSA"]
    token = forge.sign(forge.header(), forge.claims(role="admin"))
    me = await node.client(token).ok("GET", ME)
    assert me["role"] == "user"


async def test_times_have_a_leeway_of_seconds(api: Api, forges: dict[str, Forge]) -> None:
    """At most 30 s: a second beyond it, an end that has passed and a beginning to come refuse."""
    assert LEEWAY_SECONDS <= 30
    forge = forges["HS256"]

    def now() -> int:
        return int(time.time())

    assert await _status(api, forge, exp=now() - LEEWAY_SECONDS - 1) == 401
    assert await _status(api, forge, exp=now() - LEEWAY_SECONDS + 3) == 200
    for claim in ("nbf", "iat"):
        assert await _status(api, forge, **{claim: now() + LEEWAY_SECONDS + 3}) == 401
        assert await _status(api, forge, **{claim: now() + LEEWAY_SECONDS - 3}) == 200


async def test_each_credential_is_good_for_one_thing(node: RunningNode, ann: Tokens) -> None:
    """Refresh token, ticket and access token don't stand in for each other."""
    anonymous = node.client()
    await node.client(ann.refresh).refused(401, "GET", ME)
    body = {"refresh_token": ann.access[:512]}
    await anonymous.refused(401, "POST", REFRESH, json=body)
    ticket = await node.client(ann.access).ok("POST", "/api/v1/auth/ws-tickets")
    await node.client(ticket["ticket"]).refused(401, "GET", ME)
    body = {"refresh_token": ticket["ticket"]}
    await anonymous.refused(401, "POST", REFRESH, json=body)


async def test_token_of_a_key_that_has_ended_is_refused(
    node: RunningNode, api: Api, forges: dict[str, Forge]
) -> None:
    """Whoever stole an old key can sign nothing with it once its own tokens have expired."""
    assert await _status(api, forges["HS256"]) == 200
    clock = turn_clock(node)
    clock.advance(seconds=3_600 + 60)
    await ring_of(node).load()
    clock.advance(seconds=-3_600 - 60)
    assert await _status(api, forges["HS256"]) == 401
    assert await _status(api, forges["RS256"]) == 200
