"""Three servers as users run them, on stores that they share."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from tests.api.running import PASSWORD, Api, found
from tests.servers import ServerProcess

NODES = 3
SECRET = "Zq7h2LxP9vTn4RkWb8YcJd3MfGs6QaEu"
FAILOVER_SECONDS = 6.0
START_SECONDS = 120.0
DUTIES = frozenset({"recorder", "reaper"})
SETTINGS: Mapping[str, str] = {
    "ADMIN_PASSWORD": PASSWORD,
    "SECRET_KEY": SECRET,
    "LEASE_SECONDS": "3",
    "HEARTBEAT_SECONDS": "1",
    "AGENT_TIMEOUT_SECONDS": "5",
    "RATE_LIMIT_ENABLED": "false",
    "TRUSTED_PROXIES": "127.0.0.1/32",
    "LOAD_SHEDDING_ENABLED": "false",
}


class ClusterNode(ServerProcess):
    """One server of several."""

    url: str = ""

    def listens(self) -> None:
        """Wait for it; from now on it starts on this port again, where nginx looks for it."""
        self.url = self.wait_until_it_listens(START_SECONDS)
        self._environment["AGENTZERO_PORT"] = str(self.port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def node_id(self) -> str:
        """As it calls itself."""
        return (self.data.path / "node_id").read_text().strip()

    def pause(self) -> None:
        """Let it stand still, with all that it holds."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.send_signal(signal.SIGCONT)


@dataclass
class Cluster:
    """The servers and what they share."""

    nodes: Sequence[ClusterNode]
    database: Database[dict[str, Any]]

    def start(self) -> None:
        """Start those that don't run, all at once, and wait for all."""
        for node in self.nodes:
            if not node.runs:
                node.launch()
        for node in self.nodes:
            node.listens()

    def holder(self, duty: str) -> ClusterNode:
        """The node that has the duty, by its lease."""
        holder = self._leader(duty)["holder"]
        return next(node for node in self.nodes if node.node_id == holder)

    def term(self, duty: str) -> int:
        """The term of the duty's lease."""
        return int(self._leader(duty)["term"])

    def others(self, *nodes: ClusterNode) -> list[ClusterNode]:
        """The nodes besides these."""
        return [node for node in self.nodes if node not in nodes]

    async def log_in(self, node: ClusterNode) -> Api:
        """The admin, at this node."""
        async with Api(node.url) as api:
            token = (await api.log_in("admin"))["access_token"]
        return Api(node.url, token)

    async def ready(self) -> None:
        """Return once every node is ready."""
        for node in self.nodes:
            async with Api(node.url) as api:
                await found(
                    lambda api=api: api.get("/health/ready"),  # type: ignore[misc]
                    lambda answer: answer.status_code == 200,
                    f"{node.url} is ready",
                    20,
                )

    def _leader(self, duty: str) -> dict[str, Any]:
        leader = self.database["leaders"].find_one({"_id": duty})
        assert leader is not None, f"nobody ever held {duty}"
        return leader


@contextlib.contextmanager
def running_cluster(
    directory: Path, *, mongodb_uri: str, redis_url: str, sql_url: str, **settings: str
) -> Iterator[Cluster]:
    """Three servers that have just begun to listen; they end with it."""
    name = f"test_{uuid.uuid4().hex}"
    shared = {
        **SETTINGS,
        "MONGODB_URI": mongodb_uri,
        "MONGODB_DATABASE": name,
        "REDIS_URL": redis_url,
        "SQL_URL": sql_url,
        **settings,
    }
    nodes = [ClusterNode(directory / f"node-{number}", **shared) for number in range(NODES)]
    with MongoClient[dict[str, Any]](mongodb_uri, tz_aware=True) as client:
        cluster = Cluster(nodes, client[name])
        try:
            cluster.start()
            yield cluster
        finally:
            for node in nodes:
                node.kill()
            client.drop_database(name)


async def seqs_without_a_hole(api: Api) -> int:
    """The newest `seq`, after all of the log was read and found dense."""
    seqs = [int(event["seq"]) for event in await api.pages("/api/v1/events?limit=200")]
    ordered = sorted(seqs)
    assert ordered == list(range(ordered[0], ordered[0] + len(ordered)))
    return ordered[-1]


async def at_once(*works: Any) -> list[Any]:
    """All of them, side by side."""
    return list(await asyncio.gather(*works))
