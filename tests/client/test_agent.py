"""Agents at work: results, failures, progress, logs, cancellation, lost leases."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentzero_client import Agent, TaskContext, TaskError
from tests.client.fake_hive import FakeHive


def make_agent(hive: FakeHive, **settings: Any) -> Agent:
    """An agent that is registered."""
    agent_id, key = hive.add_agent("worker")
    settings = {"slots": 2, "cancel_grace_seconds": 0.2, **settings}
    return Agent("worker", server=hive.url, agent_id=agent_id, api_key=key, **settings)


async def ended(hive: FakeHive, task_id: str) -> dict[str, Any]:
    """Wait for the end of a task and give it."""
    await hive.until(lambda: hive.tasks[task_id]["status"] in ("completed", "failed", "cancelled"))
    return hive.tasks[task_id]


async def begun(hive: FakeHive, task_id: str) -> None:
    """Wait until the handler of a task, which reports progress first, is at work."""
    await hive.until(lambda: hive.tasks[task_id].get("progress"))


def sent(hive: FakeHive, kind: str) -> list[dict[str, Any]]:
    """The frames of a kind that agents sent."""
    return [frame for frame in hive.frames if frame["type"] == kind]


async def test_handler_gets_the_task_and_its_result_completes_it(
    hive: FakeHive, running: Any
) -> None:
    """The way of a task through an agent."""
    agent = make_agent(hive)
    seen: list[Any] = []

    @agent.task("add")
    async def add(ctx: TaskContext, a: int, b: int) -> dict[str, int]:
        seen.append(ctx.task)
        return {"sum": a + b}

    async with running(agent):
        task_id = hive.add_task("t", required_capabilities=["add"], parameters={"a": 1, "b": 2})
        task = await ended(hive, task_id)
    assert (task["status"], task["result"]) == ("completed", {"sum": 3})
    assert (seen[0].task_id, seen[0].fence, seen[0].attempt) == (task_id, 1, 1)
    assert sent(hive, "hello")[0]["capabilities"] == ["add"]


async def test_blocking_handlers_run_side_by_side_in_threads(hive: FakeHive, running: Any) -> None:
    """Each waits for the other: one after the other they would never end."""
    agent = make_agent(hive)
    both = threading.Barrier(2)

    @agent.task("t")
    def meet(ctx: TaskContext) -> str:
        both.wait(5)
        return threading.current_thread().name

    async with running(agent):
        tasks = [hive.add_task("t"), hive.add_task("t")]
        names = {(await ended(hive, task_id))["result"] for task_id in tasks}
    assert names == {f"task {task_id}" for task_id in tasks}


async def test_blocking_handler_uses_the_blocking_client(hive: FakeHive, running: Any) -> None:
    """A handler may submit tasks with the agent's own credential."""
    agent = make_agent(hive)

    @agent.task("t")
    def submit(ctx: TaskContext) -> str:
        return ctx.blocking_client.tasks.submit("child").task_id

    @agent.task("child")
    async def look(ctx: TaskContext) -> str:
        return (await ctx.client.tasks.get(ctx.task.task_id)).status

    async with running(agent):
        child = (await ended(hive, hive.add_task("t")))["result"]
        assert (await ended(hive, child))["result"] == "running"


@pytest.mark.parametrize(
    ("raised", "code", "message", "retryable"),
    [
        (TaskError("bad-file", "It is empty."), "bad-file", "It is empty.", False),
        (TaskError("busy", "", retryable=True), "busy", "", True),
        (ValueError("broken"), "unhandled-exception", "ValueError: broken", True),
        (KeyError(), "unhandled-exception", "KeyError", True),
        (
            OSError("http://u:pw@host refused azk_0123456789abcdef and Bearer abc.def"),
            "unhandled-exception",
            "OSError: http://[redacted]@host refused [redacted] and Bearer [redacted]",
            True,
        ),
    ],
)
async def test_what_a_handler_raises_fails_the_task(
    hive: FakeHive,
    running: Any,
    raised: Exception,
    code: str,
    message: str,
    retryable: bool,  # noqa: FBT001  # A column of the table.
) -> None:
    """With a code of its own, or as an unhandled exception without secrets."""
    agent = make_agent(hive)

    @agent.task("*")
    async def fail(ctx: TaskContext) -> None:
        raise raised

    async with running(agent):
        task = await ended(hive, hive.add_task("t"))
    assert task["error"] == {"code": code, "message": message}
    assert task["retryable_"] is retryable


