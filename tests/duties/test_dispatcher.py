"""The dispatcher of a node: waiting agents get work at once, each task once, and lose none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hive import task_machine as machine
from hive.agents import AgentAction, control
from hive.errors import AgentNotFound, Unavailable
from hive.ports import TaskFilter
from hive.task_spec import AgentLabels, Concurrency, TaskPriority
from hive.tasks import Task, TaskStatus
from server import dispatcher as dispatching
from server.dispatcher import NodeDispatcher
from tests.duties.recording import recording
from tests.servers import eventually
from tests.storage.store import ME, Store, proof_of

LONG = 30.0


def _dispatcher(store: Store) -> NodeDispatcher:
    return NodeDispatcher(store.tasks.queue, store.tasks, store.agents, store, lease_seconds=30.0)


@pytest.fixture
async def dispatcher(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NodeDispatcher]:
    """A dispatcher at work that is told of each commit, and never looks again by itself."""
    monkeypatch.setattr(dispatching, "LOOK_AGAIN_SECONDS", 3600.0)
    working = _dispatcher(store)
    store.tasks.on_commit(working.committed)
    store.agents.on_commit(working.agent_committed)
    working.start()
    yield working
    await working.stop()


def _wait(
    dispatcher: NodeDispatcher, agent_id: str, max_leases: int = 1, seconds: float = LONG
) -> asyncio.Task[Sequence[Task]]:
    claim = dispatcher.claim(agent_id, max_leases=max_leases, wait_seconds=seconds)
    return asyncio.create_task(claim)


async def _is_waiting(dispatcher: NodeDispatcher, count: int = 1) -> None:
    await eventually(
        lambda: sum(waiter.is_ready for waiter in dispatcher._waiters) == count, "all wait"
    )


async def _granted(claim: asyncio.Task[Sequence[Task]]) -> list[str]:
    return [task.task_id for task in await asyncio.wait_for(claim, 10)]


async def _idle(store: Store) -> set[str]:
    """The tasks that nobody has a lease on."""
    queued = await store.tasks.list(TaskFilter(status=TaskStatus.QUEUED), after=None, limit=200)
    return {task.task_id for task in queued}


async def test_a_claim_gets_what_is_queued_up_to_its_limits(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """Neither more than it asked for, nor more than the agent's slots."""
    agent = await store.register(slots=3)
    tasks = [(await store.submit()).task_id for _ in range(5)]
    first = await dispatcher.claim(agent.agent_id, max_leases=2, wait_seconds=0)
    second = await dispatcher.claim(agent.agent_id, max_leases=5, wait_seconds=0)
    third = await dispatcher.claim(agent.agent_id, max_leases=5, wait_seconds=0)
    assert [task.task_id for task in (*first, *second)] == tasks[:3]
    assert [task.lease.slot for task in (*first, *second) if task.lease] == [1, 2, 3]
    assert third == []
    with pytest.raises(AgentNotFound):
        await dispatcher.claim("agt_none", max_leases=1, wait_seconds=0)


