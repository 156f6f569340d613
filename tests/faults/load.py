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
from dataclasses import dataclass
from typing import Any

from server.data_directory import DataDirectory
from tests.faults.client import LOOK_AGAIN_SECONDS, Answer, Client, open_client
from tests.faults.history import (
    Found,
    Grant,
    History,
    Outcome,
    Reading,
    Report,
    Submission,
    Verb,
)

POLICIES = ("fail", "skip-me", "run")
UNENDED = ("scheduled", "blocked", "queued", "running")
WIDTHS = {"diamond": 2, "fan": 6}
POLL_SECONDS = 0.1
SETTLED_SECONDS = 2.0
KILLED = 0.02
"""How many leases end with their agent's process: it says nothing of them any more."""
TASKS = "/api/v1/tasks"
EVENTS = "/api/v1/events"


@dataclass(frozen=True, slots=True)
class Shape:
    """How much load there is; `pause_seconds` is the longest time between two submissions.

    With `tasks` the submitters end when there are so many of them.
    """

    submitters: int = 4
    agents: int = 4
    slots: int = 4
    pause_seconds: float = 0.1
    lease_seconds: float = 2.0
    drain_seconds: float = 60.0
    tasks: int | None = None


class Load:
    """Runs from `start` to `finish`; `history` is complete after that."""

    def __init__(
        self, nodes: Sequence[DataDirectory], seed: int, shape: Shape | None = None
    ) -> None:
        self.history = History()
        self.found: Found | None = None
        self._nodes = nodes
        self._seed = seed
        self._shape = shape or Shape()
        self._names = 0
        self._error: BaseException | None = None
        self._working = threading.Event()
        self._stopping = threading.Event()
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

    def finish(self) -> Found:
        """Submit no more, let every task end, and give what the server has then."""
        self._stopping.set()
        self._thread.join(self._shape.drain_seconds + 60)
        if self._error is not None:
            raise self._error
        assert self.found is not None, "the load did not end in time"
        return self.found

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again in `finish`
            self._error = error
        finally:
            self._working.set()

    async def _work(self) -> None:
        async with open_client(self._nodes, self.history.answers) as client:
            operator = Operator(client, self.history, client.operator_key())
            agents = [
                await register(client, self.history, f"agent-{number}", self._shape)
                for number in range(self._shape.agents)
            ]
            self._working.set()
            chances = [random.Random(f"{self._seed}:{number}") for number in range(100)]
            workers = [agent.work(chances.pop()) for agent in agents]
            sources: list[Coroutine[Any, Any, None]] = [
                operator.submit(chances.pop(), f"s{number}", self._shape.pause_seconds)
                for number in range(self._shape.submitters)
            ]
            sources += [operator.cancel(chances.pop()), operator.read(chances.pop())]
            working = [asyncio.create_task(worker) for worker in workers]
            watching = asyncio.create_task(operator.watch())
            asking = [asyncio.create_task(source) for source in sources]
            try:
                await _until_set(self._stopping, [*working, *asking, watching])
                await _end(asking)
                await operator.drain(self._shape.drain_seconds)
            finally:
                await _end([*working, *asking, watching])
            self.found = await operator.find_all()


