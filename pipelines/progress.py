"""Progress of a step: one live line in a terminal, elsewhere a line now and then."""

from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

LINE_EVERY_S = 30.0
"""Seconds between two lines in a pipe or a log."""


class Progress:
    """A live progress line on ``console``; in a pipe or a log a line of its own every LINE_EVERY_S seconds.

    Args:
        console: Where the line is drawn.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Bars(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._told = 0.0

    def begin(self, stage: str) -> None:
        """Open the line of ``stage``, its total not yet known."""
        self.end()
        self._task = self._bars.add_task(stage, total=None, unit="", note="")
        self._told = monotonic()
        if self.console.is_terminal:
            self._bars.start()

    def total(self, total: int, unit: str, done: int = 0) -> None:
        """Say how much there is to do, in which unit, and how much is done already."""
        if self._task is not None:
            self._bars.update(self._task, total=total, completed=done, unit=unit)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Move on by ``amount``; ``note`` is shown behind the bar."""
        if self._task is not None:
            self._bars.update(self._task, advance=amount, note=note)
            self._tell()

    def note(self, note: str) -> None:
        """Show ``note`` behind the bar."""
        if self._task is not None:
            self._bars.update(self._task, note=note)
            self._tell()

    def end(self) -> None:
        """Close the line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
            if self.console.is_terminal:
                self._bars.stop()

    def log(self, line: str) -> None:
        """Print a line that stays, above the live one."""
        self.console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")

    def _tell(self) -> None:
        if self.console.is_terminal or monotonic() - self._told < LINE_EVERY_S:
            return
        self._told = monotonic()
        (task,) = self._bars.tasks
        done = (
            ""
            if task.total is None
            else f"{task.completed:,.0f} of {task.total:,.0f} {task.fields['unit']}  "
        )
        left = (
            "" if task.time_remaining is None else f", {timedelta(seconds=round(task.time_remaining))} left"
        )
        passed = timedelta(seconds=round(task.elapsed or 0))
        line = f"{task.description}  {done}{passed}{left}  {task.fields['note']}"
        self.console.print(escape(line.rstrip()), highlight=False, soft_wrap=True)
