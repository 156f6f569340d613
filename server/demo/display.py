"""What the terminal shows: a line per event, a progress bar below them, a table at the end.

Without a terminal there is no bar, and the lines are plain. File names are data: nothing in them is
taken for markup or reaches the terminal as a control code.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from agentzero_client import Event, TaskSummary
from server.demo.board import Board
from server.demo.merging import MERGE
from server.demo.plan import FILE_LABEL
from server.demo.reading import printable

STYLES = {
    "task.completed": "green",
    "task.failed": "red",
    "task.cancelled": "yellow",
    "task.retrying": "yellow",
    "task.started": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
}
PLAIN_WIDTH = 120


class Display:
    """Writes to standard output. `names` are those of the agents, by identifier."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A name that the terminal's encoding lacks must not end the demo.
            sys.stdout.reconfigure(errors="backslashreplace")
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=PLAIN_WIDTH, color_system=None)
        self._advance: Callable[[], object] = lambda: None
        self.names: Mapping[str, str] = {}

    def say(self, text: str, style: str = "") -> None:
        """Show a line or some."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def complain(self, text: str) -> None:
        """Say on standard error why the demo can't go on."""
        Console(stderr=True, highlight=False).print(Text(text, style="red"), soft_wrap=True)

    @contextmanager
    def bar(self, board: Board) -> Iterator[None]:
        """Show how far the tasks are, as long as the context lasts."""
        progress = Progress(
            TextColumn("tasks"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        bar = progress.add_task("tasks", total=board.expected)
        self._advance = lambda: progress.update(bar, completed=board.done)
        with progress:
            yield

    def show_event(self, event: Event, task: TaskSummary) -> None:
        """Show one line for what happened to a task, and advance the bar."""
        line = Text()
        line.append(event.time.astimezone().strftime("%H:%M:%S.%f")[:-3], style="dim")
        line.append(f"  {event.type:<15}", style=STYLES.get(event.type, ""))
        line.append(f" {task.name:<13} {_file(task)}")
        if told := self._tell(event, task):
            line.append(f"  {told}", style="dim")
        self._console.print(line, soft_wrap=True)
        self._advance()

    def show_table(self, board: Board) -> None:
        """Show where every task stands."""
        table = Table()
        for title in ("Task", "File", "Status", "Agent"):
            table.add_column(title, overflow="fold")
        table.add_column("Seconds", justify="right", no_wrap=True)
        for task in sorted(
            board.tasks.values(), key=lambda task: (task.name == MERGE, _file(task))
        ):
            seconds = _seconds(task)
            table.add_row(
                task.name,
                Text(_file(task)),
                Text(task.status, style=STYLES.get(task.status, "")),
                self._agent(task),
                "" if seconds is None else f"{seconds:.2f}",
            )
        self._console.print(table)

    def _tell(self, event: Event, task: TaskSummary) -> str:
        if event.type == "task.started":
            return self._agent(task)
        if event.type == "task.progress" and task.progress is not None:
            return " ".join(filter(None, (f"{task.progress.fraction:.0%}", task.progress.message)))
        if event.type == "task.completed":
            seconds = _seconds(task)
            return "" if seconds is None else f"{seconds:.2f} s"
        if event.type in ("task.failed", "task.retrying") and task.error is not None:
            return printable(f"{task.error.code}: {task.error.message}")
        return task.reason or ""

    def _agent(self, task: TaskSummary) -> str:
        return self.names.get(task.agent_id or "", task.agent_id or "")


def _file(task: TaskSummary) -> str:
    return printable(task.labels.get(FILE_LABEL, ""))


def _seconds(task: TaskSummary) -> float | None:
    if task.started_at is None or task.ended_at is None:
        return None
    return (task.ended_at - task.started_at).total_seconds()