@pytest.mark.parametrize("result", [{1, 2}, float("nan"), object(), "\ud800"])
async def test_result_that_is_no_json_fails_the_task(
    hive: FakeHive, running: Any, result: Any
) -> None:
    """Trying again would give the same."""
    agent = make_agent(hive)
    agent.task("*")(lambda ctx: result)
    async with running(agent):
        task = await ended(hive, hive.add_task("t"))
    assert (task["error"]["code"], task["retryable_"]) == ("result-not-json", False)


async def test_task_without_a_handler_is_failed(hive: FakeHive, running: Any) -> None:
    """The agent says so; the hive need not wait for a lease to expire."""
    agent = make_agent(hive, capabilities=["a"])
    async with running(agent):
        task = await ended(hive, hive.add_task("t"))
    assert (task["error"]["code"], task["retryable_"]) == ("no-handler", False)


async def test_log_lines_are_batched_in_order_before_the_end(hive: FakeHive, running: Any) -> None:
    """A thousand lines are a few frames, all of them before `complete`."""
    agent = make_agent(hive)

    @agent.task("t")
    async def talk(ctx: TaskContext) -> None:
        for n in range(1_200):
            ctx.log(f"line {n}", level="debug")

    async with running(agent):
        task_id = hive.add_task("t")
        await ended(hive, task_id)
    assert [line["message"] for line in hive.logs[task_id]] == [f"line {n}" for n in range(1_200)]
    assert [len(frame["lines"]) for frame in sent(hive, "log")] == [500, 500, 200]
    assert hive.frames.index(sent(hive, "complete")[0]) > hive.frames.index(sent(hive, "log")[-1])


async def test_long_and_odd_lines_are_made_to_fit(hive: FakeHive, running: Any) -> None:
    """Nothing is lost of a long line; what the contract forbids is replaced."""
    agent = make_agent(hive)

    @agent.task("t")
    async def talk(ctx: TaskContext) -> None:
        ctx.log("x" * 10_000)
        ctx.log("a\0b\ud800")

    async with running(agent):
        task_id = hive.add_task("t")
        await ended(hive, task_id)
    lines = [line["message"] for line in hive.logs[task_id]]
    assert [len(line) for line in lines[:2]] == [8192, 10_000 - 8192]
    assert lines[2] == "a\ufffdb?"


async def test_progress_is_coalesced_to_the_newest(hive: FakeHive, running: Any) -> None:
    """A loop that reports every step costs the hive little."""
    agent = make_agent(hive)

    @agent.task("t")
    def count(ctx: TaskContext) -> None:
        for n in range(1_001):
            ctx.progress(n / 1_000, f"step {n}")

    async with running(agent):
        task_id = hive.add_task("t")
        task = await ended(hive, task_id)
    assert task["progress"] == {"fraction": 1.0, "message": "step 1000"}
    assert len(sent(hive, "progress")) <= 5


async def test_progress_is_checked_where_it_is_reported(hive: FakeHive, running: Any) -> None:
    """NaN is a mistake; a little too much is not."""
    agent = make_agent(hive)

    @agent.task("t")
    async def report(ctx: TaskContext) -> None:
        with pytest.raises(ValueError, match="not a number"):
            ctx.progress(float("nan"))
        with pytest.raises(ValueError, match="level is one of"):
            ctx.log("m", level="loud")  # type: ignore[arg-type]  # The mistake.
        ctx.progress(1.0000001)

    async with running(agent):
        task = await ended(hive, hive.add_task("t"))
    assert (task["status"], task["progress"]) == ("completed", {"fraction": 1.0})


async def test_lease_is_renewed_while_the_handler_works(hive: FakeHive, running: Any) -> None:
    """At a third of the lease period, without the handler's doing."""
    hive.lease_seconds = 0.3
    agent = make_agent(hive)
    enough = asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> None:
        await enough.wait()

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: len(sent(hive, "progress")) >= 5)
        (lease,) = hive.leases.values()
        assert lease.expires_at > asyncio.get_running_loop().time()
        enough.set()
        assert (await ended(hive, task_id))["status"] == "completed"


async def test_a_task_with_a_heartbeat_is_renewed_in_time_for_it(
    hive: FakeHive, running: Any
) -> None:
    """Its lease is shorter than the period that the hive gives to others."""
    agent = make_agent(hive)
    enough = asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> None:
        await enough.wait()

    async with running(agent):
        task_id = hive.add_task("t", timeouts={"heartbeat_seconds": 1})
        async with asyncio.timeout(5):
            await hive.until(lambda: len(sent(hive, "progress")) >= 2)
        enough.set()
        assert (await ended(hive, task_id))["status"] == "completed"


