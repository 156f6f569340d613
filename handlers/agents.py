"""Agents: the processes that do the work."""

from __future__ import annotations

from typing import Any

from handlers.context import Context, Reply
from handlers.pages import open_page, read_labels
from handlers.views import agent_view, control_view, held_lease_view, lease_view
from hive import agents as machine
from hive.agents import Agent, AgentAction, AgentSpec, AgentStatus
from hive.changes import Change
from hive.errors import AgentNotFound, NameTaken
from hive.idempotency import UndoneMeanwhile
from hive.permissions import require_agent
from hive.ports import AgentFilter
from hive.preconditions import ExpectedVersions, expecting, read_if_match

PATH = "/api/v1/agents"


async def list_agents(
    context: Context,
    *,
    status: str | None,
    agent_type: str | None,
    capability: str | None,
    label: list[str] | None,
    order: str,
    limit: int,
    cursor: str | None,
    fields: list[str] | None,
) -> Reply:
    """Registered agents, by the time they registered."""
    page = open_page(
        context,
        "list_agents",
        PATH,
        cursor=cursor,
        limit=limit,
        fields=fields,
        query={
            "status": status,
            "agent_type": agent_type,
            "capability": capability,
            "label": label,
            "order": order,
        },
    )
    wanted = AgentFilter(
        status=AgentStatus(status) if status else None,
        agent_type=agent_type,
        capability=capability,
        labels=read_labels(label),
    )
    agents = await context.services.agents.list(
        wanted, after=page.position, limit=limit + 1, newest_first=order == "desc"
    )
    shown = agents[:limit]
    return page.reply(
        [agent_view(agent) for agent in shown],
        last=shown[-1].agent_id if len(agents) > limit else None,
    )


async def register_agent(context: Context, *, body: dict[str, Any]) -> Reply:
    """Register an agent and make its credential, which is shown here and never again."""
    services = context.services
    agent_id, seed = context.new_id("agt"), context.new_seed("key")
    spec = _spec(body)
    # The key first: a kill in between leaves a key of nobody, not an agent that can't come in.
    issued = await services.api_keys.issue_agent_key(
        agent_id, spec.name, context.actor, seed, owner_id=context.caller.principal_id
    )
    if issued.key.revoked_at is not None:
        # This request was carried out before: refused, or its agent was unregistered.
        raise UndoneMeanwhile
    try:
        agent = await services.agents.insert(agent_id, machine.register(spec), context.actor)
    except NameTaken:
        await services.api_keys.revoke_agent_keys(agent_id, context.actor)
        raise
    view = agent_view(agent) | {"api_key": issued.secret}
    return Reply(view, headers={"Location": f"{PATH}/{agent_id}"})


async def get_agent(context: Context, *, agent_id: str) -> Reply:
    """One agent with its current leases."""
    agent = await context.services.agents.get(agent_id)
    held = await context.services.tasks.held_by(agent_id)
    is_holder = context.caller.is_admin or context.caller.agent_id == agent_id
    leases = [held_lease_view(task, is_holder=is_holder) for task in held]
    return Reply({**agent_view(agent), "leases": leases})


async def update_agent(
    context: Context, *, agent_id: str, if_match: str | None, body: dict[str, Any]
) -> Reply:
    """Replace the configuration of an agent."""
    spec = _spec(body)

    def decide(agent: Agent) -> Change | None:
        return machine.update(agent, spec)

    agent = await context.services.agents.change(
        agent_id, expecting(read_if_match(if_match), decide), context.actor
    )
    return Reply(agent_view(agent))


async def unregister_agent(context: Context, *, agent_id: str, if_match: str | None) -> Reply:
    """Remove an agent from the hive and revoke its credential."""
    services = context.services
    if expected := read_if_match(if_match):
        await _unregister_expected(context, agent_id, expected)
    else:
        await services.agents.get(agent_id)
        # The keys first: a kill in between leaves an agent that can be unregistered again.
        await services.api_keys.revoke_agent_keys(agent_id, context.actor)
        await services.agents.change(agent_id, machine.unregister, context.actor)
    return Reply({"message": "Agent unregistered successfully"})


async def control_agent(context: Context, *, agent_id: str, body: dict[str, Any]) -> Reply:
    """Pause, resume or drain at once; ask the process to restart or stop."""
    services = context.services
    action = AgentAction(body["action"])
    running = len(await services.tasks.held_by(agent_id))
    agent = await services.agents.change(
        agent_id,
        lambda agent: machine.control(
            agent,
            action,
            body.get("reason"),
            running=running,
            deadline_seconds=body.get("deadline_seconds"),
        ),
        context.actor,
    )
    view: dict[str, Any] = {
        "agent_id": agent_id,
        "action": action,
        "desired_state": agent.desired_state,
        "status": agent.status,
    }
    if agent.drain_deadline is not None:
        view["drain_deadline"] = agent.drain_deadline
    if action not in machine.ENFORCED and agent.controls:
        view["control"] = control_view(agent.controls[-1])
    return Reply(view)


async def heartbeat_agent(context: Context, *, agent_id: str, body: dict[str, Any]) -> Reply:
    """Take a sign of life; say what is wanted of the agent."""
    services = context.services
    require_agent(context.caller, agent_id)
    agent = await services.agents.heard_of(agent_id, controls_taken=body.get("controls_taken"))
    if not agent.online:
        agent = await services.presence.refresh(agent_id, online=True)
    return Reply(
        {
            "agent_id": agent_id,
            "status": agent.status,
            "desired_state": agent.desired_state,
            "heartbeat_seconds": services.limits.agent_heartbeat_seconds,
            "lease_seconds": services.limits.lease_seconds,
            "controls": [control_view(control) for control in agent.controls],
        }
    )


async def claim_leases(context: Context, *, agent_id: str, body: dict[str, Any]) -> Reply:
    """Lease queued tasks to the agent, and wait for the first one when asked to."""
    services = context.services
    require_agent(context.caller, agent_id)
    agent = await services.agents.heard_of(agent_id, controls_taken=None)
    if not agent.online:
        await services.presence.refresh(agent_id, online=True)
    tasks = await services.dispatcher.claim(
        agent_id,
        max_leases=body.get("max_leases", 1),
        wait_seconds=body.get("wait_seconds", 0),
    )
    return Reply([lease_view(task) for task in tasks])


async def _unregister_expected(context: Context, agent_id: str, expected: ExpectedVersions) -> None:
    """The agent first: whoever is refused has taken no key away.

    A kill in between leaves a key that the next attempt revokes, although there is no agent then.
    """
    services = context.services
    try:
        await services.agents.change(agent_id, expected.guard(machine.unregister), context.actor)
    except AgentNotFound:
        await services.api_keys.revoke_agent_keys(agent_id, context.actor)
        raise
    await services.api_keys.revoke_agent_keys(agent_id, context.actor)


def _spec(body: dict[str, Any]) -> AgentSpec:
    given = {**body, "capabilities": tuple(body.get("capabilities", ()))}
    return AgentSpec(**given)
