"""Rotating the keys of access tokens under load: no request fails, on either of two nodes."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

import jwt
import pytest
import pytest_asyncio

from tests.api.running import Api, RunningNode, found
from tests.security.token_nodes import (
    ME,
    REFRESH,
    Tokens,
    exchange,
    log_in,
    ring_of,
    two_nodes,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROTATE = "/api/v1/auth/keys/rotate"
CLIENTS = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(
    tmp_path_factory: pytest.TempPathFactory, mongodb_uri: str
) -> AsyncIterator[list[RunningNode]]:
    """Two nodes on one database."""
    async with two_nodes(tmp_path_factory.mktemp("rotation"), mongodb_uri) as running:
        yield running


class Load:
    """Clients that go from node to node, each with its own session, refreshing all the time."""

    def __init__(self, nodes: list[RunningNode]) -> None:
        self.apis = [node.client(judged=False) for node in nodes]
        self.failures: list[str] = []
        self.kids: Counter[str] = Counter()
        self.seen: dict[str, Tokens] = {}
        self.running = True

    async def work(self, tokens: Tokens) -> None:
        """Use the newest token at the next node, and the first one of each key everywhere."""
        for api in itertools.cycle(self.apis):
            if not self.running:
                return
            tokens = await self._refresh(api, tokens) or tokens
            kid = str(jwt.get_unverified_header(tokens.access)["kid"])
            self.kids[kid] += 1
            self.seen.setdefault(kid, tokens)
            for other in self.apis:
                for known in (tokens, *self.seen.values()):
                    await self._use(other, known)

    async def _refresh(self, api: Api, tokens: Tokens) -> Tokens | None:
        response = await api.post(REFRESH, json={"refresh_token": tokens.refresh})
        if response.status_code != 200:
            self.failures.append(f"refresh: {response.status_code} {response.text}")
            return None
        body = response.json()
        return Tokens(body["access_token"], body["refresh_token"])

    async def _use(self, api: Api, tokens: Tokens) -> None:
        headers = {"Authorization": f"Bearer {tokens.access}"}
        response = await api.get(ME, headers=headers)
        if response.status_code != 200:
            header = jwt.get_unverified_header(tokens.access)
            self.failures.append(f"{api.base_url} {header}: {response.status_code}")


async def test_no_request_fails_while_keys_change(nodes: list[RunningNode]) -> None:
    """Two rotations, one by each node, the second to another algorithm."""
    algorithms = await _rotate_under_load(nodes, [{}, {"algorithm": "EdDSA"}])
    assert algorithms == ["HS256", "HS256", "EdDSA"]


@pytest.mark.soak
async def test_no_request_fails_over_many_changes(nodes: list[RunningNode]) -> None:
    """Five times through all algorithms."""
    wanted = [{"algorithm": name} for name in ("RS256", "EdDSA", "HS256")] * 5
    assert len(await _rotate_under_load(nodes, wanted)) == 16


async def _rotate_under_load(
    nodes: list[RunningNode], wanted: Sequence[Mapping[str, str]]
) -> list[str]:
    """Rotate, each time when the newest key is in use; the algorithms that signed."""
    admins = [node.client((await log_in(node)).access) for node in nodes]
    load = Load(nodes)
    sessions = [await log_in(nodes[n % 2]) for n in range(CLIENTS)]
    workers = [asyncio.create_task(load.work(tokens)) for tokens in sessions]
    made = [jwt.get_unverified_header(sessions[0].access)["kid"]]

    async def newest_signs() -> bool:
        return load.kids[made[-1]] > CLIENTS or bool(load.failures)

    try:
        for admin, body in zip(itertools.cycle(admins), wanted, strict=False):
            await found(newest_signs, bool, "tokens of the newest key are in use", 20)
            made.append((await admin.ok("POST", ROTATE, json=body))["kid"])
        await found(newest_signs, bool, "tokens of the newest key are in use", 20)
    finally:
        load.running = False
        await asyncio.gather(*workers)
    assert load.failures == []
    assert list(load.seen) == made
    headers = [jwt.get_unverified_header(tokens.access) for tokens in load.seen.values()]
    return [str(header["alg"]) for header in headers]


async def test_rotations_on_both_nodes_at_once_end_in_one_ring(nodes: list[RunningNode]) -> None:
    """Each node knows every key of the other within a second, and all agree on the signer."""
    admins = [node.client((await log_in(node)).access) for node in nodes]
    answers = await asyncio.gather(
        *(admins[n % 2].ok("POST", ROTATE, json={"algorithm": "EdDSA"}) for n in range(6))
    )
    kids = {answer["kid"] for answer in answers}
    assert len(kids) == 6
    newest = max(answers, key=lambda answer: str(answer["signs_from"]))["kid"]
    for node in nodes:

        async def known(ring: object = ring_of(node)) -> set[str]:
            return set(ring._tokens.ring.known())  # type: ignore[attr-defined]

        await found(known, lambda seen: kids <= seen, "every key is known", 1)

    async def signers() -> set[str]:
        return {ring_of(node)._tokens.ring.signer().kid for node in nodes}

    await found(signers, lambda seen: seen == {newest}, "both sign with the newest", 5)
    for one, other in (nodes, nodes[::-1]):
        tokens = await exchange(one.client(), (await log_in(one)).refresh)
        await other.client(tokens.access).ok("GET", ME)


async def test_event_of_the_rotation_is_for_admins(nodes: list[RunningNode]) -> None:
    """It comes to the log, with the key's name and without the key."""
    admin = nodes[0].client((await log_in(nodes[0])).access)
    kid = (await admin.ok("POST", ROTATE, json={}))["kid"]
    path = "/api/v1/events?type=system.token_keys_rotated&order=desc"

    async def newest() -> dict[str, object]:
        events = await admin.ok("GET", path)
        return dict(events[0]["data"]) if events else {}

    data = await found(newest, lambda seen: seen.get("kid") == kid, "the event is in the log")
    assert set(data) == {"kid", "algorithm", "signs_from"}
