"""A decision's change becomes one update: what each mark does to the document, and the event."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from hive import task_machine as machine
from hive.agents import AgentAction, AgentSpec, control, unregister, update
from hive.changes import ABSENT, NOW, Actor, After, Append, Change, Plus, Without
from hive.errors import AgentNotFound, Conflict, NameTaken, TaskNotFound
from hive.leases import LeaseProof
from hive.raw_json import RawJson
from hive.task_spec import Backoff, BackoffKind, TaskSpec, Timeouts
from hive.tasks import Task
from tests.storage.store import ME, Store

SPITEFUL = {
    "$set": {"status": "completed"},
    "a.b": {"$ne": 1, "$": "$status"},
    "": "$$NOW",
    "$where": "sleep(2000)",
    "__proto__": ["$_id", {"$literal": "x"}],
}
TEXTS = ("$status", "$$ROOT", "$$NOW", "a.b", "$", "", "\U0001f41d", "x" * 10_000)


async def _apply(store: Store, task_id: str, **fields: Any) -> dict[str, Any]:
    await store.tasks.change(task_id, lambda _: Change("task.progress", fields), ME)
    return dict(await store.document(task_id))


async def test_marks_are_what_the_database_knows_at_that_instant(store: Store) -> None:
    """Each mark reads the document as it was before the update, and the clock of the database."""
    task = await store.submit()
    await store.set_fields(task.task_id, {"count": 5, "items": [1, 2, 3], "gone": "x"})
    document = await _apply(
        store,
        task.task_id,
        now=NOW,
        later=After(90.5),
        earlier=After(-1),
        count=Plus("count", 2),
        other=Plus("count"),
        fresh=Plus("never_set"),
        items=Append("items", 4, 3),
        started=Append("none", "$status", 3),
        less=Without("items", 2),
        nothing=Without("none", 2),
        gone=ABSENT,
        never=ABSENT,
    )
    assert (document["count"], document["other"], document["fresh"]) == (7, 6, 1)
    assert document["items"] == [2, 3, 4]
    assert document["started"] == ["$status"]
    assert document["less"] == [1, 3]
    assert document["nothing"] == []
    assert "gone" not in document
    assert "never" not in document
    now: datetime = document["now"]
    assert document["later"] - now == timedelta(seconds=90.5)
    assert now - document["earlier"] == timedelta(seconds=1)
    assert document["updated_at"] == now


async def test_marks_inside_a_mapping_replace_the_field_as_a_whole(store: Store) -> None:
    """A lease without a concurrency key must not keep the key of the lease before it."""
    task = await store.submit()
    await _apply(store, task.task_id, held={"key": "gpu", "key_slot": 1, "fence": Plus("count")})
    document = await _apply(store, task.task_id, held={"fence": Plus("count", 2), "at": NOW})
    assert set(document["held"]) == {"fence", "at"}
    await _apply(store, task.task_id, plain={"a": 1, "b": {"c": 2}})
    document = await _apply(store, task.task_id, plain={"b": {"d": 3}})
    assert document["plain"] == {"b": {"d": 3}}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:8])
async def test_texts_are_never_read_as_expressions(store: Store, text: str) -> None:
    """A text that looks like a field or a variable comes back as it went in, everywhere."""
    spec = TaskSpec(
        name=text, description=text, labels={"label": text}, required_capabilities=(text,)
    )
    submitted = machine.submit(spec, text, ())
    task = await store.tasks.insert(store.new("tsk"), submitted, Actor(text, text))
    assert task.spec == spec
    assert task.owner == text
    document = await store.document(task.task_id)
    event = document["event"]["v1"]
    assert (event["actor"], event["request_id"]) == (text, text)
    assert event["data"]["name"] == text


async def test_free_form_values_come_back_byte_for_byte(store: Store) -> None:
    """Parameters and results are bytes to storage: no key in them is ever interpreted."""
    raw = RawJson(b'{"$where" :"1", "a.b":{"":[1.50,1e400]},"\\u0000":null, "a.b":2}\n')
    task = await store.submit(TaskSpec("raw", parameters=raw))
    running = await store.claim()
    assert running is not None
    assert running.lease is not None
    proof = LeaseProof(running.lease.lease_id, 1)
    await store.tasks.change(task.task_id, lambda t: machine.complete(t, proof, raw), ME)
    done = await store.tasks.get(task.task_id)
    assert (done.spec.parameters, done.result) == (raw, raw)


async def test_keys_that_look_like_operators_are_stored_as_they_are(store: Store) -> None:
    """A mapping from outside is a literal: nothing in it acts on the document."""
    task = await store.submit()
    document = await _apply(store, task.task_id, progress=SPITEFUL)
    assert document["progress"] == SPITEFUL
    assert document["status"] == "queued"
    assert document["event"]["v2"]["data"]["progress"] == SPITEFUL


async def test_an_event_has_the_document_as_it_is_after_the_change(store: Store) -> None:
    """One write: the fields, the next version and the whole event, under a key of its own."""
    task = await store.submit(TaskSpec("told", labels={"a": "b"}))
    await _apply(store, task.task_id, progress={"percent": 50})
    document = await store.document(task.task_id)
    [(key, event)] = document["event"].items()
    assert key == "v2"
    assert {name: event[name] for name in ("id", "type", "subject", "version", "actor")} == {
        "id": f"{task.task_id}:2",
        "type": "task.progress",
        "subject": task.task_id,
        "version": 2,
        "actor": "usr_me",
    }
    assert event["time"] == document["updated_at"]
    assert event["data"]["progress"] == {"percent": 50}
    assert event["data"]["labels"] == {"a": "b"}
    assert event["data"]["task_id"] == task.task_id
    assert "parameters" not in event["data"]
    assert "_id" not in event["data"]


async def test_a_task_comes_back_as_it_was_submitted(store: Store) -> None:
    """Every part of a specification survives, optional ones included."""
    spec = TaskSpec(
        "whole",
        description="all of it",
        parameters=RawJson(b"[]"),
        required_capabilities=("b", "a"),
        max_attempts=7,
        backoff=Backoff(BackoffKind.LINEAR, 1.5, 9.0, 0.25),
        non_retryable=("x", "y"),
        timeouts=Timeouts(queue_seconds=1.5),
        concurrency=None,
        labels={"k": "v"},
    )
    task = await store.submit(spec)
    assert (await store.tasks.get(task.task_id)).spec == spec
    assert task.created_at.tzinfo is not None


async def test_an_insert_never_touches_the_document_that_is_there(store: Store) -> None:
    """Under an identifier that is taken the first document is given, which stays as it is."""
    task = await store.submit(TaskSpec("first"))
    before = await store.document(task.task_id)
    second = machine.submit(TaskSpec("second"), "usr_2", ())
    assert await store.tasks.insert(task.task_id, second, ME) == task
    assert await store.document(task.task_id) == before


async def test_no_concurrent_change_is_lost(store: Store) -> None:
    """50 writers of one document: each change is decided on what the others left."""
    task = await store.submit()
    seen: list[int] = []

    def decide(current: Task) -> Change:
        # Plain values, not marks: only the version keeps one from undoing another.
        return Change("task.progress", {"log_count": current.log_count + 1})

    async def increment() -> None:
        seen.append((await store.tasks.change(task.task_id, decide, ME)).log_count)

    await asyncio.gather(*(increment() for _ in range(50)))
    document = await store.document(task.task_id)
    assert (document["log_count"], document["version"]) == (50, 51)
    assert sorted(seen) == list(range(1, 51))


async def test_a_decision_that_changes_nothing_writes_nothing(store: Store) -> None:
    """No version, no event; what the decision raises goes through."""
    task = await store.submit()
    assert await store.tasks.change(task.task_id, lambda _: None, ME) == task
    with pytest.raises(Conflict):
        await store.tasks.change(task.task_id, _refuse, ME)
    with pytest.raises(TaskNotFound):
        await store.tasks.change("tsk_none", lambda _: None, ME)
    assert (await store.document(task.task_id))["version"] == 1


def _refuse(_: Task) -> Change | None:
    raise Conflict("no")


async def test_names_of_agents_are_unique_until_they_are_free(store: Store) -> None:
    """Also when an agent is renamed; a tombstone holds no name."""
    first = await store.register("bee")
    other = await store.register("wasp")
    with pytest.raises(NameTaken, match="'bee'"):
        await store.register("bee")
    with pytest.raises(NameTaken, match="'bee'"):
        await store.agents.change(other.agent_id, lambda a: update(a, AgentSpec("bee")), ME)
    await store.agents.change(first.agent_id, unregister, ME)
    with pytest.raises(AgentNotFound):
        await store.agents.get(first.agent_id)
    await store.register("bee")


async def test_a_control_request_does_not_bring_taken_ones_back(store: Store) -> None:
    """The process takes requests while another is being noted; each is numbered and taken once."""
    agent = await store.register()
    for _ in range(2):
        await store.agents.change(
            agent.agent_id, lambda a: control(a, AgentAction.RESTART, None, running=0), ME
        )
    loaded = await store.agents.get(agent.agent_id)
    await store.agents.heard_of(agent.agent_id, controls_taken=2)
    noted = await store.agents.change(
        agent.agent_id, lambda _: control(loaded, AgentAction.STOP, "$now", running=0), ME
    )
    assert [(c.control_id, c.action, c.reason) for c in noted.controls] == [(3, "stop", "$now")]
