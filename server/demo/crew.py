"""The two agents of a demo: who they are, and their processes.

A demo takes the first free *place*, a numbered lock file, and with it the agents that a demo at
this place had before; demos at the same time have different agents. Beside what it can do an agent
of a crew has a capability that is the crew's alone, and every task of the demo requires it: an
agent elsewhere could not see the files.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from agentzero_client import AsyncClient, AuthenticationError, ConflictError, NotFoundError
from server.demo.children import Child, end
from server.demo.failure import DemoFailed
from server.demo.leftovers import cancel_tasks, release_leases
from server.demo.locks import FileLock
from server.demo.merging import MERGE
from server.demo.sources import CSV, TEXT

AGENTS = 2
SLOTS = 2
END_SECONDS = 8.0
WATCH_SECONDS = 0.25
AGENT_ID_VARIABLE = "AGENTZERO_AGENT_ID"
API_KEY_VARIABLE = "AGENTZERO_API_KEY"
SERVER_VARIABLE = "AGENTZERO_SERVER"

_MOST_PLACES = 100
_NAME_ATTEMPTS = 5
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Identity:
    """A registered agent, and its key."""

    name: str
    agent_id: str
    api_key: str = field(repr=False)


@dataclass(slots=True)
class Crew:
    """Agents at work. With `stays` they outlive the demo."""

    capability: str
    names: dict[str, str]
    children: list[Child]
    stays: bool = False


@asynccontextmanager
async def open_crew(
    client: AsyncClient, url: str, directory: Path, *, may_stay: bool
) -> AsyncIterator[Crew]:
    """Have two agents at work for the time of the context; `client` is an admin's.

    They are ended with it (running tasks may finish), unless they `may_stay` and `stays` was set.
    Raises DemoFailed.
    """
    number, place = _take_place(directory)
    crew: Crew | None = None
    children: list[Child] = []
    try:
        first = AGENTS * (number - 1) + 1
        leader = await _find_or_register(client, directory / f"demo-agent-{first}.json", None)
        identities = [leader]
        for other in range(first + 1, first + AGENTS):
            path = directory / f"demo-agent-{other}.json"
            identities.append(await _find_or_register(client, path, leader.name))
        capability = own_capability(leader.name)
        names = {identity.agent_id: identity.name for identity in identities}
        await cancel_tasks(client, capability)
        await release_leases(client, names)
        for identity in identities:
            child = _start(identity, leader.name, url, directory, place, kept=may_stay)
            children.append(child)
        crew = Crew(capability, names, children)
        yield crew
    finally:
        try:
            if crew is None or not crew.stays:
                await end(children, END_SECONDS)
        finally:
            place.close()


async def watch_over(crew: Crew) -> NoReturn:
    """Raise DemoFailed when no agent is left."""
    # A process that ends sets no event.
    while any(child.is_running for child in crew.children):  # noqa: ASYNC110
        await asyncio.sleep(WATCH_SECONDS)
    raise crew.children[0].failure()


def own_capability(leader: str) -> str:
    """What only the crew has whose first agent is `leader`; names are unique in a hive."""
    return f"crew.{leader}"


def capabilities_of(leader: str) -> list[str]:
    """All that an agent of the crew can do."""
    return [TEXT, CSV, MERGE, own_capability(leader)]


def _take_place(directory: Path) -> tuple[int, FileLock]:
    for number in range(1, _MOST_PLACES + 1):
        lock = FileLock(directory / f"place-{number}.lock")
        if lock.try_take():
            return number, lock
        lock.close()
    raise DemoFailed(f"{_MOST_PLACES} demos are running already.")


async def _find_or_register(client: AsyncClient, path: Path, leader: str | None) -> Identity:
    kept = _read(path)
    if kept is not None and await _is_good(client, kept, leader or kept.name):
        return kept
    name = path.stem
    for _ in range(_NAME_ATTEMPTS):
        try:
            made = await client.agents.register(
                name,
                agent_type="demo",
                capabilities=capabilities_of(leader or name),
                slots=SLOTS,
            )
        except ConflictError as error:
            if error.code != "name-taken":
                raise
            # Its key is not here: another data directory's, or ours was deleted.
            name = f"{path.stem}-{secrets.token_hex(2)}"
        else:
            identity = Identity(name, made.agent_id, made.api_key)
            _write(path, identity)
            return identity
    raise DemoFailed(f"No name is free for {path.stem}.")


async def _is_good(client: AsyncClient, kept: Identity, leader: str) -> bool:
    """Whether the hive knows it, under its key; its registration is brought up to date."""
    try:
        agent = await client.agents.get(kept.agent_id)
        async with AsyncClient(
            client.http.base_url, api_key=kept.api_key, trust_env=client.http.trust_env
        ) as own:
            if (await own.auth.me()).agent_id != kept.agent_id:
                return False
    except (NotFoundError, AuthenticationError):
        return False
    wanted = capabilities_of(leader)
    if set(agent.capabilities) != set(wanted) or agent.slots != SLOTS or agent.name != kept.name:
        await client.agents.update(
            kept.agent_id,
            name=kept.name,
            agent_type=agent.agent_type,
            capabilities=wanted,
            slots=SLOTS,
            labels=agent.labels,
        )
    if agent.desired_state != "active":
        await client.agents.control(kept.agent_id, "resume")
    return True


def _start(
    identity: Identity, leader: str, url: str, directory: Path, place: FileLock, *, kept: bool
) -> Child:
    return Child(
        f"Agent {identity.name}",
        "server.demo.agent",
        identity.name,
        leader,
        env={
            SERVER_VARIABLE: url,
            AGENT_ID_VARIABLE: identity.agent_id,
            API_KEY_VARIABLE: identity.api_key,
        },
        log_path=directory / f"{identity.name}.log",
        kept=kept,
        # The place is taken as long as one of its agents runs.
        pass_fds=[place.descriptor],
    )


def _read(path: Path) -> Identity | None:
    try:
        return Identity(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        # A damaged one is as good as none: the agent gets another name.
        return None


def _write(path: Path, identity: Identity) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(asdict(identity), file)
    draft.replace(path)
