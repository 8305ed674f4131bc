"""Nothing of a training listens beyond the loopback address, its process group's rendezvous store included."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def listeners(process: psutil.Process) -> set[str]:
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return set()
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


def test_a_training_listens_on_loopback_only(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "tests/tiny_training.py"), str(tmp_path), "train.epochs=40"]
    with (tmp_path / "log").open("w") as log:
        training = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    seen: set[str] = set()
    of_workers: set[str] = set()
    deadline = time.monotonic() + 120
    while training.poll() is None and time.monotonic() < deadline:
        for process in psutil.Process(training.pid).children(recursive=True):
            found = listeners(process)
            seen |= found
            try:
                of_workers |= found if "RayTrainWorker" in " ".join(process.cmdline()) else set()
            except psutil.Error:
                continue
        time.sleep(0.3)
    assert training.wait(30) == 0, (tmp_path / "log").read_text()
    assert of_workers, "the workers were not caught while they trained"
    assert seen <= {"127.0.0.1", "::ffff:127.0.0.1"}
