"""An agent that claims by long-poll and does whatever an agent may do, and may do wrong.

It runs as a task of the load's event loop, or as a process of its own (`agent_process.py`), which
can be killed and stopped.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from tests.faults.client import LOOK_AGAIN_SECONDS, Client
from tests.faults.history import Grant, History, Outcome, Report, Verb
from tests.faults.shape import Shape

KILLED = 0.02
"""How many leases the agent forgets: it says nothing of them any more."""
PACE_SECONDS = 0.03


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel them and wait for it; what one of them failed with is raised."""
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
        self._chatter = shape.chatter

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
                # Slots that get free together are filled together.
                await asyncio.sleep(PACE_SECONDS / self._chatter)
        finally:
            await end(list(running))

    async def claim(self, max_leases: int, wait_seconds: float = 1.0) -> list[Grant]:
        """Some leases; those of a lost answer are known to the server only."""
        path = f"/api/v1/agents/{self.agent_id}/leases"
        body = {"max_leases": max_leases, "wait_seconds": wait_seconds}
        began = self._history.tick()
        answer = await self._client.ask("POST", path, self.key, body, wait_seconds=wait_seconds)
        if answer is None:
            return []
        if answer.status != 200:
            self._history.note_surprise(f"claim: {answer.status} {answer.body}")
            return []
        answered = self._history.tick()
        grants = [
            Grant(
                task_id=lease["task"]["task_id"],
                lease_id=lease["lease_id"],
                fence=lease["fence"],
                agent_id=self.agent_id,
                began=began,
                answered=answered,
            )
            for lease in answer.body
        ]
        self._history.note_grants(grants)
        return grants

    async def _handle(self, grant: Grant, chance: random.Random) -> None:
        talks = chance.random() < self._chatter
        for _ in range(chance.choice((0, 0, 1, 3)) if talks else 0):
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
        if (
            verb is Verb.COMPLETE
            and outcome is not Outcome.UNKNOWN
            and chance.random() < 0.2 * self._chatter
        ):
            again = await self.report(grant, verb)
            if again not in (outcome, Outcome.UNKNOWN):
                self._history.note_surprise(f"{verb} repeated: {outcome}, then {again}")

    async def _renew_for(self, grant: Grant, chance: random.Random) -> None:
        if chance.random() >= 0.1 * self._chatter:
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
                    self._history.note_surprise(f"{verb}: {answer.status} {answer.body}")
        finally:
            certain = tries == 1
            report = Report(grant, verb, outcome, began, is_certain=certain, message=message)
            self._history.note_report(report)
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
