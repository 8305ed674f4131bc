"""A session starts Ray on the loopback only, and leaves nothing behind however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cluster.definition import load_definition
from cluster.session import Session

MARK = "STOPE_TEST_MARK"
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


def _processes(mark: str) -> dict[int, str]:
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


def _listeners(processes: set[int]) -> set[str]:
    """The addresses on which ``processes`` accept TCP connections."""
    lines = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        line.split()[3].rsplit(":", 1)[0]
        for line in lines
        if processes & {int(process) for process in re.findall(r"pid=(\d+)", line)}
    }


def _start(mode: str) -> tuple[subprocess.Popen[str], str, Path]:
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


def _assert_all_gone(mark: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while (left := _processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == {}


@pytest.mark.parametrize("mode", ["return", "raise", "SIGINT", "SIGTERM", "SIGHUP"])
def test_nothing_is_left_after_an_orderly_end(mode: str) -> None:
    child, mark, directory = _start(mode)
    if mode.startswith("SIG"):
        assert len(_processes(mark)) > 4
        os.killpg(child.pid, getattr(signal, mode))
    _, complaints = child.communicate(timeout=30)
    expected = {"return": 0, "raise": 1, "SIGINT": -signal.SIGINT, "SIGTERM": 143, "SIGHUP": 129}
    assert child.returncode == expected[mode], complaints
    _assert_all_gone(mark, within_s=5)
    assert not directory.exists()


@pytest.mark.parametrize("mode", ["SIGKILL", "exit"])
def test_nothing_is_left_after_a_sudden_end(mode: str) -> None:
    child, mark, directory = _start(mode)
    if mode == "SIGKILL":
        child.kill()
    child.communicate(timeout=30)
    _assert_all_gone(mark, within_s=5)
    assert not directory.exists()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, uuid.uuid4().hex)
        with Session(load_definition("local")) as session:
            session.start()
            yield session


def test_every_port_is_on_the_loopback(session: Session) -> None:
    ray.get(ray.remote(lambda: 1).options(**session.resources("encode")).remote())
    processes = set(_processes(os.environ[MARK])) | {os.getpid()}
    assert len(processes) > 4
    addresses = _listeners(processes)
    assert addresses and addresses <= {"127.0.0.1", "[::ffff:127.0.0.1]", "[::1]"}


def test_the_folder_is_private(session: Session) -> None:
    assert session.directory is not None
    assert session.directory.parent.stat().st_mode & 0o077 == 0


def test_workers_inherit_the_environment(session: Session) -> None:
    seen = ray.get(ray.remote(lambda: os.environ.get("STOPE_TEST_MARK")).remote())
    assert seen == os.environ[MARK]


def test_a_second_start_is_free(session: Session) -> None:
    before = session.directory
    session.start()
    assert session.directory == before


def test_the_pools_fit_the_cluster(session: Session) -> None:
    cores = ray.cluster_resources()["CPU"]
    fewest, most = session.pool("encode")
    assert fewest == most >= 1
    beside = session.resources("tokenize")["num_cpus"] + session.resources("encode")["num_cpus"]
    assert most * beside <= cores
