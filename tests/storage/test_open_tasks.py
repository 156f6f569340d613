"""The mark of tasks that have not ended: one key stands once, and open tasks are counted."""

from __future__ import annotations

import asyncio

from hive import task_machine as machine
from hive.errors import Unavailable
from hive.submission import DuplicateTask
from hive.task_spec import Deduplication, TaskSpec
from hive.tasks import Task
from storage.mongo.open_tasks import MongoOpenTasks
from tests.storage.store import ME, Store

RUSH = 100
OWNER = "usr_me"
KEYED = TaskSpec("keyed", max_attempts=1, deduplication=Deduplication("nightly"))


async def submit_patiently(store: Store) -> Task | DuplicateTask:
    """One submission under the key; what a busy machine did not answer is sent again."""
    task_id = store.new("tsk")
    while True:
        try:
            return await store.tasks.insert(task_id, machine.submit(KEYED, OWNER, ()), ME)
        except DuplicateTask as duplicate:
            return duplicate
        except Unavailable:
            continue


async def test_hundred_submissions_of_one_key_at_once_make_one_task(store: Store) -> None:
    """One is made, and all others are told which."""
    async with asyncio.TaskGroup() as group:
        rush = [group.create_task(submit_patiently(store)) for _ in range(RUSH)]
    outcomes = [done.result() for done in rush]
    assert sum(isinstance(outcome, Task) for outcome in outcomes) == 1
    (made,) = {outcome.task_id for outcome in outcomes}
    open_tasks = MongoOpenTasks(store.tasks.collection)
    assert await open_tasks.find(OWNER, "nightly") == made
    assert await open_tasks.count(OWNER, most=RUSH) == 1
    assert await store.tasks.collection.count_documents({}) == 1


async def test_open_tasks_are_counted_up_to_a_number_from_the_index(store: Store) -> None:
    """The end of a task takes it out; others' tasks are not seen; no document is read."""
    open_tasks = MongoOpenTasks(store.tasks.collection)
    tasks = [await store.submit() for _ in range(3)]
    assert await open_tasks.count(OWNER, most=10) == 3
    assert await open_tasks.count(OWNER, most=2) == 2
    assert await open_tasks.count("usr_other", most=10) == 0
    await store.tasks.change(tasks[0].task_id, machine.cancel, ME)
    assert await open_tasks.count(OWNER, most=10) == 2
    plan = await store.database.command(
        "explain",
        {
            "count": store.tasks.collection.name,
            "query": {"open.owner": {"$eq": OWNER}},
            "hint": "open_tasks",
            "limit": 10,
        },
        verbosity="executionStats",
    )
    assert plan["executionStats"]["totalDocsExamined"] == 0
