"""The driver's side of a training: progress, loggers, and the first Ctrl-C or SIGTERM, which saves before it ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

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
        self._running = False
        self._signal = signal.SIGINT
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
        self._shown, self._running = None, True
        self._progress.total(self._num_steps, "steps")
        self._progress.note("starting workers")

    def end(self) -> None:
        """Have it known that no ranks run which a signal could ask to end."""
        self._running = False

    def log(self, line: str) -> None:
        """Print a line that stays."""
        self._progress.log(f"  [yellow]note[/]  {line}")

    def stop(self, number: int) -> bool:
        """Have the ranks write a checkpoint and end; False where none runs or none has made a step yet.

        Args:
            number: Of the signal that asks for it.
        """
        if self._shown is None or not self._running:
            return False
        self._signal = signal.Signals(number)
        self._stopping.set()
        return True

    def leave(self) -> NoReturn:
        """End as the signal would have ended this process."""
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._signal)

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
        with first_signal(follower.stop):
            yield follower
        complete = not follower.stopping
    finally:
        follower.finish(complete)


@contextmanager
def first_signal(call: Callable[[int], bool]) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM call a function in place of what it does otherwise.

    The second one does that, as does the first where the function returns False. Off the main thread, or for a signal
    that Python does not handle, nothing changes.

    Args:
        call: Takes the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: handler for number, handler in handlers.items() if callable(handler)}

    def restore() -> None:
        for number, handler in taken.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        restore()
        if not call(number):
            taken[signal.Signals(number)](number, frame)

    for number in taken:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
