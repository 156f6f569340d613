"""The blocking client: the same methods, in threads, without an event loop of the caller's."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from agentzero_client import AsyncClient, Client, NotFoundError, WatchClosedError, sync_client
from agentzero_client.portal import Portal
from agentzero_client.sync_client import BlockingClient
from tests.client.fake_hive import FakeHive

T = TypeVar("T")


@pytest.fixture
def blocking(hive: FakeHive) -> Iterator[Client]:
    """A blocking client of the fake, which lives on the test's own loop."""
    client = Client(hive.url, api_key="admin-key")
    yield client
    closing = threading.Thread(target=client.close)
    closing.start()
    closing.join(10)


async def run(work: Callable[[], T]) -> T:
    """Call what blocks in a thread."""
    async with asyncio.timeout(15):
        return await asyncio.to_thread(work)


async def test_methods_block_and_return(hive: FakeHive, blocking: Client) -> None:
    """Submit, look, list, cancel and wait."""

    def use() -> list[str]:
        receipt = blocking.tasks.submit("t", parameters={"a": 1})
        assert blocking.tasks.get(receipt.task_id).parameters == {"a": 1}
        assert [task.task_id for task in blocking.tasks.list()] == [receipt.task_id]
        blocking.tasks.cancel(receipt.task_id)
        return [blocking.tasks.wait(receipt.task_id, timeout=5).status, blocking.auth.me().role]

    assert await run(use) == ["cancelled", "admin"]


async def test_errors_pass_through(hive: FakeHive, blocking: Client) -> None:
    """The same classes as of the asynchronous client."""

    def use() -> None:
        blocking.tasks.get("tsk_unknown")

    with pytest.raises(NotFoundError):
        await run(use)


async def test_watch_is_a_blocking_iterator(hive: FakeHive, blocking: Client) -> None:
    """`with` waits for the subscription, `for` for events."""

    def use() -> list[int]:
        with blocking.watch(["task.created"]) as events:
            blocking.tasks.submit("a")
            blocking.tasks.submit("b")
            seen = [next(events).seq, next(events).seq]
            assert events.cursor == 2
        assert list(events) == []
        return seen

    assert await run(use) == [1, 2]


async def test_refused_watch_raises_where_it_is_entered(hive: FakeHive) -> None:
    """As the asynchronous one does."""

    def use() -> None:
        with Client(hive.url, api_key="wrong") as client, client.watch():
            pass

    with pytest.raises(WatchClosedError):
        await run(use)


async def test_several_threads_share_a_client(hive: FakeHive, blocking: Client) -> None:
    """Requests of several threads run side by side."""
    receipts = await asyncio.gather(
        *(run(lambda: blocking.tasks.submit("t").task_id) for _ in range(5))
    )
    assert sorted(receipts) == sorted(hive.tasks)


async def test_closed_client_says_so(hive: FakeHive) -> None:
    """Closing twice is fine; using it afterwards is not."""

    def use() -> None:
        client = Client(hive.url, api_key="admin-key")
        client.close()
        client.close()
        client.hive.status()

    with pytest.raises(RuntimeError, match="closed"):
        await run(use)


async def test_blocking_on_the_own_loop_is_refused(client: AsyncClient) -> None:
    """It would wait for itself for ever."""
    blocking = BlockingClient(client, Portal(asyncio.get_running_loop()))
    with pytest.raises(RuntimeError, match="asynchronous client"):
        blocking.hive.status()


@pytest.mark.parametrize(
    "resource",
    [
        *("auth", "agents", "leases", "tasks", "schedules", "hive", "events"),
        *("api_keys", "users", "sessions"),
    ],
)
def test_facade_has_every_public_method(resource: str) -> None:
    """A method that is added to a resource can't be forgotten here."""
    asynchronous = AsyncClient("http://127.0.0.1:9", api_key="k")
    facade = getattr(sync_client, resource.title().replace("_", ""))
    methods = inspect.getmembers(type(getattr(asynchronous, resource)), inspect.isfunction)
    missing = [name for name, _ in methods if name[0] != "_" and not hasattr(facade, name)]
    assert missing == []
