"""Refresh tokens: one live successor, a grace for lost answers, and the end of a stolen family."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text

from hive.errors import InvalidToken
from hive.identity_ports import TokenPair
from hive.secrets import REFRESH_TOKEN, fingerprint
from tests.identity.node import ACTOR, PASSWORD, Clock, Node, build

ROOT = Path(__file__).resolve().parents[2]

# One of several processes: exchanges the token many times at once, and prints what each one gave.
PROCESS = """
import asyncio, json, sys
from tests.identity.node import ACTOR, build

async def main(url, token, times):
    node = build(url)
    print("ready", flush=True)
    sys.stdin.readline()
    answers = await asyncio.gather(
        *(node.accounts.refresh(token) for _ in range(times)), return_exceptions=True
    )
    print(json.dumps([getattr(answer, "refresh_token", repr(answer)) for answer in answers]))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def _login(node: Node) -> TokenPair:
    await node.add_user()
    return await node.accounts.login("ann", PASSWORD)


async def _live_tokens(node: Node) -> int:
    query = text(
        "SELECT count(*) FROM refresh_tokens JOIN sessions USING (session_id)"
        " WHERE used_at IS NULL AND revoked_at IS NULL"
    )
    return int(await node.database.read(lambda sql: sql.scalar(query)) or 0)


async def test_refresh_gives_a_new_pair_that_works(node: Node) -> None:
    """The successor is another token, and the new access token is of the same session."""
    first = await _login(node)
    before = await node.authenticator.authenticate(first.access_token)
    second = await node.accounts.refresh(first.refresh_token)
    after = await node.authenticator.authenticate(second.access_token)
    assert second.refresh_token != first.refresh_token
    assert after.session_id == before.session_id
    assert REFRESH_TOKEN.is_well_formed(second.refresh_token)


async def test_hundred_concurrent_exchanges_give_one_successor(node: Node) -> None:
    """Whoever asks gets the same token, and only one token of the family is live."""
    first = await _login(node)
    pairs = await asyncio.gather(*(node.accounts.refresh(first.refresh_token) for _ in range(100)))
    assert len({pair.refresh_token for pair in pairs}) == 1
    assert await _live_tokens(node) == 1


async def test_three_processes_exchange_one_token_without_a_fork(node: Node, url: str) -> None:
    """A hundred exchanges spread over three processes: still one successor, and it works."""
    first = await _login(node)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROCESS,
            url,
            first.refresh_token,
            str(times),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        for times in (34, 33, 33)
    ]
    try:
        async with asyncio.timeout(60):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            outputs = await asyncio.gather(*(each.communicate(b"go\n") for each in processes))
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    answers = Counter(answer for output, _ in outputs for answer in json.loads(output))
    assert len(answers) == 1, answers
    assert answers.total() == 100
    assert await _live_tokens(node) == 1
    third = await node.accounts.refresh(next(iter(answers)))
    assert (await node.authenticator.authenticate(third.access_token)).name == "ann"


async def test_lost_answer_can_be_asked_for_again(node: Node, clock: Clock) -> None:
    """Nine seconds later the same successor is given, and it is good for the next exchange."""
    clock.stop()
    first = await _login(node)
    second = await node.accounts.refresh(first.refresh_token)
    clock.advance(seconds=9)
    again = await node.accounts.refresh(first.refresh_token)
    assert again.refresh_token == second.refresh_token
    assert (await node.accounts.refresh(second.refresh_token)).refresh_token


async def test_another_node_gives_the_same_successor(node: Node, url: str) -> None:
    """The grace does not depend on who answered first."""
    first = await _login(node)
    other = build(url)
    second = await node.accounts.refresh(first.refresh_token)
    assert (await other.accounts.refresh(first.refresh_token)).refresh_token == (
        second.refresh_token
    )
    other.passwords.close()
    other.database.close()


async def test_reuse_after_the_grace_kills_the_family(node: Node, clock: Clock) -> None:
    """Neither the thief nor the owner can go on; the access token is refused at once too."""
    first = await _login(node)
    second = await node.accounts.refresh(first.refresh_token)
    clock.advance(seconds=11)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(first.refresh_token)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(second.refresh_token)
    with pytest.raises(InvalidToken):
        await node.authenticator.authenticate(second.access_token)
    assert await _live_tokens(node) == 0


async def test_reuse_after_the_successor_was_used_kills_the_family(node: Node) -> None:
    """Within the grace too: whoever used the successor has had the answer."""
    first = await _login(node)
    second = await node.accounts.refresh(first.refresh_token)
    third = await node.accounts.refresh(second.refresh_token)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(first.refresh_token)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(third.refresh_token)


async def test_one_family_dies_alone(node: Node, clock: Clock) -> None:
    """The user's other sessions go on."""
    first = await _login(node)
    elsewhere = await node.accounts.login("ann", PASSWORD)
    await node.accounts.refresh(first.refresh_token)
    clock.advance(seconds=11)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(first.refresh_token)
    assert (await node.accounts.refresh(elsewhere.refresh_token)).access_token


async def test_unused_for_a_week_is_the_end(node: Node, clock: Clock) -> None:
    """Each exchange gives another week, up to thirty days after the login."""
    pair = await _login(node)
    for _ in range(4):
        clock.advance(days=6.9)
        pair = await node.accounts.refresh(pair.refresh_token)
    clock.advance(days=2.5)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(pair.refresh_token)
    idle = await node.accounts.login("ann", PASSWORD)
    clock.advance(days=7.1)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(idle.refresh_token)


async def test_disabled_user_can_not_refresh(node: Node) -> None:
    """The family of a disabled user is over."""
    first = await _login(node)
    found = await node.store.find_credentials("ann")
    assert found is not None
    await node.store.change_user(found[0].user_id, disabled=True)
    with pytest.raises(InvalidToken):
        await node.accounts.refresh(first.refresh_token)


async def test_malformed_tokens_cost_no_database(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An access token, an API key and junk are refused before any question."""
    first = await _login(node)

    async def refuse(*_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(node.store, "exchange_refresh", refuse)
    for junk in ("", first.access_token, "azk_" + "0" * 39, first.refresh_token[:-1] + "_"):
        with pytest.raises(InvalidToken):
            await node.accounts.refresh(junk)


async def test_only_hashes_are_stored(sqlite_node: Node, sqlite_url: str) -> None:
    """No file of the database holds a token, a key or a password."""
    first = await _login(sqlite_node)
    second = await sqlite_node.accounts.refresh(first.refresh_token)
    key = await sqlite_node.api_keys.issue_agent_key("agt_1", "worker", ACTOR)
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    content = b"".join(each.read_bytes() for each in path.parent.iterdir())
    assert fingerprint(second.refresh_token).encode() in content
    for secret in (first.refresh_token, second.refresh_token, key.secret, PASSWORD):
        assert secret.encode() not in content
        assert secret.encode()[12:30] not in content
