"""An agent: a process that takes tasks from the hive and runs them.

agent = Agent("profiler", slots=4)

@agent.task("text.profile")
async def profile(ctx, path):
    ctx.progress(0.5, "reading")
    return {"words": len(Path(path).read_text().split())}

agent.run()
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from agentzero_client.address import VERSION, server_url
from agentzero_client.backoff import Backoff
from agentzero_client.client import AsyncClient
from agentzero_client.errors import ConnectionFailedError, UnavailableError
from agentzero_client.retrying import RetryPolicy
from agentzero_client.runtime.attachment import Attachment, Switchboard
from agentzero_client.runtime.failures import AgentStoppedError
from agentzero_client.runtime.handlers import Handlers
from agentzero_client.runtime.identity import Announcement, Identity, find_identity, read_key
from agentzero_client.runtime.worker import Worker

F = TypeVar("F", bound=Callable[..., Any])
MOST_SLOTS = 64

_log = logging.getLogger("agentzero.agent")


class Ending(Enum):
    """Why an agent stopped serving."""

    STOPPED = "stopped"
    RESTART = "restart"


class Agent:
    """An agent of one name at one server.

    `capabilities` default to the names of the handlers. `slots` (1 to 64) is how many tasks run at
    once. `server` defaults to AGENTZERO_SERVER, then `http://127.0.0.1:8000`. Where the identity
    comes from stands in `agentzero_client.runtime.identity`; `registration_key_file` names a file
    like the server's `operator.key`. `drain_seconds` is how long running tasks may finish after
    SIGTERM, `cancel_grace_seconds` how long a cancelled asynchronous handler may go on before it is
    interrupted.
    """

    def __init__(
        self,
        name: str,
        *,
        capabilities: Sequence[str] | None = None,
        slots: int = 1,
        agent_type: str | None = None,
        labels: Mapping[str, str] | None = None,
        server: str | None = None,
        agent_id: str | None = None,
        api_key: str | None = None,
        registration_key: str | None = None,
        registration_key_file: str | os.PathLike[str] | None = None,
        state_directory: str | os.PathLike[str] | None = None,
        drain_seconds: float = 30.0,
        cancel_grace_seconds: float = 5.0,
        version: str | None = None,
        trust_env: bool = True,
    ) -> None:
        if not name:
            raise ValueError("an agent needs a name")
        if not 1 <= slots <= MOST_SLOTS:
            raise ValueError(f"slots is 1 to {MOST_SLOTS}, got {slots}")
        if isinstance(capabilities, str):
            raise TypeError("capabilities is a list of names")
        self.name = name
        self._capabilities = None if capabilities is None else list(capabilities)
        self._slots = slots
        self._agent_type = agent_type
        self._labels = dict(labels or {})
        self._server = server_url(server)
        self._agent_id = agent_id
        self._api_key = api_key
        self._registration_key = registration_key
        self._registration_key_file = registration_key_file
        self._state_directory = None if state_directory is None else Path(state_directory)
        self._drain_seconds = drain_seconds
        self._cancel_grace_seconds = cancel_grace_seconds
        self._version = version or VERSION
        self._trust_env = trust_env
        self._handlers = Handlers()
        self._stop: Callable[[], object] | None = None

    @property
    def capabilities(self) -> list[str]:
        """What the agent announces."""
        if self._capabilities is not None:
            return list(self._capabilities)
        return self._handlers.names

    def task(self, name: str) -> Callable[[F], F]:
        """Register the decorated function as the handler of a capability or a task name, or of `*`.

        See `agentzero_client.runtime.handlers` for how it is chosen and called.
        """

        def register(function: F) -> F:
            self._handlers.add(name, function)
            return function

        return register

    def run(self) -> None:
        """Work until SIGTERM, SIGINT or a `stop`, draining first; a `restart` runs it anew.

        Raise AgentIdentityError or AgentStoppedError.
        """
        ending = asyncio.run(self.serve(handle_signals=True))
        if ending is Ending.RESTART:
            _log.info("restarting")
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # Ourselves.  # nosec B606

    async def serve(self, *, handle_signals: bool = False) -> Ending:
        """Work until `stop()`, or a `stop` or `restart` of the hive, and drain.

        Raise AgentIdentityError when the agent can't prove who it is, AgentStoppedError when the
        hive turns it away. A server that is not there yet is waited for.
        """
        loop = asyncio.get_running_loop()
        stop, hurry = asyncio.Event(), asyncio.Event()

        def ask_to_stop() -> None:
            (hurry if stop.is_set() else stop).set()

        self._stop = lambda: loop.call_soon_threadsafe(ask_to_stop)
        try:
            with _signals(loop, ask_to_stop if handle_signals else None):
                return await self._serve(stop, hurry)
        finally:
            self._stop = None

    def stop(self) -> None:
        """Drain and end `serve` or `run`; a second time: without waiting for running tasks.

        May be called from any thread. Does nothing while the agent does not serve.
        """
        if self._stop is not None:
            self._stop()

    async def _serve(self, stop: asyncio.Event, hurry: asyncio.Event) -> Ending:
        finding = asyncio.create_task(self._find_identity())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({finding, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not finding.done():
                return Ending.STOPPED
            identity = finding.result()
        finally:
            finding.cancel()
            stopping.cancel()
        key, trust_env = identity.api_key, self._trust_env
        async with (
            AsyncClient(self._server, api_key=key, trust_env=trust_env) as client,
            # The runtime repeats by itself, over whichever transport there is by then.
            AsyncClient(
                self._server, api_key=key, trust_env=trust_env, retries=RetryPolicy(attempts=1)
            ) as wire,
        ):
            return await self._work(client, wire, identity, stop, hurry)

    async def _work(
        self,
        client: AsyncClient,
        wire: AsyncClient,
        identity: Identity,
        stop: asyncio.Event,
        hurry: asyncio.Event,
    ) -> Ending:
        switchboard = Switchboard(wire)
        worker = Worker(
            self._handlers,
            client,
            switchboard,
            slots=self._slots,
            cancel_grace_seconds=self._cancel_grace_seconds,
        )
        attachment = Attachment(
            wire,
            identity.agent_id,
            worker,
            switchboard,
            capabilities=self.capabilities,
            version=self._version,
        )
        attached = attachment.start()
        asked = [asyncio.create_task(event.wait()) for event in (stop, worker.stop_requested)]
        try:
            await asyncio.wait({attached, *asked}, return_when=asyncio.FIRST_COMPLETED)
            turned_away = attached.done()
            _log.info("draining")
            seconds = 0.0 if turned_away else self._drain_seconds
            await worker.drain(seconds, hurry, attachment)
            if turned_away:
                _tell_why(attached, identity)
        finally:
            for task in asked:
                task.cancel()
            await attachment.leave()
        return Ending.RESTART if worker.restart_requested else Ending.STOPPED

    async def _find_identity(self) -> Identity:
        """Find it, waiting for a server that is not there yet."""
        registration_key = self._registration_key
        if registration_key is None and self._registration_key_file is not None:
            registration_key = read_key(Path(self._registration_key_file))
        announcement = Announcement(
            name=self.name,
            capabilities=self.capabilities,
            slots=self._slots,
            agent_type=self._agent_type,
            labels=self._labels,
        )
        backoff = Backoff(cap_seconds=5.0)
        while True:
            try:
                return await find_identity(
                    self._server,
                    announcement,
                    agent_id=self._agent_id,
                    api_key=self._api_key,
                    registration_key=registration_key,
                    state_directory=self._state_directory,
                    trust_env=self._trust_env,
                )
            except (ConnectionFailedError, UnavailableError) as error:
                # An unanswered registration may have counted; the next one then says what to do.
                _log.warning("waiting for the server: %s", error)
                await asyncio.sleep(backoff.next_seconds())


def _tell_why(attached: asyncio.Task[None], identity: Identity) -> None:
    try:
        attached.result()
    except AgentStoppedError as error:
        raise AgentStoppedError(
            f"{error} It is {identity.agent_id}, by {identity.source}; without a valid key it has "
            "to register again."
        ) from error


@contextmanager
def _signals(
    loop: asyncio.AbstractEventLoop, ask_to_stop: Callable[[], None] | None
) -> Iterator[None]:
    if ask_to_stop is None:
        yield
        return
    caught = (signal.SIGTERM, signal.SIGINT)
    for number in caught:
        try:
            loop.add_signal_handler(number, ask_to_stop)
        except NotImplementedError:  # Windows.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(ask_to_stop))
    try:
        yield
    finally:
        for number in caught:
            try:
                loop.remove_signal_handler(number)
            except NotImplementedError:
                signal.signal(number, signal.SIG_DFL)
