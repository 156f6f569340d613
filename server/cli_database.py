"""How commands change the database themselves while no server runs on the data directory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from server.cli_exits import FAILED, refuse
from server.data_directory import DataDirectory, DataDirectoryError
from server.settings import Settings

S = TypeVar("S")
T = TypeVar("T")


def change_database(
    settings: Settings,
    opened: Callable[[Settings, DataDirectory], AbstractAsyncContextManager[S]],
    work: Callable[[S], Awaitable[T]],
) -> T:
    """What `work` gives with what `opened` opens, under the data directory's lock.

    Exits with REFUSED when a server has the directory, with FAILED when the work is refused.
    """
    from hive.errors import HiveError  # noqa: PLC0415 - `--help` should not wait

    async def unit() -> T:
        with DataDirectory(settings.data_dir) as directory:
            async with opened(settings, directory) as store:
                return await work(store)

    try:
        return asyncio.run(unit())
    except DataDirectoryError as error:
        raise refuse(str(error)) from None
    except HiveError as error:
        raise refuse(error.detail, FAILED) from None
