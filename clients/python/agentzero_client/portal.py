"""From a thread into an event loop and back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

T = TypeVar("T")
CLOSE_SECONDS = 10.0


class Portal:
    """Runs coroutines on somebody's event loop and waits for them. Safe for use by many threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Give what the coroutine gives. Interrupting the wait (Ctrl-C) cancels it.

        Raise RuntimeError on the loop's own thread (it would wait for itself) and on a closed loop.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop or self._loop.is_closed():
            work.close()
            raise RuntimeError(
                "the client is closed"
                if self._loop.is_closed()
                else "use the asynchronous client on its event loop"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            raise RuntimeError("the client was closed") from error
        except BaseException:
            future.cancel()
            raise


class LoopThread(Portal):
    """An event loop on a thread of its own. The thread ends with the process, or when closed."""

    def __init__(self) -> None:
        loop = asyncio.new_event_loop()
        super().__init__(loop)
        self._thread = threading.Thread(target=self._serve, name="agentzero client", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel what still runs and end the thread within 10 s. Idempotent."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
