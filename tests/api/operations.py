"""Every operation of the contract, and a request for it that names what exists."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from hive.permissions import Role
from server.contract import Operation
from tests.api.running import PASSWORD, Agent, Api, RunningNode, found
from tests.contract.hostile import ANY_VERSION, example_body, required_query
from tests.contracts import our_contract

CONTRACT = our_contract()
OPERATIONS = [pytest.param(one, id=one.operation_id) for one in CONTRACT.operations.values()]


@dataclass(frozen=True)
class Existing:
    """One of each resource that a path can name, by the name of its parameter."""

    agent: Agent
    task_id: str
    lease_id: str
    named: Mapping[str, str]

    def target(self, operation: Operation) -> str:
        """The path of the operation on what exists."""
        return operation.path.format_map(self.named)

    def values(self, operation: Operation) -> list[str]:
        """What fills the parameters of the path, in their order."""
        return [self.named[name] for name in re.findall(r"\{(\w+)\}", operation.path)]


async def make_existing(node: RunningNode, admin: Api, owner: Api) -> Existing:
    """An agent with a lease on a task of the owner, and the owner's session and keys."""
    capability = "existing-work"
    agent = await node.add_agent(admin, capabilities=[capability])
    task_id = await owner.submit(required_capabilities=[capability])
    lease = await agent.lease(task_id)
    me = await owner.ok("GET", "/api/v1/auth/me")
    key = await owner.ok("POST", "/api/v1/api-keys", json={"name": "existing"})
    signing_key_id = await add_signing_key(node, admin)
    body = {"name": "existing", "task": {"name": "work"}, "interval_seconds": 31536000}
    schedule = await owner.ok("POST", "/api/v1/schedules", json=body)
    (record,) = await found(
        lambda: admin.ok("GET", "/api/v1/audit", params={"limit": 1}), bool, "a record is there"
    )
    artifact = lease.path("artifacts/existing")
    octets = {"Content-Type": "application/octet-stream"}
    proof = {"fence": lease.fence}
    await lease.api.ok("PUT", artifact, params=proof, content=b"existing", headers=octets)
    mailbox = f"/api/v1/agents/{agent.agent_id}/messages"
    message = await owner.ok("POST", mailbox, json={"data": {"topic": "existing"}})
    named = {
        "agent_id": agent.agent_id,
        "task_id": task_id,
        "lease_id": lease.lease_id,
        "user_id": me["principal_id"],
        "session_id": me["session_id"],
        "key_id": key["key_id"],
        "signing_key_id": signing_key_id,
        "schedule_id": schedule["schedule_id"],
        "record_id": record["record_id"],
        "message_id": message["message_id"],
        "artifact_name": "existing",
    }
    return Existing(agent, task_id, lease.lease_id, named)


async def add_signing_key(node: RunningNode, admin: Api) -> str:
    """A signing key of somebody who does nothing else: whoever has one has to sign."""
    signer = await add_person(node, admin, Role.USER)
    body = {"name": "existing", "algorithm": "hmac-sha256"}
    return str((await signer.ok("POST", "/api/v1/signing-keys", json=body))["signing_key_id"])


async def add_person(node: RunningNode, admin: Api, role: Role) -> Api:
    """A new user of this role, logged in."""
    username = f"{role.value}-{uuid.uuid4().hex[:12]}"
    body = {"username": username, "password": PASSWORD, "role": role.value}
    await admin.ok("POST", "/api/v1/users", json=body)
    return await node.log_in(username)


async def send_example(
    api: httpx.AsyncClient, operation: Operation, target: str, **options: Any
) -> httpx.Response:
    """The example request of the contract, on the target."""
    body = {} if operation.body is None else {"json": example_body(operation)}
    headers = {**ANY_VERSION, **options.pop("headers", {})}
    options.setdefault("params", required_query(operation))
    return await api.request(operation.method, target, headers=headers, **{**body, **options})
