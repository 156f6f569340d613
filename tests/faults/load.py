"""A load of submitters, agents, cancellers, readers and a watcher over REST, from one seed.

Everybody goes on while the server is away: what had no answer is unknown, and a report under a
lease is repeated as it was, with the same lease and fence. `Load` runs in a thread of its own, so
that the main thread can start and kill servers.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

import uvloop

from server.data_directory import DataDirectory
from tests.faults.agent import Agent, end, register
from tests.faults.checker import ENDINGS
from tests.faults.client import PAGE, Answer, Client, open_client
from tests.faults.collecting import EVENTS, TASKS, collect
from tests.faults.history import Found, History, Reading, Submission
from tests.faults.shape import Shape

POLICIES = ("fail", "skip-me", "run")
UNENDED = ("scheduled", "blocked", "queued", "running")
WIDTHS = {"diamond": 2, "fan": 6}
POLL_SECONDS = 0.1
GRAPHS = ("single", "single", "chain", "diamond", "fan")
KEYED_STRETCH = 500
"""How many tasks are submitted with keys among them, before three times as many without."""
COLLECTING_SECONDS = 60.0
"""Longest time to read everything at the end, and as long again for each 1,000 tasks."""


class Load:
    """Runs from `start` to `finish`; `history` is complete after that.

    Where agents are processes of their own, it only registers them, as `agents`.
    """

    def __init__(
        self, nodes: Sequence[DataDirectory], seed: int, shape: Shape | None = None
    ) -> None:
        self.history = History(lease_seconds=(shape or Shape()).lease_seconds)
        self.agents: list[Agent] = []
        self.found: Found | None = None
        self._nodes = nodes
        self._seed = seed
        self._shape = shape or Shape()
        self._error: BaseException | None = None
        self._working = threading.Event()
        self._stopping = threading.Event()
        self._drained = threading.Event()
        self._leaving = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")

    def start(self, seconds: float = 20) -> None:
        """Begin; return when the agents are registered."""
        self._thread.start()
        assert self._working.wait(seconds), "the agents were not registered in time"
        if self._error is not None:
            raise self._error

    @property
    def has_enough(self) -> bool:
        """Whether as many tasks were submitted as the shape asks for; always without a number."""
        wanted = self._shape.tasks
        return wanted is None or len(self.history.submissions) >= wanted or self._error is not None

    @property
    def has_drained(self) -> bool:
        """Whether all has ended since `drain`, or the time for it is over."""
        return self._drained.is_set() or self._error is not None

    def drain(self) -> None:
        """Submit no more; agents and who reads go on until `finish`."""
        self._stopping.set()

    def abandon(self) -> None:
        """End at once; nothing of the run is to be judged."""
        self._abandoned.set()
        self._stopping.set()
        self._leaving.set()
        self._thread.join(COLLECTING_SECONDS)

    def finish(self) -> Found:
        """Submit no more, let every task end, and give what the server has then."""
        self._stopping.set()
        self._leaving.set()
        thousands = len(self.history.submissions) / 1000
        collecting = COLLECTING_SECONDS * (1 + thousands)
        self._thread.join(self._shape.drain_seconds + collecting)
        if self._error is not None:
            raise self._error
        assert self.found is not None, "the load did not end in time"
        return self.found

    def _run(self) -> None:
        try:
            uvloop.run(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again in `finish`
            self._error = error
        finally:
            self._working.set()

    async def _work(self) -> None:
        async with open_client(self._nodes, self.history.answers) as client:
            operator = Operator(client, self.history, client.operator_key(), self._shape)
            self.agents = [
                await register(client, self.history, f"agent-{number}", self._shape)
                for number in range(self._shape.agents)
            ]
            self._working.set()
            chances = [random.Random(f"{self._seed}:{number}") for number in range(100)]
            sources: list[Coroutine[Any, Any, None]] = [
                operator.submit(chances.pop(), f"s{number}")
                for number in range(self._shape.submitters)
            ]
            sources.append(operator.cancel(chances.pop()))
            reader = operator.read(chances.pop())
            workers = [] if self._shape.apart else self.agents
            working = [asyncio.create_task(worker.work(chances.pop())) for worker in workers]
            working += [asyncio.create_task(each) for each in (operator.watch(), reader)]
            asking = [asyncio.create_task(source) for source in sources]
            try:
                await _until_set(self._stopping, [*working, *asking])
                await end(asking)
                await self._unless_abandoned(operator.drain(self._shape.drain_seconds))
                self._drained.set()
                await _until_set(self._leaving, working)
            finally:
                await end([*working, *asking])
            await self._unless_abandoned(self._collect(client))

    async def _unless_abandoned(self, work: Coroutine[Any, Any, None]) -> None:
        doing = asyncio.create_task(work)
        while not doing.done() and not self._abandoned.is_set():
            await asyncio.wait([doing], timeout=POLL_SECONDS)
        if self._abandoned.is_set():
            doing.cancel()
        else:
            await doing

    async def _collect(self, client: Client) -> None:
        self.found = await collect(client, client.operator_key())


async def _until_set(stopping: threading.Event, tasks: list[asyncio.Task[None]]) -> None:
    while not stopping.is_set():
        done, _ = await asyncio.wait(
            tasks, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
            raise AssertionError(f"{task} ended by itself")


class Operator:
    """Submits, cancels, reads and watches with the operator's key."""

    def __init__(self, client: Client, history: History, key: str, shape: Shape) -> None:
        self._client = client
        self._history = history
        self._key = key
        self._shape = shape
        self._ended = 0

    async def submit(self, chance: random.Random, prefix: str) -> None:
        """Single tasks, chains, diamonds, fans and whole graphs at once, with every policy."""
        number = 0
        graphs = (*GRAPHS, "batch") if self._shape.batch else GRAPHS
        while True:
            if not self._wants_more():
                await asyncio.sleep(POLL_SECONDS)
                continue
            number += 1
            name = f"{prefix}-{number}"
            shape = chance.choice(graphs)
            if shape == "batch":
                await self._submit_graph(chance, name)
                continue
            first = await self._submit_one(chance, f"{name}a", [])
            if shape == "chain":
                second = await self._submit_one(chance, f"{name}b", [first])
                await self._submit_one(chance, f"{name}c", [second])
            elif shape in WIDTHS:
                sides = [
                    await self._submit_one(chance, f"{name}b{side}", [first])
                    for side in range(WIDTHS[shape])
                ]
                await self._submit_one(chance, f"{name}c", sides)
            await asyncio.sleep(chance.uniform(0, self._shape.pause_seconds))

    def _wants_more(self) -> bool:
        submitted = len(self._history.submissions)
        if self._shape.tasks is not None and submitted >= self._shape.tasks:
            return False
        most = self._shape.open_tasks
        return most is None or submitted - self._ended < most

    async def _submit_graph(self, chance: random.Random, name: str) -> None:
        """Each task of it depends on up to three of those before it."""
        bodies = []
        for number in range(chance.randint(1, self._shape.batch)):
            before = chance.sample(range(number), min(number, chance.choice((0, 1, 1, 2, 3))))
            graph = {"key": f"k{number}", "depends_on": [f"k{each}" for each in before]}
            bodies.append({**self._body(chance, f"{name}k{number}"), **graph})
        task_ids: list[str | None] = [None] * len(bodies)
        try:
            answer = await self._client.ask(
                "POST", f"{TASKS}/batch", self._key, {"tasks": bodies, "mode": "all-or-nothing"}
            )
            if answer is not None and answer.status == 200:
                task_ids = [made["task_id"] for made in answer.body["tasks"]]
            elif answer is not None:
                self._surprised("batch", answer)
        finally:
            self._history.submissions += [
                Submission(body["name"], task_id)
                for body, task_id in zip(bodies, task_ids, strict=True)
            ]

    async def _submit_one(
        self, chance: random.Random, name: str, wanted: list[str | None]
    ) -> str | None:
        known = [task_id for task_id in wanted if task_id is not None]
        body = {**self._body(chance, name), "dependencies": known}
        task_id: str | None = None
        try:
            answer = await self._client.ask("POST", TASKS, self._key, body)
            if answer is not None and answer.status == 200:
                task_id = answer.body["task_id"]
            elif answer is not None:
                self._surprised("submission", answer)
        finally:
            self._history.submissions.append(Submission(name, task_id))
        return task_id

    def _body(self, chance: random.Random, name: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "name": name,
            "priority": chance.choice(("low", "medium", "high", "critical")),
            "parameters": {"n": chance.randrange(1000)},
            "on_dependency_failure": chance.choice(POLICIES),
            "max_attempts": chance.choice((1, 3, 10)),
            "backoff": {"kind": "fixed", "base_seconds": chance.choice((0, 0.2))},
        }
        if chance.random() < 0.3:
            body["required_capabilities"] = ["work"]
        # A queue without keys is served in another way: there are times with and without.
        has_keys = len(self._history.submissions) // KEYED_STRETCH % 4 == 0
        if has_keys and chance.random() < 0.1:
            body["concurrency"] = {
                "key": f"narrow-{chance.randrange(self._shape.keys)}",
                "limit": 2,
            }
        return body

    async def cancel(self, chance: random.Random) -> None:
        """Cancel one of the youngest tasks now and then."""
        while True:
            await asyncio.sleep(chance.uniform(0, 0.3))
            task_id = self._any_task(chance, among=30)
            if task_id is None:
                continue
            answer = await self._client.ask("DELETE", f"{TASKS}/{task_id}", self._key)
            if answer is None or answer.code == "illegal-transition":
                continue
            if answer.status == 200:
                self._history.cancelled.append(task_id)
            else:
                self._surprised("cancellation", answer)

    async def read(self, chance: random.Random) -> None:
        """Read tasks; their versions only grow."""
        while True:
            await asyncio.sleep(chance.uniform(0, 0.05 / self._shape.chatter))
            task_id = self._any_task(chance, among=20)
            if task_id is None:
                continue
            began = self._history.tick()
            answer = await self._client.ask("GET", f"{TASKS}/{task_id}", self._key)
            if answer is not None and answer.status == 200:
                version = answer.body["version"]
                reading = Reading(task_id, version, began, self._history.tick())
                self._history.readings.append(reading)
            elif answer is not None:
                self._surprised(f"reading of {task_id}", answer)

    async def watch(self) -> None:
        """Follow the log; what was seen once must stay where it is."""
        after = 0
        while True:
            path = f"{EVENTS}?after={after}&limit={PAGE}"
            answer = await self._client.ask("GET", path, self._key)
            if answer is not None and answer.status != 200:
                self._surprised("page of events", answer)
            if answer is not None and answer.status == 200:
                for event in answer.body:
                    after = int(event["seq"])
                    self._history.watched[after] = event["id"]
                    self._ended += event["type"] in ENDINGS
                if len(answer.body) == PAGE:
                    continue
            await asyncio.sleep(POLL_SECONDS / self._shape.chatter)

    async def drain(self, seconds: float) -> None:
        """Return when every task has ended, or after so long."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            if not await self._sees_unended() and await self._all_have_ended():
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _sees_unended(self) -> bool:
        """Whether a quick look finds one; a task that moves between two queries can be missed."""
        for status in UNENDED:
            path = f"{TASKS}?status={status}&limit=1"
            if (await self._client.insist("GET", path, self._key)).body:
                return True
        return False

    async def _all_have_ended(self) -> bool:
        """Look at each task once: an end is for good, so nothing can be missed."""
        tasks = await self._client.read_all(TASKS, self._key, {})
        return not any(task["status"] in UNENDED for task in tasks)

    def _any_task(self, chance: random.Random, among: int) -> str | None:
        young = self._history.submissions[-among:]
        return chance.choice(young).task_id if young else None

    def _surprised(self, what: str, answer: Answer) -> None:
        self._history.note_surprise(f"{what}: {answer.status} {answer.body}")