async def test_cancelled_handler_is_told_and_its_task_cancelled(
    hive: FakeHive, running: Any
) -> None:
    """`ctx.raise_if_cancelled` gives the task back; the hive makes it cancelled."""
    agent = make_agent(hive)

    @agent.task("t")
    def work(ctx: TaskContext) -> None:
        assert ctx.wait_cancelled(10)
        ctx.raise_if_cancelled()

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.cancel(task_id)
        assert (await ended(hive, task_id))["status"] == "cancelled"
    assert sent(hive, "release")[0]["reason"] == "cancelled"


async def test_handler_that_does_not_look_is_interrupted_after_the_grace(
    hive: FakeHive, running: Any
) -> None:
    """An asynchronous handler can be."""
    agent = make_agent(hive)

    @agent.task("t")
    async def work(ctx: TaskContext) -> None:
        await asyncio.Event().wait()

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.cancel(task_id)
        assert (await ended(hive, task_id))["status"] == "cancelled"


async def test_cancellation_is_also_learnt_from_a_renewal(hive: FakeHive, running: Any) -> None:
    """The `cancel` frame may have been lost with a connection."""
    hive.lease_seconds = 0.3
    agent = make_agent(hive)

    @agent.task("t")
    async def work(ctx: TaskContext) -> None:
        await ctx.until_cancelled()

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.tasks[task_id]["cancel_requested"] = True
        assert (await ended(hive, task_id))["status"] == "cancelled"


async def test_work_that_was_done_all_the_same_completes(hive: FakeHive, running: Any) -> None:
    """A result after a cancellation is a result."""
    agent = make_agent(hive)

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        await ctx.until_cancelled()
        return "done"

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.cancel(task_id)
        assert (await ended(hive, task_id))["result"] == "done"


@pytest.mark.parametrize("told", [True, False])
async def test_lost_lease_cancels_the_handler_and_drops_its_result(
    hive: FakeHive,
    running: Any,
    told: bool,  # noqa: FBT001  # A column of the table.
) -> None:
    """Whether the hive says so or a renewal finds out: nothing is written any more."""
    hive.lease_seconds = 0.3
    hive.pushes = True
    agent = make_agent(hive)
    cancelled = asyncio.Event()

    @agent.task("t")
    async def work(ctx: TaskContext) -> str:
        await ctx.until_cancelled()
        ctx.log("too late")
        ctx.progress(0.9)
        cancelled.set()
        return "stale"

    async with running(agent):
        task_id = hive.add_task("t")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.pushes = False
        hive.expire(task_id, tell=told)
        async with asyncio.timeout(10):
            await cancelled.wait()
    assert sent(hive, "complete") == []
    assert hive.logs[task_id] == []
    assert hive.tasks[task_id]["status"] == "queued"


async def test_late_completion_is_refused_and_dropped(hive: FakeHive, running: Any) -> None:
    """A worker that slept through its lease sends once, hears 409 and goes on with other work."""
    agent = make_agent(hive)
    wake = asyncio.Event()

    @agent.task("slow")
    async def slow(ctx: TaskContext) -> str:
        await wake.wait()
        return "stale"

    agent.task("other")(lambda ctx: "fine")
    async with running(agent):
        task_id = hive.add_task("slow")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.pushes = False
        hive.expire(task_id)
        hive.tasks[task_id]["status"] = "cancelled"
        wake.set()
        await hive.until(lambda: sent(hive, "complete"))
        hive.pushes = True
        assert (await ended(hive, hive.add_task("other")))["result"] == "fine"
    assert "result" not in hive.tasks[task_id]
    assert [f["result"] for f in sent(hive, "complete")] == ["stale", "fine"]


async def test_thread_that_lost_its_lease_keeps_its_slot(hive: FakeHive, running: Any) -> None:
    """A thread can't be interrupted: until it ends, the agent takes no other task for it."""
    agent = make_agent(hive, slots=1)
    leave = threading.Event()

    @agent.task("stuck")
    def stuck(ctx: TaskContext) -> None:
        leave.wait(20)

    agent.task("next")(lambda ctx: "done")
    async with running(agent):
        task_id = hive.add_task("stuck")
        await hive.until(lambda: hive.tasks[task_id]["status"] == "running")
        hive.pushes = False
        hive.expire(task_id, tell=True)
        hive.tasks[task_id]["status"] = "cancelled"
        hive.pushes = True
        next_id = hive.add_task("next")
        await hive.until(lambda: sent(hive, "reject"))
        # Told with its next heartbeat, the hive sends nothing more meanwhile.
        await hive.until(lambda: [f for f in sent(hive, "heartbeat") if f.get("free_slots") == 0])
        assert "result" not in hive.tasks[next_id]
        leave.set()
        assert (await ended(hive, next_id))["result"] == "done"
