"""The ranks of a training on Ray Train: started, started again where one is lost, asked to end."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.errors import UserError
from cluster.storage import MissingObject
from models.errors import ModelError
from models.lean_imports import import_transformers
from pipelines.steps import Work
from pipelines.train.task import TrainTask

if TYPE_CHECKING:
    from cluster.session import Session
    from pipelines.train.following import Follower

ALL_FAIL_S = 5.0
"""What the ranks have to fail of one error."""
RUN_NAME = "ranks"
"""Ray Train's folder in the scratch; a training goes on from there with any number of workers."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of one training, which may start and end several times.

    Args:
        task: Of the whole training.
        session: The cluster.
        follower: Shows how far they are, and knows whether they were asked to end.
    """

    task: TrainTask
    session: "Session"
    follower: "Follower"

    def train(self, plan: Artifact, until: int | None = None, result: ArtifactWriter | None = None) -> None:
        """Train from the last checkpoint on, if there is one, and export the model.

        Args:
            plan: Whose batches are taken from there on.
            until: Steps to end after. None: all.
            result: Takes the model. None: the training's own artifact.

        Raises:
            UserError, ModelError: The training cannot go on.
            KeyboardInterrupt, SystemExit: It was asked to end, and has written a checkpoint instead of a model.
        """
        import ray

        from pipelines.train.failures import raise_failure

        self.follower.begin()
        first = None if plan.manifest.key == self.task.plan.manifest.key else self.task.plan
        task = replace(self.task, plan=plan, first_plan=first, until=until, result=result)
        _fit(task, self.session, self.follower.log)
        self.follower.end()
        raise_failure(ray.get(task.board.failure.remote()), plan)
        exported = (result or task.writer).finished("training_steps")
        if self.follower.stopping and not exported:
            self.follower.leave()
        assert exported

    def train_until(self, plan: Artifact, until: int, work: Work) -> Artifact:
        """Train up to a step, and commit the model as it is then as the artifact of ``work``."""
        self.train(plan, until, work.writer)
        return self.commit(work)

    def commit(self, work: Work, audits: Sequence[str] = ()) -> Artifact:
        """Commit what was exported.

        Args:
            work: Of the whole training, or of its first stretch.
            audits: Keys of the audits of what was mined meanwhile.

        Raises:
            KeyboardInterrupt, SystemExit: The training was asked to end meanwhile; the artifact is there.
        """
        tables = {"training_steps": 1} | ({"training_metrics": 1} if self.task.config.dev else {})
        summary = {
            "steps": work.writer.finished("training_steps")[0].rows,
            "dtype": self.task.model.dtype,
            "device": self.task.model.device,
            "workers": num_workers(self.session),
            **({"audits": list(audits)} if audits else {}),
        }
        artifact = work.commit(tables, summary)
        if self.follower.stopping:
            self.follower.leave()
        return artifact


def num_workers(session: "Session") -> int:
    """Return the most ranks: as the definition says, on the embedded cluster no more than fit."""
    most = scale(session)
    return most if isinstance(most, int) else most[1]


def scale(session: "Session") -> int | tuple[int, int]:
    """Return the number of ranks, or the fewest and the most where training is elastic.

    The embedded cluster does not grow: it takes as many as fit.
    """
    wanted = session.definition.role("train").workers or 1
    fewest, most = (wanted, wanted) if isinstance(wanted, int) else wanted
    if session.definition.is_local:
        return min(most, session.pool("train")[1])
    return most if fewest == most else (max(1, fewest), most)


def run_rank(task: TrainTask) -> None:
    """Train on one rank, in a process group with the others; what Ray Train runs on every worker.

    An error of ours would come again: it is posted, and the driver raises it. Where it came to all ranks they leave;
    else the others wait for this one, so it fails, and the ranks that Ray Train starts anew find the error and leave.
    Any other failure is a lost worker, which they make good.
    """
    import ray
    from torch import distributed

    from cluster.process_group import join_process_group

    # First: the worker's modules would import it with all that it drags in.
    import_transformers()
    from pipelines.train.worker import train_worker

    if ray.get(task.board.failure.remote()) is not None:
        return
    join_process_group("nccl" if task.model.device == "cuda" else "gloo")
    try:
        with told_of_memory():
            train_worker(task)
    except (UserError, ModelError) as error:
        ray.get(task.board.fail.remote(error))
        deadline = monotonic() + ALL_FAIL_S
        while ray.get(task.board.num_failed.remote()) < distributed.get_world_size():
            if monotonic() > deadline:
                raise
            sleep(0.05)


@contextmanager
def told_of_memory() -> Iterator[None]:
    """Say what would help where a device has no memory left: starting anew would end in the same place.

    Raises:
        ModelError: It has none.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "the device has no memory left for a training step",
            "train",
            got=str(error).partition(". ")[0],
            fix="set train.gradcache_chunk (it bounds what a pass holds, whatever the batch), train.zero_stage: 2 or "
            "3, train.gradient_checkpointing: true, or lower train.batch_size",
        ) from error


def _fit(task: TrainTask, session: "Session", note: Callable[[str], None]) -> None:
    import ray
    from ray.exceptions import RayActorError
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    asked = session.resources("train")
    resources = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"], "memory": asked.get("memory", 0)}
    trainer = DataParallelTrainer(
        partial(run_rank, task),
        scaling_config=ScalingConfig(
            num_workers=scale(session),
            use_gpu=asked["num_gpus"] > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount},
            label_selector=asked.get("label_selector"),
        ),
        run_config=RunConfig(
            name=RUN_NAME,
            storage_path=task.writer.scratch_uri,
            failure_config=FailureConfig(max_failures=task.config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    if forget_torn_snapshot(task.writer):
        note(
            "the note of the last checkpoint is torn, as where a process is killed while it writes: from the start"
        )
    controllers: list[Any] = []
    # Ray's own handler would turn Ctrl-C into an exit with status 0, and stay in place after the training.
    trainer._register_sigint_handler = controllers.append
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise UserError(
            f"the training failed, and was begun again {task.config.max_failures} times in vain",
            where="train",
            got=_last_line(error),
            fix="mend what it says and run the same command, which goes on from the last checkpoint; --debug shows "
            "where it failed, train.max_failures says how often it is begun again",
        ) from error
    except KeyboardInterrupt:
        for controller in controllers:
            try:
                ray.get(controller.abort.remote(), timeout=10)
            except (RayActorError, ray.exceptions.GetTimeoutError):
                # The controller ends itself once the workers are gone.
                continue
        raise


def _last_line(error: BaseException) -> str:
    """Return what a worker failed of; the rest of the text is its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def forget_torn_snapshot(writer: ArtifactWriter) -> bool:
    """Remove the checkpoints of a training that was killed while Ray Train noted down a new one.

    Ray writes that note in place, and could not read half of one.

    Returns:
        Whether there was one.
    """
    folder = f"{writer.key}/scratch/{RUN_NAME}"
    try:
        json.loads(writer.storage.read(f"{folder}/checkpoint_manager_snapshot.json"))
    except MissingObject:
        return False
    except ValueError:
        writer.storage.delete(folder)
        return True
    return False
