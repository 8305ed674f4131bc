"""Sessions in processes of their own, which end in every way there is and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from tests.tiny_training import MARK

DRIVER = """
import sys, time
import ray
from cluster.definition import load_definition
from cluster.session import Session

@ray.remote(num_cpus=0.5)
class Busy:
    def spin(self):
        while True:
            sum(range(100_000))

with Session(load_definition("local")) as session:
    session.start()
    busy = Busy.remote()
    busy.spin.remote()
    print("ready", session.directory, flush=True)
    if sys.argv[1] == "return":
        pass
    elif sys.argv[1] == "raise":
        raise RuntimeError("on purpose")
    elif sys.argv[1] == "exit":
        import os
        os._exit(3)
    else:
        time.sleep(120)
"""


def processes(mark: str) -> dict[int, str]:
    """Every process that inherited ``mark``, by id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
                )
        except OSError:
            continue
    return found


def start(mode: str) -> tuple[subprocess.Popen[str], str, Path]:
    mark = uuid.uuid4().hex
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, mode],
        env={**os.environ, MARK: mark, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line.startswith("ready"):
        raise AssertionError(f"the driver did not start: {line} {child.communicate()[1]}")
    return child, mark, Path(line.split()[1])


def assert_all_gone(mark: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == {}


def end_orderly(mode: str) -> None:
    """Let a session end by ``return``, ``raise`` or a signal; assert that it cleans up."""
    child, mark, directory = start(mode)
    if mode.startswith("SIG"):
        assert len(processes(mark)) > 4
        os.killpg(child.pid, getattr(signal, mode))
    _, complaints = child.communicate(timeout=60)
    expected = {"return": 0, "raise": 1, "SIGINT": -signal.SIGINT, "SIGTERM": 143, "SIGHUP": 129}
    assert child.returncode == expected[mode], complaints
    assert_all_gone(mark, within_s=20)
    assert not directory.exists()


def end_suddenly(mode: str) -> None:
    """End a session by ``SIGKILL`` or ``exit``: nothing of its own cleans up; assert that all is gone."""
    child, mark, directory = start(mode)
    if mode == "SIGKILL":
        child.kill()
    child.communicate(timeout=60)
    assert_all_gone(mark, within_s=20)
    assert not directory.exists()
