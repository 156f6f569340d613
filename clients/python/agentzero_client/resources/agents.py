"""Agents: the registry, and what an agent says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from agentzero_client.address import segment
from agentzero_client.decoding import decode_list, decode_model
from agentzero_client.http import Http
from agentzero_client.models import (
    Agent,
    AgentAction,
    AgentControlResult,
    AgentDetail,
    AgentRegistered,
    AgentStatus,
    HeartbeatReply,
    Lease,
)
from agentzero_client.paging import Order, label_filter, pages
from agentzero_client.retrying import Repeat

PATH = "/api/v1/agents"
CLAIM_MARGIN_SECONDS = 10.0


class AsyncAgents:
    """`client.agents`. A refusal raises ProblemError, no answer ConnectionFailedError."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def register(
        self,
        name: str,
        *,
        agent_type: str | None = None,
        capabilities: Sequence[str] = (),
        slots: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AgentRegistered:
        """Register an agent (admins); its API key comes once.

        Raise ConflictError `name-taken`, SecretLostError when the answer was lost on its way.
        """
        body: dict[str, Any] = {"name": name, "capabilities": list(capabilities)}
        if agent_type is not None:
            body["agent_type"] = agent_type
        if slots is not None:
            body["slots"] = slots
        if labels:
            body["labels"] = dict(labels)
        answer = await self._http.request("POST", PATH, body=body, repeat=Repeat.KEYED)
        return decode_model(AgentRegistered, answer.body)

    def list(
        self,
        *,
        status: AgentStatus | None = None,
        agent_type: str | None = None,
        capability: str | None = None,
        labels: Mapping[str, str] | None = None,
        order: Order | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Agent]:
        """Iterate over agents, by default oldest first; `limit` bounds the whole iteration."""
        filters = {
            "status": status,
            "agent_type": agent_type,
            "capability": capability,
            "label": label_filter(labels),
            "order": order,
        }
        return pages(self._http, PATH, Agent, filters, limit)

    async def get(self, agent_id: str) -> AgentDetail:
        """One agent with its current leases. Raise NotFoundError."""
        answer = await self._http.request("GET", _of(agent_id))
        return decode_model(AgentDetail, answer.body)

    async def update(
        self,
        agent_id: str,
        *,
        name: str,
        agent_type: str,
        capabilities: Sequence[str],
        slots: int,
        labels: Mapping[str, str],
        if_match: int | None = None,
    ) -> Agent:
        """Replace the configuration of an agent (admins), only of the version `if_match` if given.

        Raise PreconditionFailedError when the agent has another version.
        """
        body = {
            "name": name,
            "agent_type": agent_type,
            "capabilities": list(capabilities),
            "slots": slots,
            "labels": dict(labels),
        }
        answer = await self._http.request("PUT", _of(agent_id), body=body, version=if_match)
        return decode_model(Agent, answer.body)

    async def unregister(self, agent_id: str, *, if_match: int | None = None) -> None:
        """Remove an agent from the hive and revoke its key (admins); `if_match` as in `update`."""
        await self._http.request("DELETE", _of(agent_id), version=if_match)

    async def control(
        self,
        agent_id: str,
        action: AgentAction,
        *,
        reason: str | None = None,
        deadline_seconds: int | None = None,
    ) -> AgentControlResult:
        """Pause, resume, drain (enforced by the server), or ask the process to restart or stop.

        What a draining agent still holds when `deadline_seconds` are over is taken back.
        """
        given = {"action": action, "reason": reason, "deadline_seconds": deadline_seconds}
        body = {name: value for name, value in given.items() if value is not None}
        answer = await self._http.request("POST", f"{_of(agent_id)}/control", body=body)
        return decode_model(AgentControlResult, answer.body)

    async def heartbeat(
        self,
        agent_id: str,
        *,
        free_slots: int | None = None,
        load: float | None = None,
        controls_taken: int | None = None,
    ) -> HeartbeatReply:
        """Say that the agent is alive, and learn what is wanted of it."""
        said = {"free_slots": free_slots, "load": load, "controls_taken": controls_taken}
        answer = await self._http.request(
            "POST",
            f"{_of(agent_id)}/heartbeat",
            body={name: value for name, value in said.items() if value is not None},
            repeat=Repeat.REPEATABLE,
        )
        return decode_model(HeartbeatReply, answer.body)

    async def claim(
        self, agent_id: str, *, max_leases: int = 1, wait_seconds: float = 0.0
    ) -> Sequence[Lease]:
        """Lease up to `max_leases` tasks, waiting up to `wait_seconds` (at most 30) for one."""
        answer = await self._http.request(
            "POST",
            f"{_of(agent_id)}/leases",
            body={"max_leases": max_leases, "wait_seconds": wait_seconds},
            timeout_seconds=wait_seconds + CLAIM_MARGIN_SECONDS,
        )
        return decode_list(Lease, answer.body)


def _of(agent_id: str) -> str:
    return f"{PATH}/{segment(agent_id)}"
