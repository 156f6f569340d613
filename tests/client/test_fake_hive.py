"""Where tests rely on how a hive behaves, the fake one behaves so."""

from __future__ import annotations

from agentzero_client.frame_socket import FrameSocket
from tests.client.fake_hive import FakeHive
from tests.client.fake_sockets import LINK_CLOSED


async def test_lease_for_a_link_that_closes_goes_back(hive: FakeHive) -> None:
    """What is assigned between the last report of an agent and its leave is not lost."""
    agent_id, key = hive.add_agent("leaver")
    task_id = hive.add_task("t")
    socket = await FrameSocket.open(hive.url, f"/ws/agents/{agent_id}", token=key)
    hello = {"type": "hello", "capabilities": ["t"], "slots": 1, "version": "1.0.0"}
    await socket.send({**hello, "resume_leases": []})
    while (frame := await socket.receive())["type"] != "assign":
        pass
    proof = {name: frame["lease"][name] for name in ("lease_id", "fence")}
    # Nothing is waited for in between, so that both are read at once.
    await socket.send({"type": "reject", "id": "r1", **proof, "reason": "leaving"})
    await socket.close()
    await hive.until(lambda: hive.tasks[task_id]["status"] == "queued")
    assert hive.tasks[task_id]["release_reason_"] == LINK_CLOSED
    assert hive.tasks[task_id]["attempt"] == 0
