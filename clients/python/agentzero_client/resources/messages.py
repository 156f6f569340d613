"""Messages to agents: `client.messages`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentzero_client.address import segment
from agentzero_client.coordination_models import AgentMessage, BroadcastResult, MessageReceipt
from agentzero_client.decoding import decode_model
from agentzero_client.http import Http
from agentzero_client.retrying import Repeat

WAIT_MARGIN_SECONDS = 10.0


class AsyncMessages:
    """`client.messages`. A message comes until it is acknowledged or expires."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def send(
        self, agent_id: str, data: Any, *, expires_in_seconds: int | None = None
    ) -> MessageReceipt:
        """Send any JSON of at most 64 KiB. Raise NotFoundError, RateLimitedError `mailbox-full`."""
        body = {"data": data, **_expiry(expires_in_seconds)}
        answer = await self._http.request("POST", _box(agent_id), body=body, repeat=Repeat.KEYED)
        return decode_model(MessageReceipt, answer.body)

    async def broadcast(
        self,
        data: Any,
        *,
        capabilities: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        agent_type: str | None = None,
        status: str | None = None,
        expires_in_seconds: int | None = None,
    ) -> BroadcastResult:
        """Send to every agent that has all that is given; to all agents when nothing is."""
        given: dict[str, Any] = {
            "capabilities": list(capabilities),
            "labels": dict(labels or {}),
            "agent_type": agent_type,
            "status": status,
        }
        body = {
            "data": data,
            "selector": {name: value for name, value in given.items() if value},
            **_expiry(expires_in_seconds),
        }
        path = "/api/v1/hive/broadcast"
        answer = await self._http.request("POST", path, body=body, repeat=Repeat.KEYED)
        return decode_model(BroadcastResult, answer.body)

    async def read(
        self, agent_id: str, *, wait_seconds: float = 0.0, limit: int = 50
    ) -> Sequence[AgentMessage]:
        """The oldest messages of the mailbox, waiting up to `wait_seconds` (30) for the first."""
        answer = await self._http.request(
            "GET",
            f"{_box(agent_id)}?wait_seconds={wait_seconds}&limit={limit}",
            timeout_seconds=wait_seconds + WAIT_MARGIN_SECONDS,
        )
        return [decode_model(AgentMessage, {**one, "sender": one["from"]}) for one in answer.body]

    async def acknowledge(self, agent_id: str, message_id: str) -> None:
        """Take a message off the mailbox; again, it changes nothing. Raise NotFoundError."""
        path = f"{_box(agent_id)}/{segment(message_id)}/acknowledge"
        await self._http.request("POST", path, repeat=Repeat.REPEATABLE)


def _expiry(seconds: int | None) -> dict[str, int]:
    return {} if seconds is None else {"expires_in_seconds": seconds}


def _box(agent_id: str) -> str:
    return f"/api/v1/agents/{segment(agent_id)}/messages"