async def test_a_waiter_is_served_when_a_task_is_queued(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """Woken at the commit on this node, of a new capability as well; others wait on."""
    plain = await store.register()
    able = await store.register(capabilities=("gpu",))
    other, claim = _wait(dispatcher, plain.agent_id), _wait(dispatcher, able.agent_id)
    await _is_waiting(dispatcher, 2)
    task = await store.submit(required_capabilities=("gpu",))
    assert await _granted(claim) == [task.task_id]
    assert not other.done()
    task = await store.submit()
    assert await _granted(other) == [task.task_id]


async def test_a_waiter_is_served_when_the_head_start_of_others_is_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says so: the node looks again by itself, also for what another node has queued."""
    monkeypatch.setattr(dispatching, "LOOK_AGAIN_SECONDS", 3600.0)
    here = _dispatcher(store)
    here.start()
    agent = await store.register()
    preferring = AgentLabels(preferred={"zone": "mars"}, head_start_seconds=0.2)

    async with recording(store) as recorder:
        recorder.on_publish = here.heard
        claim = _wait(here, agent.agent_id)
        await _is_waiting(here)
        task = await store.submit(agent_labels=preferring)
        assert await _granted(claim) == [task.task_id]
    await here.stop()


async def test_a_waiter_is_served_when_its_own_slot_is_free(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """An agent that is full waits for itself."""
    agent = await store.register()
    tasks = [(await store.submit()).task_id for _ in range(2)]
    [running] = await dispatcher.claim(agent.agent_id, max_leases=1, wait_seconds=0)
    claim = _wait(dispatcher, agent.agent_id)
    await _is_waiting(dispatcher)
    await store.complete(proof_of(running))
    assert await _granted(claim) == tasks[1:]


async def test_a_waiter_on_another_node_is_served_by_the_event(store: Store) -> None:
    """A task that becomes queued elsewhere reaches this node through the log."""
    here = _dispatcher(store)
    here.start()
    agent = await store.register(capabilities=("a", "b"))

    async with recording(store) as recorder:
        recorder.on_publish = here.heard
        claim = _wait(here, agent.agent_id)
        await _is_waiting(here)
        task = await store.submit(required_capabilities=("b", "a"))
        assert await _granted(claim) == [task.task_id]
    await here.stop()


async def test_a_wait_ends_with_nothing_after_its_time(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """Also when the dispatcher is stopped; nothing stays behind."""
    agent = await store.register()
    assert await dispatcher.claim(agent.agent_id, max_leases=1, wait_seconds=0.01) == []
    claim = _wait(dispatcher, agent.agent_id)
    await _is_waiting(dispatcher)
    await dispatcher.stop()
    assert await _granted(claim) == []
    assert dispatcher._waiters == []
    assert not dispatcher._locks


async def test_paused_agents_get_nothing_until_they_are_resumed(store: Store) -> None:
    """They wait on through the pause, and the event of the resume wakes them."""
    here = _dispatcher(store)
    store.tasks.on_commit(here.committed)
    here.start()
    agent, other = await store.register(), await store.register()

    async def ask(action: AgentAction) -> None:
        await store.agents.change(agent.agent_id, lambda a: control(a, action, None, running=0), ME)

    async with recording(store) as recorder:
        recorder.on_publish = here.heard
        await ask(AgentAction.PAUSE)
        claim = _wait(here, agent.agent_id)
        await _is_waiting(here)
        first = await store.submit()
        # The other one gets it, so the claimer has been round.
        assert await _granted(_wait(here, other.agent_id)) == [first.task_id]
        second = await store.submit()
        assert not claim.done()
        await ask(AgentAction.RESUME)
        assert await _granted(claim) == [second.task_id]
    await here.stop()


async def test_twenty_waiters_and_twenty_tasks_come_together_once(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """No task is given twice, no waiter is left out."""
    agents = [await store.register() for _ in range(20)]
    claims = [_wait(dispatcher, agent.agent_id) for agent in agents]
    await _is_waiting(dispatcher, 20)
    tasks = await asyncio.gather(*(store.submit() for _ in range(20)))
    granted = [await _granted(claim) for claim in claims]
    assert all(len(each) == 1 for each in granted)
    assert sorted(each[0] for each in granted) == sorted(task.task_id for task in tasks)


async def test_claims_and_tasks_that_come_at_once_lose_nothing(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """Whatever is leased was delivered: a claim never leaves a lease behind."""
    agents = [await store.register(slots=4) for _ in range(4)]

    async def work(agent_id: str) -> list[str]:
        done: list[str] = []
        while True:
            tasks = await dispatcher.claim(agent_id, max_leases=2, wait_seconds=0.3)
            if not tasks:
                return done
            for task in tasks:
                await store.complete(proof_of(task))
                done.append(task.task_id)

    async def submit() -> list[str]:
        return [(await store.submit()).task_id for _ in range(20)]

    *done, submitted, more = await asyncio.gather(
        *(work(agent.agent_id) for agent in agents for _ in range(3)), submit(), submit()
    )
    left = await _idle(store)
    assert sorted(sum(done, [])) == sorted({*submitted, *more} - left)  # noqa: RUF017
    assert (await store.tasks.count_by_status())["running"] == 0


async def test_a_waiter_is_not_served_twice_at_once(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a claim tries by itself the claimer passes it by, and comes again if it got nothing."""
    agent = await store.register(slots=2)
    look, waiting, go_on = store.agents.get, asyncio.Event(), asyncio.Event()

    async def slow(agent_id: str) -> Any:
        waiting.set()
        await go_on.wait()
        return await look(agent_id)

    monkeypatch.setattr(store.agents, "get", slow)
    claim = _wait(dispatcher, agent.agent_id)
    await asyncio.wait_for(waiting.wait(), 10)
    tasks = [await store.submit() for _ in range(2)]
    await eventually(lambda: dispatcher._waiters[0].was_passed, "the claimer passed by")
    go_on.set()
    assert await _granted(claim) == [tasks[0].task_id]
    assert await _idle(store) == {tasks[1].task_id}


async def test_a_waiter_that_was_passed_by_is_come_back_to(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is queued behind the back of the claim's own try wakes nobody a second time."""
    agent = await store.register()
    take, waiting, go_on = store.tasks.queue.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Task | None:
        task = await take(*args)
        waiting.set()
        await go_on.wait()
        return task

    # Its queue is known and empty by now, so that the try gets as far as the claim.
    monkeypatch.setattr(dispatching, "KEYS_FRESH_SECONDS", 3600.0)
    assert await dispatcher.claim(agent.agent_id, max_leases=1, wait_seconds=0) == []
    gone = await store.submit()
    await store.tasks.change(gone.task_id, machine.cancel, ME)
    monkeypatch.setattr(store.tasks.queue, "claim", slow)
    claim = _wait(dispatcher, agent.agent_id)
    await asyncio.wait_for(waiting.wait(), 10)
    task = await store.submit()
    await eventually(lambda: dispatcher._waiters[0].was_passed, "the claimer passed by")
    go_on.set()
    assert await _granted(claim) == [task.task_id]


async def test_a_grant_in_the_moment_of_leaving_is_given_back(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """The claimer has answered, and the one who waited is gone before hearing it."""
    agent = await store.register()
    claim = _wait(dispatcher, agent.agent_id)
    await _is_waiting(dispatcher)
    [waiter] = dispatcher._waiters
    dispatcher._waiters.clear()
    task, _ = await store.running(agent.agent_id)
    waiter.granted.set_result([task])
    claim.cancel()
    with suppress(asyncio.CancelledError):
        await claim
    await dispatcher.stop()
    assert await _idle(store) == {task.task_id}


async def test_a_queue_that_fills_while_the_queues_are_read_is_seen(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was on its way when the first task of its kind was committed."""
    agent = await store.register(capabilities=("gpu",))
    read, waiting, go_on = store.tasks.queue.queued_keys, asyncio.Event(), asyncio.Event()

    async def slow() -> Sequence[str]:
        found = await read()
        waiting.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(store.tasks.queue, "queued_keys", slow)
    claim = _wait(dispatcher, agent.agent_id)
    await asyncio.wait_for(waiting.wait(), 10)
    task = await store.submit(required_capabilities=("gpu",))
    go_on.set()
    assert await _granted(claim) == [task.task_id]


async def test_what_the_claimer_takes_while_it_is_stopped_is_given_back(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that drains costs no attempt, and nobody waits for it any more."""
    agent = await store.register()
    take, taken, go_on = store.tasks.queue.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Task | None:
        task = await take(*args)
        taken.set()
        await go_on.wait()
        return task

    monkeypatch.setattr(store.tasks.queue, "claim", slow)
    claim = _wait(dispatcher, agent.agent_id)
    await _is_waiting(dispatcher)
    task = await store.submit()
    await asyncio.wait_for(taken.wait(), 10)
    stopping = asyncio.create_task(dispatcher.stop())
    assert await _granted(claim) == []
    go_on.set()
    await asyncio.wait_for(stopping, 10)
    again = await store.tasks.get(task.task_id)
    assert (again.status, again.attempt) == (TaskStatus.QUEUED, 0)
    await store.tasks.change(task.task_id, machine.cancel, ME)
    assert await _granted(_wait(dispatcher, agent.agent_id)) == []


async def _leaves_while(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch, *, feeding: bool
) -> Task:
    """Cancel a claim right after its task was leased in the store; the task."""
    agent = await store.register()
    take, taken, go_on = store.tasks.queue.claim, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> Task | None:
        task = await take(*args)
        taken.set()
        await go_on.wait()
        return task

    monkeypatch.setattr(store.tasks.queue, "claim", slow)
    if feeding:
        claim = _wait(dispatcher, agent.agent_id)
        await _is_waiting(dispatcher)
        task = await store.submit()
    else:
        task = await store.submit()
        claim = _wait(dispatcher, agent.agent_id)
    await asyncio.wait_for(taken.wait(), 10)
    claim.cancel()
    with suppress(asyncio.CancelledError):
        await claim
    go_on.set()
    return task


@pytest.mark.parametrize("feeding", [False, True], ids=["its own try", "the claimer's"])
async def test_a_claim_that_is_cancelled_gives_its_lease_back(
    store: Store,
    dispatcher: NodeDispatcher,
    monkeypatch: pytest.MonkeyPatch,
    feeding: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """The task is queued again at once, and the attempt does not count."""
    task = await _leaves_while(store, dispatcher, monkeypatch, feeding=feeding)
    deadline = asyncio.get_running_loop().time() + 10
    while (again := await store.tasks.get(task.task_id)).version < 3:
        assert asyncio.get_running_loop().time() < deadline, "the lease was not given back"
    assert (again.status, again.attempt, again.fence) == (TaskStatus.QUEUED, 0, 1)


async def test_the_claimer_survives_a_failure_to_give_back(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage at the wrong moment costs one lease period, not all long-polls of the node."""
    failed = asyncio.Event()

    async def fail(*_: Any, **__: Any) -> Task:
        failed.set()
        raise Unavailable

    change_leased = store.tasks.change_leased
    monkeypatch.setattr(store.tasks, "change_leased", fail)
    await _leaves_while(store, dispatcher, monkeypatch, feeding=True)
    await asyncio.wait_for(failed.wait(), 10)
    monkeypatch.setattr(store.tasks, "change_leased", change_leased)
    agent = await store.register()
    claim = _wait(dispatcher, agent.agent_id)
    await _is_waiting(dispatcher)
    task = await store.submit()
    assert await _granted(claim) == [task.task_id]


async def test_an_outage_ends_no_wait(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claimer goes on with the next task that is queued."""
    agent = await store.register()
    claim = _wait(dispatcher, agent.agent_id)
    await _is_waiting(dispatcher)
    take, failures = store.tasks.queue.claim, [Unavailable(), ValueError("a fault")]

    async def fails(*args: Any) -> Task | None:
        if failures:
            raise failures.pop()
        return await take(*args)

    monkeypatch.setattr(store.tasks.queue, "claim", fails)
    first = await store.submit()
    await eventually(lambda: len(failures) < 2, "the claimer has tried")
    await store.submit()
    await eventually(lambda: not failures, "the claimer goes on")
    await store.submit()
    assert await _granted(claim) == [first.task_id]


async def test_concurrency_keys_are_kept_and_passed_over_when_full(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """Two of one key run at most; the next in the queue goes ahead meanwhile."""
    agents = [await store.register() for _ in range(4)]
    keyed = [
        await store.submit(concurrency=Concurrency("gpu", 2), priority=TaskPriority.HIGH)
        for _ in range(3)
    ]
    plain = await store.submit()
    granted = [
        await dispatcher.claim(agent.agent_id, max_leases=1, wait_seconds=0) for agent in agents
    ]
    assert [[task.task_id for task in tasks] for tasks in granted] == [
        [keyed[0].task_id],
        [keyed[1].task_id],
        [plain.task_id],
        [],
    ]
    claim = _wait(dispatcher, agents[3].agent_id)
    await _is_waiting(dispatcher)
    await store.complete(proof_of(granted[0][0]))
    assert await _granted(claim) == [keyed[2].task_id]


async def test_a_waiter_gets_a_task_with_a_key_that_becomes_queued_later(
    store: Store, dispatcher: NodeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such task was queued when the queues were read; none of them is read again."""
    agent = await store.register()
    later = datetime.now(UTC) + timedelta(days=1)
    task = await store.submit(run_at=later, concurrency=Concurrency("k", 1))
    assert await dispatcher.claim(agent.agent_id, max_leases=1, wait_seconds=0) == []
    monkeypatch.setattr(dispatching, "KEYS_FRESH_SECONDS", 3600.0)
    claim = _wait(dispatcher, agent.agent_id)
    await _is_waiting(dispatcher)
    await store.tasks.change(task.task_id, machine.promote, ME)
    assert await _granted(claim) == [task.task_id]


async def test_a_key_is_never_over_its_limit_under_contention(
    store: Store, dispatcher: NodeDispatcher
) -> None:
    """Twelve agents, a limit of three, and every task is done in the end."""
    agents = [await store.register() for _ in range(12)]
    for _ in range(24):
        await store.submit(concurrency=Concurrency("gpu", 3))
    most: list[int] = []

    async def work(agent_id: str) -> int:
        done = 0
        while tasks := await dispatcher.claim(agent_id, max_leases=1, wait_seconds=1.0):
            most.append(len(await store.tasks.queue.key_slots("gpu")))
            await store.complete(proof_of(tasks[0]))
            done += 1
        return done

    assert sum(await asyncio.gather(*(work(agent.agent_id) for agent in agents))) == 24
    assert max(most) <= 3
    assert (await store.tasks.count_by_status())["completed"] == 24
