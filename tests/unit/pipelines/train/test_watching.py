"""Numbers that leave a training: TensorBoard's file read back, absent packages, and loggers that fail."""

import os
import signal
from dataclasses import replace

import pytest

from cluster.errors import UserError
from pipelines.train import watching
from pipelines.train.board import Evaluation, Reading, StepRecord
from pipelines.train.config import TrainConfig
from pipelines.train.following import first_signal, shown
from pipelines.train.watching import Training, Watch, check_watchers, numbers, open_loggers
from tests.event_files import events


def readings(steps):
    return [
        Reading(StepRecord(step, 1 / (step + 1), 1e-3 * step, 2.0 + step, 64), 500.0 + step) for step in steps
    ]


def test_tensorboard_files_hold_what_was_logged(tmp_path):
    training = Training("tiny", "f" * 20, {}, tmp_path / "events")
    for steps in (range(3), range(3, 5)):  # resumed in the same folder
        watch = Watch(open_loggers(TrainConfig(tensorboard=True), training), print)
        watch.log(readings(steps))
        watch.close(complete=True)
    found = events(tmp_path / "events")
    assert set(found) == {
        "train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_s",
    }  # fmt: skip
    assert found["train/loss"] == pytest.approx({step: 1 / (step + 1) for step in range(5)})
    assert found["train/learning_rate"] == pytest.approx({step: 1e-3 * step for step in range(5)})
    assert found["train/gradient_norm"] == {step: 2.0 + step for step in range(5)}
    assert found["train/tokens_per_s"] == {step: 500.0 + step for step in range(5)}


def test_nothing_is_opened_where_nothing_is_asked_for(tmp_path):
    assert open_loggers(TrainConfig(), Training("tiny", "f" * 20, {}, tmp_path / "events")) == {}
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize("key", ["wandb", "mlflow"])
def test_an_absent_package_is_named_with_the_command(key, monkeypatch):
    # Under a name that nobody installs: the real ones may be here.
    monkeypatch.setitem(watching.PACKAGES, key, "stope_absent_tracker")
    with pytest.raises(UserError, match=rf"train\.{key}(.|\n)*pip install stope_absent_tracker"):
        check_watchers(TrainConfig(**{key: "somewhere"}))
    check_watchers(TrainConfig(tensorboard=True))


class Picky:
    """A logger that takes steps up to a limit and then fails."""

    def __init__(self, limit):
        self.limit, self.taken, self.complete = limit, [], None

    def log(self, step, values):
        if step > self.limit:
            raise ConnectionError("no route")
        self.taken.append((step, values["train/loss"]))

    def close(self, complete):
        self.complete = complete


def test_a_logger_that_fails_is_told_of_once_and_the_others_go_on():
    short, whole, told = Picky(1), Picky(99), []
    watch = Watch({"mlflow": short, "wandb": whole}, told.append)
    watch.log(readings(range(3)))
    watch.log(readings([1, 2, 3]))  # a lost worker made two steps again
    watch.close(complete=False)
    assert [step for step, _ in short.taken] == [0, 1] and short.complete is None
    assert [step for step, _ in whole.taken] == [0, 1, 2, 3] and whole.complete is False
    assert len(told) == 1 and "mlflow" in told[0] and "no route" in told[0]


def test_what_cannot_be_opened_is_said_and_the_others_are_closed(tmp_path, monkeypatch):
    opened = Picky(1)
    monkeypatch.setattr(
        watching,
        "WATCHERS",
        {"tensorboard": lambda _value, _training: opened, "mlflow": lambda _value, _training: 1 / 0},
    )
    with pytest.raises(UserError, match=r"train\.mlflow(.|\n)*division"):
        open_loggers(
            TrainConfig(tensorboard=True, mlflow="http://x"), Training("tiny", "f" * 20, {}, tmp_path)
        )
    assert opened.complete is False


def test_the_first_ctrl_c_calls_and_the_second_raises():
    calls = []
    with pytest.raises(KeyboardInterrupt), first_signal(lambda number: calls.append(number) or True):
        os.kill(os.getpid(), signal.SIGINT)
        assert calls == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
    assert calls == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt), first_signal(lambda number: False):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_first_sigterm_calls_where_something_handles_it():
    def leave(number, frame):
        raise SystemExit(number)

    calls, before = [], signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(SystemExit), first_signal(lambda number: calls.append(number) or True):
            os.kill(os.getpid(), signal.SIGTERM)
            assert calls == [signal.SIGTERM]
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is leave and calls == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_share_of_peak_and_dev_metric_are_logged_where_there_are_any():
    (plain,) = readings([4])
    assert set(numbers(plain)) == {
        "train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_s",
    }  # fmt: skip
    measured = (Evaluation(0, "mrr@10", 0.25), Evaluation(1, "mrr@10", 0.5))
    full = Reading(plain.record, 1234.4, 0.456, measured)
    more = {"train/tokens_per_s": 1234.4, "train/peak_share": 0.456, "dev/mrr_at_10": 0.5}
    assert numbers(full) == {**numbers(plain), **more}
    counted = replace(plain, record=replace(plain.record, replaced_negatives=0))
    assert numbers(counted) == {**numbers(plain), "train/replaced_negatives": 0}
    assert shown(full) == "loss 0.2000  rate 4.00e-03  gradient 6  1,234 tokens/s  46% of peak"
    assert shown(plain) == "loss 0.2000  rate 4.00e-03  gradient 6  504 tokens/s"
