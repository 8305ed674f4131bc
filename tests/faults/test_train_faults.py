"""A worker or the driver of a training is killed: the model is equal to the bit to that of a quiet run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "tests/tiny_training.py")]
CHECKPOINT_EVERY = 20
SETTINGS = [
    "train.epochs=40",
    "train.zero_stage=2",
    f"train.checkpoint_every_steps={CHECKPOINT_EVERY}",
    'train.dynamic_negatives={"ratio": 1.01, "max_score": 1.0}',
]


class Training:
    """One training in a process of its own."""

    def __init__(self, folder, *settings):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.log = folder / f"log-{time.monotonic_ns()}.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, str(folder), *SETTINGS, *settings],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def family(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def checkpoints(self):
        """Every checkpoint that Ray Train has taken note of, by name."""
        line = next((line for line in self.log.read_text().splitlines() if line.startswith("scratch ")), None)
        snapshots = sorted(Path(line.split()[1]).glob("*/checkpoint_manager_snapshot.json")) if line else []
        try:
            return [json.loads(path.read_text())["latest_checkpoint_result"] for path in snapshots]
        except (ValueError, KeyError):
            return []

    def wait_for_checkpoints(self, count):
        seen = set()
        deadline = time.monotonic() + 180
        while len(seen) < count:
            assert self.process.poll() is None, f"ended first:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"no checkpoint:\n{self.log.read_text()}"
            seen |= {json.dumps(checkpoint) for checkpoint in self.checkpoints()}
            time.sleep(0.02)

    def wait_for(self, line):
        deadline = time.monotonic() + 180
        while not any(each.startswith(line) for each in self.log.read_text().splitlines()):
            assert self.process.poll() is None, f"ended first:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def ranks(self):
        return [process for process in self.family() if "RayTrainWorker" in " ".join(process.cmdline())]

    def kill(self):
        family = self.family()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, f"left running: {[process.name() for process in alive]}"

    def printed(self, name):
        assert self.process.wait(300) == 0, self.log.read_text()
        line = next(line for line in self.log.read_text().splitlines() if line.startswith(f"{name} "))
        return json.loads(line.removeprefix(f"{name} "))

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def start():
    started = []

    def launch(folder, *settings):
        started.append(Training(folder, *settings))
        return started[-1]

    yield launch
    for training in started:
        training.end()


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    return start(tmp_path_factory.mktemp("undisturbed")).printed("digests")


def test_a_killed_worker_is_replaced_and_the_model_is_the_same(start, undisturbed, tmp_path):
    training = start(tmp_path)
    training.wait_for_checkpoints(2)
    first, *others = training.ranks()
    assert len(others) == 1
    first.kill()
    psutil.wait_procs([first], timeout=10)
    assert training.printed("digests") == undisturbed
    seen = training.printed("seen")
    back = next(index for index, (before, after) in enumerate(pairwise(seen)) if after < before)
    assert min(seen[back:]) > CHECKPOINT_EVERY, "it began anew"


def test_a_killed_driver_is_resumed_by_the_same_command(start, undisturbed, tmp_path):
    training = start(tmp_path)
    training.wait_for_checkpoints(3)
    training.kill()
    assert training.checkpoints()
    again = start(tmp_path)
    assert again.printed("digests") == undisturbed
    assert min(again.printed("seen")) > CHECKPOINT_EVERY, "it began anew"


def interrupted(training, number=signal.SIGINT):
    """Send Ctrl-C, or another signal, and wait until all processes are gone."""
    family = training.family()
    os.kill(training.process.pid, number)
    code = training.process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert code == 128 + number or (code and "KeyboardInterrupt" in training.log.read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_first_and_the_same_command_goes_on_from_there(start, undisturbed, tmp_path, number):
    training = start(tmp_path, "train.checkpoint_every_steps=1000")
    training.wait_for("at ")
    interrupted(training, number)
    (saved,) = [
        len(json.loads(path.read_text())["history"]["steps"]) for path in tmp_path.rglob("training.json")
    ]
    again = start(tmp_path)
    assert again.printed("digests") == undisturbed
    assert min(again.printed("seen")) > saved


def test_ctrl_c_while_the_workers_start_ends_at_once(start, tmp_path):
    training = start(tmp_path)
    training.wait_for("scratch ")
    while not any("TrainController" in " ".join(process.cmdline()) for process in training.family()):
        assert training.process.poll() is None
        time.sleep(0.05)
    interrupted(training)


def test_a_loss_that_is_not_finite_names_the_step_and_the_queries(start, tmp_path):
    training = start(tmp_path, "train.learning_rate=1e30")
    assert training.process.wait(180) != 0
    told = training.log.read_text()
    assert re.search(r"step \d+, queries q\d+(.|\n)*not finite|not finite(.|\n)*step \d+, queries q\d+", told)
    assert not list((tmp_path / "store").glob("train/*/manifest.json"))
