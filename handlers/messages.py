"""Messages to agents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from handlers.context import Context, Reply
from handlers.pages import open_page
from hive import messages as machine
from hive.agents import Agent, AgentStatus
from hive.messages import (
    EXPIRES_IN_SECONDS,
    MailboxFull,
    Message,
    Selector,
    TooManyRecipients,
)
from hive.permissions import require_agent
from hive.ports import AgentFilter

AT_ONCE = 16
"""Messages of a broadcast that are written at the same time."""
PAGE = 200


async def send_message(context: Context, *, agent_id: str, body: dict[str, Any]) -> Reply:
    """Put a message into the mailbox of one agent."""
    await context.services.agents.get(agent_id)
    message = await _send(context, agent_id, context.new_id("msg"), body)
    return Reply(_receipt(message))


async def broadcast_message(context: Context, *, body: dict[str, Any]) -> Reply:
    """Put a message into the mailbox of each agent that is selected."""
    agents = await _selected(context, _selector(body.get("selector", {})))
    identifiers = [context.new_id("msg") for _ in agents]
    sent = full = 0
    for start in range(0, len(agents), AT_ONCE):
        batch = zip(agents[start : start + AT_ONCE], identifiers[start:], strict=False)
        outcomes = await asyncio.gather(
            *(_send(context, agent.agent_id, message_id, body) for agent, message_id in batch),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, MailboxFull):
                full += 1
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                sent += 1
    return Reply({"matched": len(agents), "sent": sent, "full": full})


async def list_messages(
    context: Context,
    *,
    agent_id: str,
    wait_seconds: float,
    limit: int,
    cursor: str | None,
    fields: list[str] | None,
) -> Reply:
    """What waits in the mailbox, the oldest first."""
    services = context.services
    require_agent(context.caller, agent_id)
    await services.agents.get(agent_id)
    path = f"/api/v1/agents/{agent_id}/messages"
    page = open_page(
        context, "list_messages", path, cursor=cursor, limit=limit, fields=fields, query={}
    )
    messages = await services.coordination.mailboxes.wait(
        agent_id, after=page.position, limit=limit + 1, wait_seconds=wait_seconds
    )
    shown = messages[:limit]
    return page.reply(
        [_view(message) for message in shown],
        last=shown[-1].message_id if len(messages) > limit else None,
    )


async def acknowledge_message(context: Context, *, agent_id: str, message_id: str) -> Reply:
    """Take a message off the mailbox."""
    require_agent(context.caller, agent_id)
    await context.services.coordination.messages.acknowledge(agent_id, message_id)
    return Reply({"message_id": message_id, "acknowledged": True})


async def _send(context: Context, agent_id: str, message_id: str, body: dict[str, Any]) -> Message:
    messages = context.services.coordination.messages
    seconds = body.get("expires_in_seconds", EXPIRES_IN_SECONDS)
    change = machine.send(agent_id, context.caller.principal_id, body["data"], seconds)
    message = await messages.send(message_id, change, context.actor)
    if message.agent_id != agent_id:
        # A repeated broadcast meets other agents than the first time, in another order.
        other_id = context.services.identifiers.new("msg")
        message = await messages.send(other_id, change, context.actor)
    return message


async def _selected(context: Context, selector: Selector) -> Sequence[Agent]:
    """The agents that are meant. Raises TooManyRecipients."""
    wanted = AgentFilter(
        status=AgentStatus(selector.status) if selector.status else None,
        agent_type=selector.agent_type,
        capability=selector.capabilities[0] if selector.capabilities else None,
        labels=selector.labels,
    )
    selected: list[Agent] = []
    after: str | None = None
    while page := await context.services.agents.list(wanted, after=after, limit=PAGE):
        selected += [agent for agent in page if selector.selects(agent)]
        if len(selected) > machine.MOST_RECIPIENTS:
            raise TooManyRecipients
        after = page[-1].agent_id
    return selected


def _selector(given: dict[str, Any]) -> Selector:
    return Selector(
        capabilities=tuple(given.get("capabilities", ())),
        labels=tuple(given.get("labels", {}).items()),
        agent_type=given.get("agent_type"),
        status=given.get("status"),
    )


def _receipt(message: Message) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "agent_id": message.agent_id,
        "created_at": message.created_at,
        "expires_at": message.expires_at,
    }


def _view(message: Message) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "from": message.sender,
        "data": message.data,
        "version": message.version,
        "created_at": message.created_at,
        "expires_at": message.expires_at,
    }
