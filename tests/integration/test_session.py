"""A session starts Ray on the loopback only, and leaves nothing behind at Ctrl-C or when it is killed."""

import os
import re
import subprocess

import ray

from cluster.session import Session
from tests.session_ends import end_orderly, end_suddenly, processes
from tests.tiny_training import MARK


def listeners(owners: set[int]) -> set[str]:
    """The addresses on which ``owners`` accept TCP connections."""
    lines = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {
        line.split()[3].rsplit(":", 1)[0]
        for line in lines
        if owners & {int(process) for process in re.findall(r"pid=(\d+)", line)}
    }


def test_nothing_is_left_after_ctrl_c() -> None:
    end_orderly("SIGINT")


def test_nothing_is_left_after_a_kill() -> None:
    end_suddenly("SIGKILL")


def test_every_port_is_on_the_loopback(session: Session) -> None:
    ray.get(ray.remote(lambda: 1).options(**session.resources("encode")).remote())
    owners = set(processes(os.environ[MARK])) | {os.getpid()}
    assert len(owners) > 4
    addresses = listeners(owners)
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