async def _until_set(stopping: threading.Event, tasks: list[asyncio.Task[None]]) -> None:
    while not stopping.is_set():
        done, _ = await asyncio.wait(
            tasks, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
            raise AssertionError(f"{task} ended by itself")


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def register(client: Client, history: History, name: str, shape: Shape) -> Agent:
    """A new agent with its key; its work goes into the history."""
    body = {"name": name, "slots": shape.slots, "capabilities": ["work"]}
    answer = await client.insist("POST", "/api/v1/agents", client.operator_key(), body)
    assert answer.status == 201, answer
    return Agent(client, history, answer.body["agent_id"], answer.body["api_key"], shape)


class Operator:
    """Submits, cancels, reads and watches with the operator's key."""

    def __init__(self, client: Client, history: History, key: str) -> None:
        self._client = client
        self._history = history
        self._key = key

    async def submit(self, chance: random.Random, prefix: str, pause_seconds: float) -> None:
        """Single tasks, chains, diamonds and fans, with every policy."""
        number = 0
        while True:
            number += 1
            name = f"{prefix}-{number}"
            shape = chance.choice(("single", "single", "chain", "diamond", "fan"))
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
            await asyncio.sleep(chance.uniform(0, pause_seconds))

    async def _submit_one(
        self, chance: random.Random, name: str, wanted: list[str | None]
    ) -> str | None:
        body: dict[str, Any] = {
            "name": name,
            "priority": chance.choice(("low", "medium", "high", "critical")),
            "parameters": {"n": chance.randrange(1000)},
            "dependencies": [task_id for task_id in wanted if task_id is not None],
            "on_dependency_failure": chance.choice(POLICIES),
            "max_attempts": chance.choice((1, 3, 10)),
            "backoff": {"kind": "fixed", "base_seconds": chance.choice((0, 0.2))},
        }
        if chance.random() < 0.3:
            body["required_capabilities"] = ["work"]
        if chance.random() < 0.1:
            body["concurrency"] = {"key": "narrow", "limit": 2}
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
            await asyncio.sleep(chance.uniform(0, 0.05))
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
            path = f"{EVENTS}?after={after}&limit=200"
            answer = await self._client.ask("GET", path, self._key)
            if answer is not None and answer.status != 200:
                self._surprised("page of events", answer)
            if answer is not None and answer.status == 200:
                for event in answer.body:
                    after = int(event["seq"])
                    self._history.watched[after] = event["id"]
            await asyncio.sleep(POLL_SECONDS)

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

    async def find_all(self) -> Found:
        """Everything, once the log has come to rest."""
        loop = asyncio.get_running_loop()
        newest, since = "", loop.time()
        while loop.time() - since < SETTLED_SECONDS:
            path = f"{EVENTS}?order=desc&limit=1"
            answer = await self._client.insist("GET", path, self._key)
            seq = answer.body[0]["seq"] if answer.body else ""
            if seq != newest:
                newest, since = seq, loop.time()
            await asyncio.sleep(POLL_SECONDS)
        tasks = await self._client.read_all(TASKS, self._key, {})
        events = await self._client.read_all(EVENTS, self._key, {"after": 0})
        logs = {}
        for task in tasks:
            if task["log_count"]:
                path = f"{TASKS}/{task['task_id']}/logs?limit=1000"
                answer = await self._client.insist("GET", path, self._key)
                logs[task["task_id"]] = [line["message"] for line in answer.body["logs"]]
        return Found(tasks, events, logs)

    def _any_task(self, chance: random.Random, among: int) -> str | None:
        young = self._history.submissions[-among:]
        return chance.choice(young).task_id if young else None

    def _surprised(self, what: str, answer: Answer) -> None:
        self._history.surprises.append(f"{what}: {answer.status} {answer.body}")


class Agent:
    """Claims by long-poll and does to its leases whatever an agent may do, and may do wrong."""

    def __init__(
        self, client: Client, history: History, agent_id: str, key: str, shape: Shape
    ) -> None:
        self.agent_id = agent_id
        self.key = key
        self._client = client
        self._history = history
        self._slots = shape.slots
        self._lease_seconds = shape.lease_seconds

    async def work(self, chance: random.Random) -> None:
        """Keep the slots busy until cancelled."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                for task in [task for task in running if task.done()]:
                    task.result()
                    running.discard(task)
                if len(running) >= self._slots:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    continue
                for grant in await self.claim(self._slots - len(running)):
                    own = random.Random(chance.random())
                    running.add(asyncio.create_task(self._handle(grant, own)))
        finally:
            await _end(list(running))

    async def claim(self, max_leases: int, wait_seconds: float = 1.0) -> list[Grant]:
        """Some leases; those of a lost answer are known to the server only."""
        path = f"/api/v1/agents/{self.agent_id}/leases"
        body = {"max_leases": max_leases, "wait_seconds": wait_seconds}
        answer = await self._client.ask("POST", path, self.key, body, wait_seconds=wait_seconds)
        if answer is None:
            return []
        if answer.status != 200:
            self._history.surprises.append(f"claim: {answer.status} {answer.body}")
            return []
        answered = self._history.tick()
        grants = [
            Grant(
                lease["task"]["task_id"], lease["lease_id"], lease["fence"], self.agent_id, answered
            )
            for lease in answer.body
        ]
        self._history.grants += grants
        return grants

    async def _handle(self, grant: Grant, chance: random.Random) -> None:
        for _ in range(chance.choice((0, 0, 1, 3))):
            await asyncio.sleep(chance.uniform(0, 0.1))
            verb = chance.choice((Verb.PROGRESS, Verb.LOGS))
            if await self.report(grant, verb) is Outcome.REFUSED:
                return
        await self._renew_for(grant, chance)
        if chance.random() < KILLED:
            return
        if chance.random() < 0.04:
            # Stopped for longer than its lease: what it says then is late.
            await asyncio.sleep(self._lease_seconds * chance.uniform(1.0, 2.5))
        verb = chance.choices((Verb.COMPLETE, Verb.FAIL, Verb.RELEASE), (80, 14, 6))[0]
        outcome = await self.report(grant, verb)
        if verb is Verb.COMPLETE and outcome is not Outcome.UNKNOWN and chance.random() < 0.2:
            again = await self.report(grant, verb)
            if again not in (outcome, Outcome.UNKNOWN):
                self._history.surprises.append(f"{verb} repeated: {outcome}, then {again}")

    async def _renew_for(self, grant: Grant, chance: random.Random) -> None:
        if chance.random() >= 0.1:
            await asyncio.sleep(chance.uniform(0, 0.15))
            return
        for _ in range(3):
            await asyncio.sleep(self._lease_seconds / 2)
            path = f"/api/v1/leases/{grant.lease_id}/renew"
            await self._client.ask("POST", path, self.key, {"fence": grant.fence})

    async def report(self, grant: Grant, verb: Verb) -> Outcome:
        """Say it until there is an answer, and note it."""
        message = f"{verb} {self._history.tick()}" if verb in (Verb.PROGRESS, Verb.LOGS) else None
        path = f"/api/v1/leases/{grant.lease_id}/{_PATHS.get(verb, verb.value)}"
        body = {"fence": grant.fence, **_body(verb, message)}
        began, tries = self._history.tick(), 0
        outcome = Outcome.UNKNOWN
        try:
            answer = None
            while answer is None:
                tries += 1
                answer = await self._client.ask("POST", path, self.key, body)
                if answer is None:
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
            if answer.status == 200:
                outcome = Outcome.ACCEPTED
            else:
                outcome = Outcome.REFUSED
                if answer.status != 409 or answer.code != "lease-lost":
                    self._history.surprises.append(f"{verb}: {answer.status} {answer.body}")
        finally:
            certain = tries == 1
            report = Report(grant, verb, outcome, began, is_certain=certain, message=message)
            self._history.reports.append(report)
        return outcome


_PATHS = {Verb.PROGRESS: "renew"}


def _body(verb: Verb, message: str | None) -> dict[str, Any]:
    match verb:
        case Verb.PROGRESS:
            return {"progress": {"fraction": 0.5, "message": message}}
        case Verb.LOGS:
            return {"lines": [{"message": message}]}
        case Verb.COMPLETE:
            return {"result": {"done": True}}
        case Verb.FAIL:
            return {"error": {"code": "broken", "message": "As the seed wants it."}}
        case Verb.RELEASE:
            return {"reason": "not now"}
