"""What MongoDB is asked: no value from outside ever stands where an operator could."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pymongo import monitoring

from hive import agents as agent_machine
from hive import task_machine as machine
from hive.agents import AgentSpec
from hive.errors import HiveError, LeaseNotFound
from hive.events import Audience
from hive.leases import LeaseProof
from hive.ports import AgentFilter, EventFilter, TaskFilter
from hive.task_spec import (
    AgentLabels,
    Concurrency,
    ConcurrencyStrategy,
    DependencyPolicy,
    Fairness,
    Sticky,
    TaskSpec,
)
from hive.tasks import TaskError
from tests.storage.store import ME, Store, open_store, proof_of

ALLOWED = {
    *("$set", "$unset", "$setOnInsert", "$literal", "$mergeObjects", "$arrayToObject"),
    *("$concat", "$toString", "$add", "$subtract", "$multiply", "$ifNull", "$slice"),
    *("$concatArrays", "$filter", "$expr", "$and", "$or", "$eq", "$ne", "$gt", "$gte", "$lt"),
    *("$lte", "$in", "$nin", "$nor", "$exists", "$elemMatch", "$match", "$group", "$sum", "$max"),
    *("$pullAll", "$toLong", "$toDate", "$min", "$not", "$setIsSubset"),
}
HOSTILE = {"$where": "sleep(2000)||1", "$ne": None, "a.$[]": {"$regex": ".*"}}


class Commands(monitoring.CommandListener):
    """Every command that was sent while it listened."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Keep the command."""
        self.sent.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to keep."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to keep."""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Listens to every client that is made while the test runs."""
    listener = Commands()
    listeners = monitoring._LISTENERS
    kept = listeners.command_listeners
    monkeypatch.setattr(
        monitoring, "_LISTENERS", listeners._replace(command_listeners=[*kept, listener])
    )
    return listener


def _operators(value: Any) -> Iterator[str]:
    """The operators of a command: keys with a dollar, but not what stands under `$literal`."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("$"):
                yield key
            if key not in {"$literal", "$clusterTime", "$db", "$readPreference"}:
                yield from _operators(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _operators(item)


def _documents(command: dict[str, Any]) -> Any:
    """The parts of a command that can hold operators; `insert` carries documents, not operators."""
    if "insert" in command:
        return {}
    parts = ("filter", "query", "update", "updates", "pipeline", "deletes", "sort", "fields")
    return {name: command[name] for name in parts if name in command}


@pytest.mark.parametrize("value", ["$where", "$$ROOT", '{"$gt": ""}', "$ne", "a.b", "\u0000"])
async def test_only_listed_operators_reach_mongodb(
    mongodb_uri: str, database_name: str, commands: Commands, value: str
) -> None:
    """Every text of a request, everywhere it can stand, is a value to MongoDB."""
    async with open_store(mongodb_uri, database_name) as store:
        await _everything(store, value)
    found = {name for command in commands.sent for name in _operators(_documents(command))}
    assert found <= ALLOWED, f"not on the list: {found - ALLOWED}"
    assert {"$literal", "$eq", "$expr"} <= found, "the listener heard nothing"


async def _everything(store: Store, value: str) -> None:
    """Each operation of storage with the value in every place that a client fills."""
    tasks = store.tasks
    labels = {"label": value}
    concurrency = Concurrency(value, 1)
    spec = TaskSpec(
        value,
        description=value,
        labels=labels,
        required_capabilities=(value,),
        non_retryable=(value,),
        concurrency=concurrency,
        fairness=Fairness(value),
        agent_labels=AgentLabels(preferred=labels, head_start_seconds=0),
        sticky=Sticky(value, 0),
    )
    for strategy in ConcurrencyStrategy:
        cancelling = Concurrency(value, 1, strategy)
        await store.submit(replace(spec, concurrency=cancelling, required_capabilities=()))
    await store.submit(spec)
    task = await store.claim(
        value, capabilities=((value,),), concurrency=(value, 1), labels=(value,)
    )
    assert task is not None
    proof = proof_of(task)
    await tasks.queue.keyed_head([value], without=[value])
    await tasks.queue.key_slots(value)
    await tasks.renew(proof, 30.0, agent_id=value)
    line = {"level": "info", "message": value}
    await store.logs.append(proof, [line], ME, agent_id=value)
    await store.logs.append(proof, [line], ME, agent_id=value)
    await tasks.change(task.task_id, lambda t: machine.report_progress(t, proof, HOSTILE, 30.0), ME)
    error = TaskError(value, value)
    await tasks.change_leased(
        proof, lambda t: machine.fail(t, proof, error, 0.0), ME, agent_id=value
    )
    wanted = TaskFilter(owner=value, agent_id=value, name=value)
    await tasks.list(wanted, after=value, limit=5)
    await tasks.statuses([value])
    await tasks.held_by(value)
    await tasks.count_by_status()
    await store.sweeps.drop_ended([value], list(DependencyPolicy), limit=5)
    await store.sweeps.to_end([value], [DependencyPolicy.FAIL], limit=5)
    await store.sweeps.timed_out(limit=5)
    await store.events.read(EventFilter(value, value, Audience(value)), after=0, limit=5)
    agent = AgentSpec(value, value, (value,), 1, labels)
    await store.agents.insert(value, agent_machine.register(agent), ME)
    await store.agents.heard_of(value, controls_taken=1)
    await store.agents.list(AgentFilter(agent_type=value), after=value, limit=5)
    with pytest.raises(LeaseNotFound):
        await tasks.renew(LeaseProof(value, 1), 30.0, agent_id=value)
    with pytest.raises(HiveError):
        await tasks.get(value)


async def test_the_server_runs_no_javascript(store: Store) -> None:
    """`$where` would be refused even if it got there."""
    setting = await store.database.client.admin.command({"getCmdLineOpts": 1})
    assert setting["parsed"]["security"]["javascriptEnabled"] is False
