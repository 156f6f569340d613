"""A3: a refresh token has one live successor, on however many nodes it is exchanged at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from sqlalchemy import text

from tests.api.running import Api, RunningNode
from tests.security.token_nodes import (
    ME,
    REFRESH,
    Tokens,
    exchange,
    log_in,
    refused_within,
    ring_of,
    turn_clock,
    two_nodes,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROUNDS = 10
AT_ONCE = 20
LIVE = text(
    "SELECT count(*) FROM refresh_tokens WHERE used_at IS NULL AND session_id = :session_id"
)
FORKS = text(
    "SELECT count(*) FROM (SELECT session_id FROM refresh_tokens WHERE used_at IS NULL"
    " GROUP BY session_id HAVING count(*) > 1) AS forked"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[list[RunningNode]]:
    """Two nodes on one database."""
    async with two_nodes(tmp_path_factory.mktemp("refresh"), mongodb_uri) as running:
        yield running


async def _count(node: RunningNode, query: object, **values: str) -> int:
    database = ring_of(node)._store._database  # type: ignore[attr-defined]
    return int(await database.read(lambda sql: sql.scalar(query, values)) or 0)


async def _exchange_everywhere(apis: Sequence[Api], refresh_token: str) -> set[str]:
    """Exchange one token many times at once, over all nodes; the successors that were given."""
    body = {"refresh_token": refresh_token}
    turns = [api for api, _ in zip(itertools.cycle(apis), range(AT_ONCE), strict=False)]
    answers = await asyncio.gather(*(api.ok("POST", REFRESH, json=body) for api in turns))
    return {answer["refresh_token"] for answer in answers}


async def test_one_successor_however_many_ask(nodes: list[RunningNode]) -> None:
    """Everybody gets the same one, which is the only live token, and good for the next round."""
    apis = [node.client(judged=False) for node in nodes]
    first = await log_in(nodes[0])
    refresh_token = first.refresh
    for _ in range(ROUNDS):
        (successor,) = await _exchange_everywhere(apis, refresh_token)
        assert successor != refresh_token
        assert await _count(nodes[0], LIVE, session_id=first.claims["sid"]) == 1
        refresh_token = successor
    for node in nodes:
        last = await exchange(node.client(), refresh_token)
        await node.client(last.access).ok("GET", ME)
    assert await _count(nodes[0], FORKS) == 0


async def test_lost_answer_is_given_again_by_either_node(nodes: list[RunningNode]) -> None:
    """Nine seconds later still, and it is the same successor."""
    clock = turn_clock(*nodes)
    clock.stop()
    first = await log_in(nodes[0])
    second = await exchange(nodes[0].client(), first.refresh)
    clock.advance(seconds=9)
    assert (await exchange(nodes[1].client(), first.refresh)).refresh == second.refresh
    assert (await exchange(nodes[0].client(), first.refresh)).refresh == second.refresh
    await exchange(nodes[1].client(), second.refresh)


async def _family_is_dead(nodes: list[RunningNode], *family: Tokens) -> None:
    """Nothing of the family is good on any node, at the latest after a second."""
    for node in nodes:
        for tokens in family:
            await refused_within(node.client(tokens.access), seconds=1)
            body = {"refresh_token": tokens.refresh}
            await node.client().refused(401, "POST", REFRESH, json=body)


async def test_replay_after_the_grace_kills_the_family(nodes: list[RunningNode]) -> None:
    """On both nodes, within a second, and no other session."""
    clock = turn_clock(*nodes)
    first, bystander = await log_in(nodes[0]), await log_in(nodes[1])
    second = await exchange(nodes[1].client(), first.refresh)
    for node in nodes:
        await node.client(second.access).ok("GET", ME)
    clock.advance(seconds=11)
    body = {"refresh_token": first.refresh}
    await nodes[0].client().refused(401, "POST", REFRESH, json=body)
    await _family_is_dead(nodes, first, second)
    for node in nodes:
        await node.client(bystander.access).ok("GET", ME)
    assert (await exchange(nodes[0].client(), bystander.refresh)).access


async def test_replay_within_the_grace_kills_once_the_successor_was_used(
    nodes: list[RunningNode],
) -> None:
    """The grace is for a lost answer; whoever used the successor has had it."""
    first = await log_in(nodes[0])
    second = await exchange(nodes[1].client(), first.refresh)
    third = await exchange(nodes[0].client(), second.refresh)
    body = {"refresh_token": first.refresh}
    await nodes[1].client().refused(401, "POST", REFRESH, json=body)
    await _family_is_dead(nodes, first, second, third)


async def test_replays_at_once_fork_nothing(nodes: list[RunningNode]) -> None:
    """Thief and owner exchange old and new token at the same time: one family, dead or whole."""
    apis = [node.client(judged=False) for node in nodes]
    for _ in range(ROUNDS):
        first = await log_in(nodes[0])
        second = await exchange(apis[0], first.refresh)
        bodies = [{"refresh_token": tokens.refresh} for tokens in (first, second)] * 4
        answers = await asyncio.gather(
            *(apis[n % 2].post(REFRESH, json=body) for n, body in enumerate(bodies))
        )
        assert {answer.status_code for answer in answers} <= {200, 401}
        given = {a.json()["refresh_token"] for a in answers if a.status_code == 200}
        assert len(given - {second.refresh}) <= 1
        assert await _count(nodes[0], LIVE, session_id=first.claims["sid"]) <= 1
    assert await _count(nodes[0], FORKS) == 0
