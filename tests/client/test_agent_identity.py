"""Who an agent is: registration once, the same identity ever after."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from agentzero_client import Agent, AgentIdentityError
from tests.client.fake_hive import FakeHive


def list_files(folder: Path) -> list[Path]:
    """What is in a folder."""
    return list(folder.iterdir())


def only_file(folder: Path) -> Path:
    """The one file of a folder."""
    (file,) = list_files(folder)
    return file


async def test_first_start_registers_and_keeps_the_identity(
    hive: FakeHive, running: Any, tmp_path: Path
) -> None:
    """The file is the owner's alone; the second start uses it, without the registration key."""
    first = Agent(
        "a",
        server=hive.url,
        capabilities=["c"],
        slots=3,
        agent_type="x",
        labels={"zone": "eu"},
        registration_key="admin-key",
        state_directory=tmp_path,
    )
    async with running(first):
        (agent_id,) = await hive.until(lambda: hive.links)
    file = only_file(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert hive.agents[agent_id]["slots"] == 3
    assert hive.agents[agent_id]["labels"] == {"zone": "eu"}
    await hive.until(lambda: not hive.links)
    async with running(Agent("a", server=hive.url, state_directory=tmp_path)):
        assert list(await hive.until(lambda: hive.links)) == [agent_id]
    assert len(hive.agents) == 1


async def test_registration_key_may_be_in_a_file(
    hive: FakeHive, running: Any, tmp_path: Path
) -> None:
    """Such as the server's `operator.key`."""
    (tmp_path / "operator.key").write_text("admin-key\n")
    agent = Agent("a", server=hive.url, registration_key_file=tmp_path / "operator.key")
    async with running(agent):
        await hive.until(lambda: hive.links)


async def test_environment_gives_identity_and_server(
    hive: FakeHive, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container needs no state; the key alone tells its agent."""
    agent_id, key = hive.add_agent("a")
    monkeypatch.setenv("AGENTZERO_SERVER", hive.url)
    monkeypatch.setenv("AGENTZERO_API_KEY", key)
    async with running(Agent("any name")):
        assert list(await hive.until(lambda: hive.links)) == [agent_id]


async def test_name_that_is_taken_says_what_to_do(hive: FakeHive, tmp_path: Path) -> None:
    """The error names the file that would have had the key."""
    hive.add_agent("a")
    agent = Agent("a", server=hive.url, registration_key="admin-key", state_directory=tmp_path)
    with pytest.raises(AgentIdentityError, match="'a' is taken") as caught:
        await agent.serve()
    assert str(tmp_path) in str(caught.value)
    assert not list_files(tmp_path)


async def test_no_identity_at_all_says_what_to_do(hive: FakeHive) -> None:
    """Every way out is named."""
    with pytest.raises(AgentIdentityError, match="AGENTZERO_REGISTRATION_KEY"):
        await Agent("a", server=hive.url).serve()


async def test_key_that_is_no_agents_is_refused(hive: FakeHive) -> None:
    """An admin's key in the wrong place."""
    with pytest.raises(AgentIdentityError, match="is no agent"):
        await Agent("a", server=hive.url, api_key="admin-key").serve()
    with pytest.raises(AgentIdentityError, match="refused"):
        await Agent("a", server=hive.url, api_key="wrong").serve()
    with pytest.raises(AgentIdentityError, match="may not register"):
        await Agent("b", server=hive.url, registration_key="wrong").serve()


async def test_damaged_state_is_not_overwritten(
    hive: FakeHive, running: Any, tmp_path: Path
) -> None:
    """A new registration would find the name taken."""
    agent = Agent("a", server=hive.url, registration_key="admin-key", state_directory=tmp_path)
    async with running(agent):
        await hive.until(lambda: hive.links)
    file = only_file(tmp_path)
    file.write_text(json.dumps({"agent_id": 1})[:-1])
    with pytest.raises(AgentIdentityError, match="can't be read"):
        await agent.serve()


async def test_folder_that_can_not_be_written_is_found_before_registering(
    hive: FakeHive, tmp_path: Path
) -> None:
    """A key that is shown once must have a place to go."""
    (tmp_path / "file").write_text("")
    agent = Agent(
        "a", server=hive.url, registration_key="admin-key", state_directory=tmp_path / "file"
    )
    with pytest.raises(AgentIdentityError, match="can't"):
        await agent.serve()
    assert hive.agents == {}


async def test_server_that_is_not_there_yet_is_waited_for(hive: FakeHive, running: Any) -> None:
    """Agents and server may start in any order."""
    await hive.stop()
    async with running(Agent("a", server=hive.url, registration_key="admin-key")):
        await hive.start()
        await hive.until(lambda: hive.links)


async def test_stop_ends_the_wait_for_a_server(hive: FakeHive) -> None:
    """Nothing has to be drained then."""
    await hive.stop()
    agent = Agent("a", server=hive.url, registration_key="admin-key")
    serving = asyncio.create_task(agent.serve())
    await asyncio.sleep(0)
    agent.stop()
    assert (await asyncio.wait_for(serving, 10)).value == "stopped"
