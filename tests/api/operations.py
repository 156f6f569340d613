"""Every operation of the contract, and a request for it that names what exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from server.contract import Contract, Operation
from server.resources import openapi_path
from tests.api.running import Agent, Api, RunningNode
from tests.contract.hostile import example_body, path_of

CONTRACT = Contract.load(openapi_path())
OPERATIONS = [pytest.param(one, id=one.operation_id) for one in CONTRACT.operations.values()]


@dataclass(frozen=True)
class Existing:
    """One of each resource that a path can name."""

    agent: Agent
    task_id: str
    lease_id: str

    def target(self, operation: Operation) -> str:
        """The path of the operation on what exists."""
        return path_of(operation, self.value(operation))

    def value(self, operation: Operation) -> str:
        """What fills the parameter of the path."""
        named = {"agent_id": self.agent.agent_id, "task_id": self.task_id}
        named["lease_id"] = self.lease_id
        return next(
            (named[one.name] for one in operation.parameters if one.location == "path"), "none"
        )


async def make_existing(node: RunningNode, admin: Api, owner: Api) -> Existing:
    """An agent with a lease on a task of the owner."""
    capability = "existing-work"
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await owner.submit(required_capabilities=[capability])
    lease = await agent.lease(task_id)
    return Existing(agent, task_id, lease.lease_id)


async def send_example(
    api: httpx.AsyncClient, operation: Operation, target: str, **options: Any
) -> httpx.Response:
    """The example request of the contract, on the target."""
    body = {} if operation.body is None else {"json": example_body(operation)}
    return await api.request(operation.method, target, **body, **options)
