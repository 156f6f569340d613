"""Messages to agents: at least once, until they are acknowledged or expire."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hive import messages as machine
from server import agent_messages
from storage.mongo import messages as storage
from tests.api.running import Agent, Api, RunningNode, found
from tests.realtime.client import JudgedSocket, open_socket

pytestmark = pytest.mark.asyncio(loop_scope="module")
BROADCAST = "/api/v1/hive/broadcast"


def _box(agent: Agent) -> str:
    return f"/api/v1/agents/{agent.agent_id}/messages"


@asynccontextmanager
async def _link(node: RunningNode, agent: Agent) -> AsyncIterator[JudgedSocket]:
    path = f"/ws/agents/{agent.agent_id}"
    async with open_socket(node.url, path, token=agent.api.credential) as link:
        await link.send("hello")
        await link.until("ready")
        yield link


async def _send(api: Api, agent: Agent, data: Any, **more: Any) -> str:
    receipt = await api.ok("POST", _box(agent), json={"data": data, **more})
    return str(receipt["message_id"])


async def test_a_message_comes_until_it_is_acknowledged(
    node: RunningNode, admin: Api, agent: Agent
) -> None:
    """From an agent to another, byte for byte; acknowledging again changes nothing."""
    sender = await node.add_agent(admin)
    sent = await _send(sender.api, agent, {"topic": "cache", "$where": [1, 2.50]})
    for _ in range(2):
        (message,) = await agent.api.ok("GET", _box(agent))
        assert message["message_id"] == sent
        assert message["from"] == sender.agent_id
        assert message["data"] == {"topic": "cache", "$where": [1, 2.50]}
    path = f"{_box(agent)}/{sent}/acknowledge"
    for _ in range(2):
        assert await agent.api.ok("POST", path) == {"message_id": sent, "acknowledged": True}
    assert await agent.api.ok("GET", _box(agent)) == []
    stored = await node.node.store.messages._messages.find_one({"_id": sent})
    assert stored is not None
    assert "data" not in stored


async def test_messages_come_in_order_and_page_by_page(user: Api, agent: Agent) -> None:
    """The oldest first."""
    sent = [await _send(user, agent, n) for n in range(5)]
    listed = await agent.api.pages(f"{_box(agent)}?limit=2")
    assert [message["message_id"] for message in listed] == sent
    assert [message["data"] for message in listed] == list(range(5))


async def test_a_reader_waits_for_the_first_message(user: Api, agent: Agent) -> None:
    """It is woken when the message comes."""
    reading = asyncio.create_task(agent.api.ok("GET", f"{_box(agent)}?wait_seconds=20"))
    sent = await _send(user, agent, "now")
    assert [message["message_id"] for message in await reading] == [sent]


async def test_an_expired_message_is_gone(node: RunningNode, user: Api, agent: Agent) -> None:
    """Even before the database takes it away."""
    sent = await _send(user, agent, "late", expires_in_seconds=1)
    kept = await _send(user, agent, "kept", expires_in_seconds=60)
    await node.node.store.messages._messages.update_one(
        {"_id": sent}, [{"$set": {"expires_at": "$created_at"}}]
    )
    listed = await agent.api.ok("GET", _box(agent))
    assert [message["message_id"] for message in listed] == [kept]
    indexes = await node.node.store.messages._messages.index_information()
    assert indexes["expiry"]["expireAfterSeconds"] == 0


async def test_a_full_mailbox_takes_no_more(
    user: Api, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 with `Retry-After`, until the agent has taken one."""
    monkeypatch.setattr(storage, "MOST_WAITING", 2)
    first = await _send(user, agent, 1)
    await _send(user, agent, 2)
    answer = await user.post(_box(agent), json={"data": 3})
    assert (answer.status_code, answer.json()["code"]) == (429, "mailbox-full")
    assert int(answer.headers["Retry-After"]) > 0
    await agent.api.ok("POST", f"{_box(agent)}/{first}/acknowledge")
    await _send(user, agent, 3)


async def test_a_message_has_a_bound(user: Api, agent: Agent) -> None:
    """64 KiB as it came."""
    await _send(user, agent, "x" * (machine.MOST_BYTES - 2))
    problem = await user.refused(
        422, "POST", _box(agent), json={"data": "x" * (machine.MOST_BYTES - 1)}
    )
    assert problem["code"] == "message-too-large"


