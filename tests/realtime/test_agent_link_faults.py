"""The agent's link when something fails: a code or an error, and no lease is lost sight of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hive.errors import AgentNotFound, Unavailable
from hive.raw_json import RawJson
from hive.task_spec import TaskSpec
from tests.realtime.conftest import RealtimeNode
from tests.realtime.test_agent_link import ready, report


def failing(error: Exception) -> Callable[..., Any]:
    """A coroutine function that raises."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


async def test_a_store_that_is_down_delays_assignments(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link claims again when it answers."""
    claim = node.tasks.claim
    calls: list[int] = []

    async def claim_later(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable
        return await claim(*arguments, **options)

    monkeypatch.setattr(node.tasks, "claim", claim_later)
    node.tasks.offer(1)
    async with ready(node) as (socket, _):
        await socket.expect("assign")


async def test_an_agent_that_is_gone_closes_with_4403(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found when work is claimed for it."""
    monkeypatch.setattr(node.tasks, "claim", failing(AgentNotFound()))
    async with ready(node) as (socket, _):
        assert await socket.close_code() == 4403


async def test_a_fault_while_claiming_closes_with_4000(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop does not die silently."""
    monkeypatch.setattr(node.tasks, "claim", failing(ZeroDivisionError()))
    async with ready(node) as (socket, _):
        assert await socket.close_code() == 4000


async def test_a_fault_while_assigning_closes_with_4000_and_gives_all_back(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was claimed with it, too."""
    monkeypatch.setattr("server.agent_link.lease_view", lambda _: 1 / 0)
    node.tasks.offer(1)
    node.tasks.offer(2)
    async with ready(node) as (socket, _):
        assert await socket.close_code() == 4000
    await node.until(lambda: sorted(node.tasks.released) == ["tsk_1", "tsk_2"])


async def test_a_new_lease_of_a_task_replaces_the_old_one(node: RealtimeNode) -> None:
    """The end of the first was not heard of yet; its slot is not lost for ever."""
    async with ready(node) as (socket, _):
        first = node.tasks.offer(1)
        await socket.expect("assign")
        assert first.lease is not None
        again = replace(first, version=5, lease=replace(first.lease, lease_id="lse_9", fence=2))
        node.tasks.queue.append(again)
        node.tasks.queued.set()
        cancel = await socket.expect("cancel")
        assert (cancel["lease_id"], cancel["reason"]) == ("lse_1", "lost")
        assert (await socket.expect("assign"))["lease"]["lease_id"] == "lse_9"
        node.publish("task.retrying", task_id="tsk_1", agent_id="agt_1", version=3)
        await socket.send("ping")
        await socket.expect("pong")
        link = node.links.find("agt_1")
        assert link is not None
        assert link.free_slots == 1


async def test_a_lease_survives_a_report_that_could_not_be_stored(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 means that nothing is known to have changed: the agent tries again."""
    change = node.tasks.change_leased
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.expect("assign")
        monkeypatch.setattr(node.tasks, "change_leased", failing(Unavailable()))
        assert (await report(socket, "complete", 1))["status"] == 503
        monkeypatch.setattr(node.tasks, "change_leased", change)
        assert (await report(socket, "complete", 1))["status"] == 200


async def test_a_fault_in_an_operation_is_a_500_in_result(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a request id, and nothing of the cause."""
    monkeypatch.setattr(node.tasks, "renew", failing(ZeroDivisionError("secret")))
    async with ready(node) as (socket, _):
        result = await report(socket, "progress", 1)
        assert (result["status"], result["problem"]["code"]) == (500, "internal")
        assert "secret" not in str(result)


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable(), "unavailable"), (AgentNotFound(), "refused")]
)
async def test_a_heartbeat_without_id_that_fails_is_an_error(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    """There is no `result` to carry it."""
    async with ready(node) as (socket, _):
        monkeypatch.setattr(node.agents, "heard_of", failing(error))
        await socket.send("heartbeat", free_slots=1)
        frame = await socket.expect("error")
        assert (frame["code"], frame["retryable"]) == (code, code == "unavailable")


async def test_a_store_that_is_down_at_hello_is_an_error_and_hello_may_come_again(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent need not connect anew."""
    heard_of = node.agents.heard_of
    monkeypatch.setattr(node.agents, "heard_of", failing(Unavailable()))
    async with node.link() as socket:
        await socket.send("hello")
        assert (await socket.expect("error"))["code"] == "unavailable"
        monkeypatch.setattr(node.agents, "heard_of", heard_of)
        await socket.send("hello")
        await socket.expect("ready")


async def test_presence_that_can_not_be_told_does_not_keep_the_agent_from_work(
    node: RealtimeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence or its heartbeats will put it right."""
    monkeypatch.setattr(node.agents, "refresh", failing(Unavailable()))
    async with ready(node) as (socket, _):
        node.tasks.offer(1)
        await socket.expect("assign")


async def test_a_claim_of_an_older_link_goes_to_the_newer_one(node: RealtimeNode) -> None:
    """Nothing is released for nothing."""
    async with ready(node):
        await node.until(lambda: node.tasks.claims)
        async with ready(node, version="2") as (newer, _):
            node.tasks.offer(1)
            await newer.expect("assign")
    assert node.tasks.released == []


async def test_a_large_assignment_goes_out_alone(node: RealtimeNode) -> None:
    """Larger than the buffer's bound, it waits for an empty buffer."""
    raw = RawJson(b'"' + b"x" * 3_000_000 + b'"')
    async with ready(node) as (socket, _):
        node.tasks.offer(1, spec=TaskSpec(name="t", parameters=raw))
        node.tasks.offer(2, spec=TaskSpec(name="t", parameters=raw))
        for _ in range(2):
            assign = await socket.until("assign")
            assert len(assign["lease"]["task"]["parameters"]) == 3_000_000
