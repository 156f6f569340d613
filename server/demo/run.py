"""`agentzero demo`: profiles the files of a directory with two agents, and shows it live.

    find the files -> have a server -> have two agents -> watch -> submit -> until all have ended

Exit codes: 0 every task completed; 1 some did not (the report names them), or the demo broke down;
2 there is nothing to do, or nowhere to write; 128 + n ended by signal n (130 is Ctrl-C).
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from agentzero_client import (
    AgentZeroError,
    AsyncClient,
    AsyncWatch,
    EventFilter,
    Gap,
    TaskSummary,
)
from agentzero_client.decoding import decode_model
from server.data_directory import PRIVATE_DIRECTORY, DataDirectory
from server.demo import crew as crews
from server.demo import host as hosts
from server.demo.board import Board
from server.demo.crew import Crew
from server.demo.display import Display
from server.demo.failure import DemoFailed, DemoRefused
from server.demo.host import Host
from server.demo.leftovers import cancel_tasks
from server.demo.plan import RUN_LABEL, Submission, count_tasks, submit
from server.demo.sources import Source, SourcesUnreadable, find_sources
from server.resources import examples_path
from server.settings import Settings

DONE = 0
FAILED = 1
REFUSED = 2
SIGNALLED = 128

QUIET_SECONDS = 5.0
CANCEL_SECONDS = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(settings: Settings, *, source: Path | None, output: Path, keep_running: bool) -> int:
    """Run the demo, and return the exit code. Needs the main thread."""
    display = Display()
    demo = Demo(
        DataDirectory(settings.data_dir),
        source or examples_path() / "data",
        output.expanduser().absolute(),
        keep_running=keep_running,
        display=display,
    )
    try:
        return asyncio.run(_until_signalled(demo))
    except KeyboardInterrupt:  # Before the signals were ours.
        return SIGNALLED + signal.SIGINT
    except (DemoRefused, SourcesUnreadable) as error:
        display.complain(str(error))
        return REFUSED
    except (DemoFailed, AgentZeroError, OSError) as error:
        display.complain(f"The demo failed. {error}")
        return FAILED


async def _until_signalled(demo: Demo) -> int:
    """Run it; the first signal cancels it in good order, the second one in haste."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(demo.run())
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        running.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await running
    except asyncio.CancelledError:
        if not received:
            raise
        return SIGNALLED + received[0]
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class Demo:
    """One run over one directory."""

    def __init__(
        self,
        data: DataDirectory,
        source: Path,
        output: Path,
        *,
        keep_running: bool,
        display: Display,
    ) -> None:
        self._data = data
        self._source = source
        self._output = output
        self._keep_running = keep_running
        self._display = display
        self._run_id = secrets.token_hex(4)
        self._submission = Submission()

    async def run(self) -> int:
        """Do all of it; the exit code. Whatever was started is ended, however this ends."""
        sources = self._find_sources()
        directory = self._data.path / "demo"
        for place in (self._data.path, directory):
            place.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        keep, say = self._keep_running, self._display.say
        async with hosts.open_host(self._data, directory, may_stay=keep, say=say) as host:
            try:
                client = AsyncClient(host.url, api_key=host.operator_key, trust_env=False)
                async with (
                    client,
                    crews.open_crew(client, host.url, directory, may_stay=keep) as crew,
                ):
                    code = await self._work(client, host, crew, sources)
                    if keep:
                        host.stays = crew.stays = True
                        self._say_how_to_stop(host, crew)
                    return code
            finally:
                self._show_what_the_server_printed(host)

    def _find_sources(self) -> list[Source]:
        if not self._source.is_dir():
            raise DemoRefused(f"The input {self._source} is not a directory.")
        sources = find_sources(self._source, leave_out=self._output / "report.md")
        if not sources:
            raise DemoRefused(f"There is no .txt, .md or .csv file in {self._source}.")
        try:
            self._output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoRefused(
                f"The output directory {self._output} can't be made: {error.strerror}."
            ) from error
        return sources

    async def _work(
        self, client: AsyncClient, host: Host, crew: Crew, sources: Sequence[Source]
    ) -> int:
        """Submit, watch until everything has ended, and tell what came of it."""
        board = Board(count_tasks(len(sources)))
        self._display.names = crew.names
        self._display.say(
            f"{len(sources)} files in {self._source}, {board.expected} tasks, "
            f"agents {' and '.join(crew.names.values())}, {host.url}"
        )
        chosen = EventFilter(labels={RUN_LABEL: self._run_id})
        async with client.watch(["task.*"], filter=chosen) as watch:
            with self._display.bar(board):
                try:
                    await _guarded(
                        self._submit_and_wait(client, crew, sources, board),
                        self._follow(client, watch, board),
                        hosts.watch_over(host, self._data),
                        crews.watch_over(crew),
                    )
                except BaseException:
                    await self._cancel(client, crew)
                    raise
        self._display.show_table(board)
        return await self._conclude(client, board)

    async def _submit_and_wait(
        self, client: AsyncClient, crew: Crew, sources: Sequence[Source], board: Board
    ) -> None:
        await submit(
            client,
            self._submission,
            sources,
            output=self._output,
            crew=crew.capability,
            run_id=self._run_id,
        )
        await board.over.wait()

    async def _follow(self, client: AsyncClient, watch: AsyncWatch, board: Board) -> NoReturn:
        """Show the events; where some are missing, or none come, ask how the tasks stand."""
        while True:
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    event = await anext(watch)
            except TimeoutError:
                await self._catch_up(client, board)
                continue
            if isinstance(event, Gap):
                await self._catch_up(client, board)
                continue
            task = decode_model(TaskSummary, event.data)
            board.take(task)
            self._display.show_event(event, task)

    async def _catch_up(self, client: AsyncClient, board: Board) -> None:
        for task_id in board.unfinished(self._submission.task_ids):
            board.take(await client.tasks.get(task_id))

    async def _cancel(self, client: AsyncClient, crew: Crew) -> None:
        """Cancel what has not ended; the agents learn of it at once."""
        self._display.say("Cancelling the tasks that have not ended.", "yellow")
        with suppress(AgentZeroError, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await cancel_tasks(client, crew.capability)

    async def _conclude(self, client: AsyncClient, board: Board) -> int:
        report = await client.tasks.get(self._submission.report_id)
        if report.status == "completed":
            for path in report.result["paths"]:
                self._display.say(path)
        else:
            why = report.error.message if report.error else report.reason or report.status
            self._display.say(f"There is no report: {why}", "red")
        if board.unsuccessful:
            names = "; the report names them" if report.status == "completed" else ""
            self._display.say(
                f"{board.unsuccessful} of {board.expected} tasks did not complete{names}.", "red"
            )
            return FAILED
        self._display.say(f"All {board.expected} tasks completed.", "green")
        return DONE

    def _say_how_to_stop(self, host: Host, crew: Crew) -> None:
        pids = [child.pid for child in crew.children]
        what = f"The agents {' and '.join(crew.names.values())} go on"
        if host.child is not None:
            pids.append(host.child.pid)
            what = (
                f"The server at {host.url} and the agents {' and '.join(crew.names.values())} go on"
            )
        self._display.say(f"{what}. To stop them: kill {' '.join(map(str, pids))}")

    def _show_what_the_server_printed(self, host: Host) -> None:
        """A first start makes a user, and prints the password this once."""
        if host.child is not None and (printed := host.child.printed().strip()):
            self._display.say(printed)


async def _guarded(work: Coroutine[Any, Any, None], *guards: Coroutine[Any, Any, NoReturn]) -> None:
    """Run the work while the guards run; an error of any of them ends all of them."""
    tasks = [asyncio.create_task(part) for part in (*guards, work)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
