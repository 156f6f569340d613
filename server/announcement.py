"""What the process of an agent says of itself when it connects, taken over by the hive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hive import agents as machine
from hive.agents import Agent
from hive.changes import Actor
from hive.ports import Agents


async def announce(agents: Agents, agent_id: str, hello: Mapping[str, Any], actor: Actor) -> Agent:
    """Take a sign of life and what is in `hello`. Raises AgentNotFound."""
    await agents.heard_of(agent_id, controls_taken=None)
    capabilities = hello.get("capabilities")
    return await agents.change(
        agent_id,
        lambda agent: machine.announce(
            agent,
            capabilities=None if capabilities is None else tuple(capabilities),
            slots=hello.get("slots"),
            version=hello.get("version", agent.agent_version),
        ),
        actor,
    )
