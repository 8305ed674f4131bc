"""Killing real processes of a real run: helpers that find them by their command line."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

STOPE = str(Path(sys.executable).parent / "stope")


class RunningStope:
    """One `stope` command in a process of its own.

    Args:
        folder: Working directory; the store lies in it.
        arguments: Of the command.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / f"log-{time.monotonic_ns()}.txt"
        command = [STOPE, *arguments, "--storage", str(folder / "store")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for(self, happened: Callable[[], bool], timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.process.poll() is None, f"the command ended first:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"did not happen in {timeout_s} s:\n{self.log.read_text()}"
            time.sleep(0.05)

    def kill_driver(self) -> None:
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, f"left running: {[p.name() for p in alive]}"

    def workers(self, name: str) -> list[psutil.Process]:
        """Return the processes at work whose title, such as Ray gives its workers, holds ``name``."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            # Others end meanwhile.
            with contextlib.suppress(psutil.NoSuchProcess):
                title = " ".join(child.cmdline())
                if name in title and "__init__" not in title:
                    found.append(child)
        return found

    def kill_worker(self, name: str) -> None:
        """Kill one of the processes at work whose title holds ``name``."""
        workers = self.workers(name)
        assert workers, f"no process is called {name}"
        workers[0].kill()

    def finish(self, timeout_s: float = 400) -> str:
        code = self.process.wait(timeout_s)
        text = self.log.read_text()
        assert code == 0, text
        return text


@pytest.fixture
def start(tmp_path_factory):
    started: list[RunningStope] = []

    def launch(folder: Path, *arguments: str) -> RunningStope:
        started.append(RunningStope(folder, *arguments))
        return started[-1]

    yield launch
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
