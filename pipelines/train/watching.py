"""Where the numbers of a training go beside the terminal: TensorBoard, Weights & Biases, MLflow."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from cluster.artifacts import ArtifactWriter
from cluster.errors import UserError
from cluster.storage import LocalStorage
from pipelines.train.board import Reading
from pipelines.train.config import TrainConfig

FLUSH_S = 5
EXPERIMENT = "stope"
"""MLflow's name for all trainings together."""


class Logger(Protocol):
    """Takes numbers, step by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step."""

    def close(self, complete: bool) -> None:
        """Send what is left, and say whether the training came to its end."""


@dataclass(frozen=True)
class Training:
    """What a logger is told of a training.

    Args:
        label: What a person recognises it by.
        fingerprint: Equal when the same training is resumed.
        settings: Of the recipe, under `train`.
        folder: For files.
    """

    label: str
    fingerprint: str
    settings: Mapping[str, Any]
    folder: Path


def numbers(reading: Reading) -> dict[str, float]:
    """Return what is logged of one step."""
    record = reading.record
    share = {} if reading.peak_share is None else {"train/peak_share": reading.peak_share}
    used = record.largest_expert_share
    experts = {} if used is None else {"train/largest_expert_share": used}
    count = record.replaced_negatives
    replaced = {} if count is None else {"train/replaced_negatives": count}
    return {
        "train/loss": record.loss,
        "train/learning_rate": record.learning_rate,
        "train/gradient_norm": record.gradient_norm,
        "train/tokens_per_s": reading.tokens_per_s,
        **share,
        **experts,
        **replaced,
        # Of several, which only the first step can have, the last one. MLflow takes no @ in a name.
        **{f"dev/{each.metric.replace('@', '_at_')}": each.value for each in reading.evaluations},
    }


class _TensorBoard:
    def __init__(self, training: Training) -> None:
        writer = import_module("tensorboardX").SummaryWriter
        # Its files are named by the second, and a second one of that name would replace the first.
        self._writer = writer(str(training.folder), flush_secs=FLUSH_S, filename_suffix=f".{time.time_ns()}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, complete: bool) -> None:  # noqa: ARG002 (Logger's signature)
        self._writer.close()


class _Wandb:
    def __init__(self, project: str, training: Training) -> None:
        self._run = import_module("wandb").init(
            project=project,
            name=training.label,
            # A resumed training goes on in the same run.
            id=training.fingerprint,
            resume="allow",
            config=dict(training.settings),
            settings={"console": "off", "silent": True},
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


class _Mlflow:
    def __init__(self, uri: str, training: Training) -> None:
        mlflow = import_module("mlflow")
        self._metric = import_module("mlflow.entities").Metric
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        # A resumed training goes on in the same run.
        same = f"tags.fingerprint = '{training.fingerprint}'"
        runs = self._client.search_runs([experiment], filter_string=same, max_results=1)
        tags = {"fingerprint": training.fingerprint}
        run = runs[0] if runs else self._client.create_run(experiment, tags=tags, run_name=training.label)
        self._id = run.info.run_id
        for key, value in training.settings.items():
            self._client.log_param(self._id, key, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        metrics = [self._metric(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, complete: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if complete else "KILLED")


def tensorboard(_switch: Any, training: Training) -> Logger:
    """Write event files into the training's folder."""
    return _TensorBoard(training)


def wandb(project: Any, training: Training) -> Logger:
    """Send to a project of Weights & Biases; the key is taken from the environment, as wandb does."""
    return _Wandb(project, training)


def mlflow(uri: Any, training: Training) -> Logger:
    """Send to an MLflow server; credentials are taken from the environment, as MLflow does."""
    return _Mlflow(uri, training)


WATCHERS: dict[str, Callable[[Any, Training], Logger]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
}
"""Key under `train` -> what opens the logger, given the key's value."""
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""Key -> the package that it needs."""


def check_watchers(config: TrainConfig) -> None:
    """Refuse a key whose package is absent.

    Raises:
        UserError: It is; says what to install.
    """
    for key, package in PACKAGES.items():
        if getattr(config, key) and find_spec(package) is None:
            raise UserError(
                "this needs a package that is not installed",
                where=f"train.{key}",
                got=f"no package {package}",
                fix=f"pip install {package.lower()}; or remove train.{key}",
            )


def open_loggers(config: TrainConfig, training: Training) -> dict[str, Logger]:
    """Open the loggers that a recipe asks for, by key.

    Raises:
        UserError: One of them cannot be opened; those before it are closed.
    """
    loggers: dict[str, Logger] = {}
    for key, opened in WATCHERS.items():
        value = getattr(config, key)
        if not value:
            continue
        try:
            loggers[key] = opened(value, training)
        except Exception as error:
            for logger in loggers.values():
                logger.close(complete=False)
            raise UserError(
                f"{key} cannot be opened",
                where=f"train.{key}",
                got=str(error).strip() or type(error).__name__,
                fix=f"check the value and the network, or remove train.{key}",
            ) from error
    return loggers


class Watch:
    """The loggers of one training: each step reaches each of them once, and none of them can end the training.

    Args:
        loggers: By key of the recipe.
        tell: Takes a line for the user.
    """

    def __init__(self, loggers: Mapping[str, Logger], tell: Callable[[str], None]) -> None:
        self._loggers, self._tell = dict(loggers), tell
        self._logged = -1

    def log(self, readings: Sequence[Reading]) -> None:
        """Log the steps that are new; a logger that fails is told of and left alone from then on."""
        for reading in readings:
            step = reading.record.step
            # Steps that are made again after a lost worker are the same to the bit.
            if step <= self._logged:
                continue
            self._logged = step
            for key, logger in list(self._loggers.items()):
                if not self._try(key, partial(logger.log, step, numbers(reading))):
                    del self._loggers[key]

    def close(self, complete: bool) -> None:
        """Close the loggers that are left."""
        for key, logger in self._loggers.items():
            self._try(key, partial(logger.close, complete))

    def _try(self, key: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (whatever a client raises, it must not cost the training)
            self._tell(f"  train: {key} takes no more numbers: {type(error).__name__}: {error}")
            return False
        return True


@contextmanager
def event_folder(writer: ArtifactWriter) -> Iterator[Path]:
    """Name the folder of a training's event files.

    Below the storage root where that is a folder of this machine: they can be watched as they grow, and a resumed
    training adds to them.
    """
    if isinstance(writer.storage, LocalStorage):
        yield Path(writer.scratch_uri) / "tensorboard"
        return
    with TemporaryDirectory(prefix="stope-events-") as folder:
        yield Path(folder)