async def test_only_the_agent_and_admins_see_what_is_in_it(
    admin: Api, user: Api, viewer: Api, agent: Agent
) -> None:
    """Others may send; the event tells everybody that something was sent, and no more."""
    sent = await _send(user, agent, {"secret": "hunter2"})
    assert len(await admin.ok("GET", _box(agent))) == 1
    await user.refused(403, "GET", _box(agent))
    await user.refused(403, "POST", f"{_box(agent)}/{sent}/acknowledge")
    await viewer.refused(403, "POST", _box(agent), json={"data": 1})
    query = {"type": "message.sent", "subject": sent}
    (event,) = await found(
        lambda: viewer.ok("GET", "/api/v1/events", params=query), bool, "the event is there"
    )
    assert event["source"] == _box(agent)
    assert event["data"]["agent_id"] == agent.agent_id
    assert "hunter2" not in str(event)
    await user.refused(404, "POST", "/api/v1/agents/agt_none/messages", json={"data": 1})
    unknown = await agent.api.refused(404, "POST", f"{_box(agent)}/msg_none/acknowledge")
    assert unknown["code"] == "message-not-found"


async def test_a_broadcast_to_too_many_reaches_nobody(
    user: Api, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first message is written."""
    monkeypatch.setattr(machine, "MOST_RECIPIENTS", 0)
    problem = await user.refused(422, "POST", BROADCAST, json={"data": "all"})
    assert problem["code"] == "too-many-recipients"
    assert problem["errors"][0]["pointer"] == "/selector"
    assert await agent.api.ok("GET", _box(agent)) == []


async def test_a_repeated_request_sends_once(user: Api, agent: Agent) -> None:
    """Under its key."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    answers = [await user.post(_box(agent), json={"data": 1}, headers=headers) for _ in range(2)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(await agent.api.ok("GET", _box(agent))) == 1


async def test_a_broadcast_reaches_those_who_are_selected(
    node: RunningNode, admin: Api, user: Api
) -> None:
    """By all capabilities, labels, type and status at once; a full mailbox is counted."""
    name = uuid.uuid4().hex[:8]
    spec: dict[str, Any] = {"capabilities": [name, "b"], "labels": {"zone": "eu"}}
    chosen = [await node.add_agent(admin, **spec) for _ in range(2)]
    others = [
        await node.add_agent(admin, **{**spec, "capabilities": [name]}),
        await node.add_agent(admin, **{**spec, "labels": {"zone": "us"}}),
        await node.add_agent(admin, **{**spec, "agent_type": "other"}),
        await node.add_agent(admin, **spec),
    ]
    path = f"/api/v1/agents/{others[-1].agent_id}/control"
    await admin.ok("POST", path, json={"action": "pause"})
    selector = {
        "capabilities": ["b", name],
        "labels": {"zone": "eu"},
        "agent_type": "worker",
        "status": "idle",
    }
    result = await user.ok("POST", BROADCAST, json={"data": {"reload": 1}, "selector": selector})
    assert result == {"matched": 2, "sent": 2, "full": 0}
    for one in chosen:
        (message,) = await one.api.ok("GET", _box(one))
        assert message["data"] == {"reload": 1}
    for one in others:
        assert await one.api.ok("GET", _box(one)) == []
    nobody = {"data": 1, "selector": {"capabilities": ["nobody-has-this"]}}
    assert await user.ok("POST", BROADCAST, json=nobody) == {"matched": 0, "sent": 0, "full": 0}


async def test_messages_come_over_the_link_and_again_over_the_next(
    node: RunningNode, user: Api, agent: Agent
) -> None:
    """Those that waited and those that are sent now; what is acknowledged does not come again."""
    waited = await _send(user, agent, {"n": 1})
    async with _link(node, agent) as link:
        first = await link.until("message")
        assert (first["message_id"], first["data"]) == (waited, {"n": 1})
        sent = await _send(user, agent, {"n": 2})
        second = await link.until("message")
        assert (second["message_id"], second["data"]) == (sent, {"n": 2})
        await link.send("acknowledge", id="m1", message_id=waited)
        result = await link.until("result")
        assert (result["status"], result["body"]["acknowledged"]) == (200, True)
    async with _link(node, agent) as link:
        assert (await link.until("message"))["message_id"] == sent
        await link.send("acknowledge", id="m2", message_id="msg_none")
        result = await link.until("result")
        assert (result["status"], result["problem"]["code"]) == (404, "message-not-found")


async def test_a_link_has_few_unacknowledged_messages_out(
    node: RunningNode, user: Api, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each acknowledgement makes room for the next one, in order."""
    monkeypatch.setattr(agent_messages, "MOST_UNACKNOWLEDGED", 2)
    sent = [await _send(user, agent, n) for n in range(5)]
    got = []
    async with _link(node, agent) as link:
        for _ in sent:
            message_id = (await link.until("message"))["message_id"]
            got.append(message_id)
            await link.send("acknowledge", message_id=message_id)
    assert got == sent
