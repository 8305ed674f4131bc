"""The driver's side of a training: progress, loggers, and the first Ctrl-C, which saves before it ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from pipelines.train.watching import Logger, Watch

if TYPE_CHECKING:
    from pipelines.progress import Progress
    from pipelines.train.board import Reading

POLL_S = 0.25
CLOSE_S = 30
"""What loggers have to send their last numbers."""
STOPPING = "writing a checkpoint; Ctrl-C again ends at once"


class Follower:
    """Reads the board in a thread of its own, shows and logs what it reads, and tells the ranks to stop.

    Args:
        board: The actor.
        num_steps: Of the whole training.
        progress: The live line.
        loggers: By key of the recipe.
    """

    def __init__(self, board: Any, num_steps: int, progress: "Progress", loggers: dict[str, Logger]) -> None:
        self._board, self._num_steps, self._progress = board, num_steps, progress
        self._watch = Watch(loggers, progress.log)
        self._shown: int | None = None
        self._measured = ""
        self._complete = False
        self._stopping, self._done = threading.Event(), threading.Event()
        self.begin()
        self._thread = threading.Thread(target=self._follow, name="training-progress", daemon=True)
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether the ranks were asked to end before the last step."""
        return self._stopping.is_set()

    def begin(self) -> None:
        """Open the live line for ranks that are about to start."""
        self._shown = None
        self._progress.total(self._num_steps, "steps")
        self._progress.note("starting workers")

    def end(self) -> None:
        """Have it known that no ranks run which Ctrl-C could ask to end."""
        self._shown = None

    def log(self, line: str) -> None:
        """Print a line that stays."""
        self._progress.log(f"  [yellow]note[/]  {line}")

    def stop(self) -> bool:
        """Have the ranks write a checkpoint and end; False where none has made a step yet."""
        if self._shown is None:
            return False
        self._stopping.set()
        return True

    def finish(self, complete: bool) -> None:
        """Show and log the last steps."""
        self._complete = complete
        self._done.set()
        self._thread.join(timeout=CLOSE_S)

    def _follow(self) -> None:
        import ray

        told = done = False
        while not done:
            done = self._done.wait(POLL_S)
            if self._stopping.is_set() and not told:
                ray.get(self._board.stop.remote())
                self._progress.note(STOPPING)
                told = True
            readings = ray.get(self._board.read.remote())
            if readings:
                self._show(readings)
                self._watch.log(readings)
        self._watch.close(self._complete)

    def _show(self, readings: "list[Reading]") -> None:
        if self._shown is None:
            self._shown = readings[0].record.step
            self._progress.total(self._num_steps, "steps", done=self._shown)
        record = readings[-1].record
        for evaluation in (each for reading in readings for each in reading.evaluations):
            self._measured = f"  dev {evaluation.metric} {evaluation.value:.3f}"
        note = shown(readings[-1]) + self._measured
        self._progress.advance(record.step + 1 - self._shown, STOPPING if self.stopping else note)
        self._shown = record.step + 1


def shown(reading: "Reading") -> str:
    """Return what the live line says of a step."""
    record = reading.record
    share = "" if reading.peak_share is None else f"  {reading.peak_share:.0%} of peak"
    return (
        f"loss {record.loss:.4f}  rate {record.learning_rate:.2e}  gradient {record.gradient_norm:.3g}  "
        f"{reading.tokens_per_s:,.0f} tokens/s{share}"
    )


@contextmanager
def following(
    board: Any, num_steps: int, progress: "Progress", loggers: dict[str, Logger]
) -> Iterator[Follower]:
    """Follow the training that runs in this thread."""
    follower = Follower(board, num_steps, progress, loggers)
    complete = False
    try:
        with first_ctrl_c(follower.stop):
            yield follower
        complete = not follower.stopping
    finally:
        follower.finish(complete)


@contextmanager
def first_ctrl_c(call: Callable[[], bool]) -> Iterator[None]:
    """Let the first Ctrl-C call a function in place of raising KeyboardInterrupt.

    The second one raises, as does the first where the function returns False. Off the main thread, or where Ctrl-C
    is not Python's own, nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        if not call():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
