"""A session that has not started Ray yet: signals end it in order; and what a stop that was interrupted leaves."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.definition import load_definition
from cluster.session import Session

DRIVER = """
import signal, sys, tempfile, time
from cluster.definition import load_definition
from cluster.session import Session

# Under nohup it would be ignored, and stay so.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with Session(load_definition("local")), tempfile.TemporaryDirectory(dir=sys.argv[1]):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_before_the_cluster_is_needed_leaves_nothing(tmp_path, name):
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env={"PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert list(tmp_path.iterdir())
    child.send_signal(getattr(signal, name))
    child.communicate(timeout=60)
    assert child.returncode == 128 + getattr(signal, name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def handlers():
    """Handlers of this test's own: another session of this process may have set some."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_come_back(handlers):
    with Session(load_definition("local")):
        assert all(callable(signal.getsignal(number)) for number in handlers)
    assert [signal.getsignal(number) for number in handlers] == [signal.SIG_DFL, signal.SIG_DFL]


def test_the_watchdog_ends_what_an_interrupted_stop_leaves(monkeypatch, handlers):
    told = []

    class Watchdog:
        def communicate(self, data):
            told.append(data)

    for error in (None, KeyboardInterrupt):
        session = Session(load_definition("local"))
        session.started, session._watchdog = True, Watchdog()

        def shutdown(error=error):
            if error is not None:
                raise error

        monkeypatch.setattr("ray.shutdown", shutdown)
        if error is None:
            session.stop()
        else:
            with pytest.raises(error):
                session.stop()
    assert told == [b"\n", None]
