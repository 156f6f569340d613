"""The connection to MongoDB: what is asked of it, and what its failures become."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConnectionFailure, PyMongoError

from hive.errors import Unavailable

Document = dict[str, Any]
Database = AsyncDatabase[Document]
P = ParamSpec("P")
T = TypeVar("T")

DUPLICATE_KEY = 11000
"""MongoDB's code of a write that a unique index refuses."""
TIMEOUT_MS = 2000
INDEX_SECONDS = 3600.0
STREAM_WAIT_MS = 500
STREAM_SOCKET_TIMEOUT_MS = 3000


def open_client(uri: str, *, pool_size: int = 50) -> AsyncMongoClient[Document]:
    """A client whose every operation ends within 2 s, acknowledged and read by a majority."""
    return AsyncMongoClient(
        uri,
        timeoutMS=TIMEOUT_MS,
        serverSelectionTimeoutMS=TIMEOUT_MS,
        connectTimeoutMS=1000,
        maxPoolSize=pool_size,
        maxIdleTimeMS=60_000,
        **_common(),
    )


def open_stream_client(
    uri: str, *, socket_timeout_ms: int = STREAM_SOCKET_TIMEOUT_MS
) -> AsyncMongoClient[Document]:
    """A client for the change stream, whose reads wait on purpose: `timeoutMS` can't bound them."""
    return AsyncMongoClient(
        uri,
        socketTimeoutMS=socket_timeout_ms,
        serverSelectionTimeoutMS=TIMEOUT_MS,
        connectTimeoutMS=1000,
        maxPoolSize=4,
        **_common(),
    )


def open_database(client: AsyncMongoClient[Document], name: str) -> Database:
    """The database with aware UTC times."""
    return client.get_database(name, codec_options=CodecOptions(tz_aware=True))


async def make_indexes(
    collection: AsyncCollection[Document], indexes: Sequence[IndexModel]
) -> None:
    """Make those that are missing, within an hour: a large collection needs more than 2 s."""
    with pymongo.timeout(INDEX_SECONDS):
        await collection.create_indexes(list(indexes))


def guarded(
    operation: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Turn "MongoDB does not answer" into Unavailable; other errors are faults and go through.

    The operation runs to its end, within the client's timeout, even when its caller is cancelled.
    """

    @functools.wraps(operation)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await finish(operation(*args, **kwargs))
        except PyMongoError as error:
            if isinstance(error, ConnectionFailure) or error.timeout or _is_transient(error):
                raise Unavailable(store="mongodb", cause=repr(error)[:500]) from error
            raise

    return run


@guarded
async def require_reachable(client: AsyncMongoClient[Document]) -> None:
    """Raise Unavailable when MongoDB does not answer within 2 s."""
    await client.admin.command("ping")


# The event loop holds tasks weakly.
_under_way: set[asyncio.Task[Any]] = set()


async def finish(operation: Coroutine[Any, Any, T]) -> T:
    """Await the operation; a cancellation ends the waiting, not the operation.

    A cancellation inside PyMongo 4.20 can leave the lock of its topology held for good (its
    condition waits by Python 3.11's `wait_for`, which a second cancellation breaks off): then no
    operation of that client ever ends again.
    """
    task = asyncio.ensure_future(operation)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


def _is_transient(error: PyMongoError) -> bool:
    return error.has_error_label("RetryableWriteError") or error.has_error_label(
        "TransientTransactionError"
    )


def _common() -> dict[str, Any]:
    return {
        "w": "majority",
        "journal": True,
        "readConcernLevel": "majority",
        "retryWrites": True,
        "retryReads": True,
        "appname": "agentzero-api",
    }
