"""The real-time side of the whole product: real stores, real recorder, every frame judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.api.running import Api, running_node
from tests.realtime.client import JudgedSocket, open_socket


async def work(link: JudgedSocket, assign: dict[str, Any]) -> None:
    """Run an assignment: accept, report, log, complete."""
    lease = assign["lease"]
    reports: dict[str, dict[str, Any]] = {
        "accept": {},
        "progress": {"progress": {"fraction": 0.5, "message": "half"}},
        "log": {"lines": [{"message": "hello"}]},
        "complete": {"result": {"words": 3}},
    }
    for kind, fields in reports.items():
        proof = {"lease_id": lease["lease_id"], "fence": lease["fence"]}
        await link.send(kind, id=kind, **proof, **fields)
        assert (await link.until("result"))["status"] == 200


async def test_a_dag_runs_over_the_link_and_is_watched_and_replayed(
    tmp_path: Path, mongodb_uri: str
) -> None:
    """The watcher sees every event of the log once, live, and again from the beginning."""
    async with running_node(tmp_path, mongodb_uri) as node:
        admin = await node.log_in("admin")
        async with open_socket(node.url, f"/ws?token={admin.credential}") as watcher:
            await watcher.subscribe("*")
            agent = await node.add_agent(admin, slots=2, capabilities=["read"])
            path = f"/ws/agents/{agent.agent_id}"
            async with open_socket(node.url, path, token=agent.api.credential) as link:
                await link.send("hello", version="1.0.0")
                await link.until("ready")
                first = await admin.submit(required_capabilities=["read"])
                second = await admin.submit(required_capabilities=["read"], dependencies=[first])
                assigned = []
                for _ in range(2):
                    assign = await link.until("assign")
                    assigned.append(assign["lease"]["task"]["task_id"])
                    await work(link, assign)
                assert assigned == [first, second]
                await _cancel_and_control(admin, link, agent.agent_id)
                await admin.ok("DELETE", f"/api/v1/agents/{agent.agent_id}")
                assert await link.close_code() == 4101
            await watcher.until("agent.unregistered")
        async with open_socket(node.url, "/ws?cursor=0", token=admin.credential) as replay:
            await replay.subscribe("*")
            await replay.until("bookmark")
            assert replay.seqs == list(range(1, len(replay.seqs) + 1))
            # The log began before it watched: with the users and the login.
            before = watcher.seqs[0] - 1
            assert watcher.seqs == replay.seqs[before : before + len(watcher.seqs)]
            await admin.ok("POST", "/api/v1/auth/logout", json={})
            assert await replay.close_code() == 4101


async def _cancel_and_control(admin: Api, link: JudgedSocket, agent_id: str) -> None:
    """A cancellation, a pause and a stop reach the agent at once."""
    third = await admin.submit(required_capabilities=["read"])
    lease = (await link.until("assign"))["lease"]
    await admin.ok("DELETE", f"/api/v1/tasks/{third}")
    assert (await link.until("cancel"))["lease_id"] == lease["lease_id"]
    await link.send("release", id="r", lease_id=lease["lease_id"], fence=lease["fence"])
    assert (await link.until("result"))["body"]["status"] == "cancelled"
    control = f"/api/v1/agents/{agent_id}/control"
    for action in ("pause", "stop", "resume"):
        await admin.ok("POST", control, json={"action": action})
        assert (await link.until("control"))["action"] == action
    await link.send("heartbeat", id="h", controls_taken=1)
    assert (await link.until("result"))["body"]["controls"] == []
