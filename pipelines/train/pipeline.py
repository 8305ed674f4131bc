"""Planning and training as steps: the plan decides every batch, the training follows it on Ray Train."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.errors import UserError
from cluster.storage import MissingObject
from models.errors import ModelError
from pipelines.model import Model
from pipelines.steps import Step, Work
from pipelines.train.config import PLANNED, UNFELT, TrainConfig
from pipelines.train.task import TrainTask
from pipelines.train.watching import check_watchers

if TYPE_CHECKING:
    from cluster.session import Session

PLAN_VERSION = 2
STAGE_VERSION = 2
MAX_FAILURES = 3
"""Lost workers that one training survives."""


def plan_step(
    data: Step, groups: Step, model: Model, config: TrainConfig, guides: Mapping[str, Step] | None = None
) -> Step:
    """Decide which query, positive and negatives form each global batch, and tokenise their texts once.

    Args:
        data: Ingest.
        groups: Select.
        model: To be trained.
        config: Of the training.
        guides: Dense teachers that may guide a loss: name -> their embeddings of ``data``.

    Returns:
        A step whose artifact has the table `order` (schema PLAN_ORDER), sorted by step, and the files
        `queries/*.npy` and `documents/*.npy`; its summary names the teachers of the scores. It does not depend on
        the number of workers.

    Raises:
        UserError: The recipe's guide is none of ``guides``.
    """
    guide = _guide(config, guides or {})
    tokens = {name: model.identity[name] for name in ("digest", "prompts", "max_query_tokens")}
    return Step(
        stage="plan",
        label=groups.label,
        stage_version=PLAN_VERSION,
        identity={
            "config": config.model_dump(mode="json", include=PLANNED) | {"max_answers": config.max_answers},
            "model": tokens | {"max_document_tokens": _document_tokens(model, config)},
        },
        libraries=("numpy", "tokenizers", "transformers"),
        inputs={"data": data, "groups": groups, **guide, **model.inputs},
        run=partial(_plan, model=model, config=config),
    )


def train_step(plan: Step, model: Model, config: TrainConfig, workers: int) -> Step:
    """Fine-tune ``model`` in the order of ``plan``.

    Returns:
        A step whose artifact has the files `model/...`, a directory that sentence-transformers and
        transformers load, with float32 weights, and the table `training_steps`; with `lora.keep_adapter` the
        files `adapter/...` too, with `tensorboard` the files `tensorboard/...`.

    Raises:
        UserError: The recipe asks for a logger whose package is not installed.
    """
    check_watchers(config)
    settings = config.model_dump(mode="json", exclude=UNFELT)
    if config.draws_dropout:
        settings["workers"] = workers
    return Step(
        stage="train",
        label=f"{model.label}-{plan.label}"[:80],
        stage_version=STAGE_VERSION,
        identity={"config": settings, "model": {**model.identity, "dtype": training_dtype(model, config)}},
        libraries=("torch", "transformers", "deepspeed"),
        inputs={"plan": plan, "data": plan.inputs["data"], **model.inputs},
        run=partial(_train, model=model, config=config),
    )


def training_dtype(model: Model, config: TrainConfig) -> str:
    """Return the dtype of matrix products: what the recipe says, else bfloat16 if the model runs in it."""
    if config.dtype != "auto":
        return config.dtype
    # float16 would need its loss scaled; float32 is always right.
    return model.dtype if model.dtype == "bfloat16" else "float32"


def _guide(config: TrainConfig, guides: Mapping[str, Step]) -> dict[str, Step]:
    if config.guide is None:
        return {}
    if config.guide not in guides:
        raise UserError(
            "the guide is no dense teacher of this recipe",
            where="train.loss.guide",
            got=config.guide,
            expected=", ".join(guides) or "a dense teacher under mine.teachers",
        )
    return {"guide": guides[config.guide]}


def _document_tokens(model: Model, config: TrainConfig) -> int:
    return config.max_document_tokens or model.config.max_document_tokens


def _plan(work: Work, model: Model, config: TrainConfig) -> Artifact:
    from pipelines.train.planning import write_plan

    data, groups = work.inputs["data"], work.inputs["groups"]
    work.progress.total(groups.num_rows("groups"), "groups")
    summary, counters = work.session.run_on(
        "tokenize",
        write_plan,
        work.writer,
        data,
        groups,
        replace(model.locate(work.inputs), max_document_tokens=_document_tokens(model, config)),
        config,
        work.inputs.get("guide"),
    )
    return work.commit({"order": 1}, summary, counters)


def _train(work: Work, model: Model, config: TrainConfig) -> Artifact:
    from pipelines.train.checks import check_plan
    from pipelines.train.watching import Training, event_folder, open_loggers

    check_plan(work.inputs["plan"].manifest.summary, config)
    work.session.start()
    import ray

    from pipelines.train.board import Board
    from pipelines.train.failures import raise_failure
    from pipelines.train.following import following

    plan, data = work.inputs["plan"], work.inputs["data"]
    located = replace(model.locate(work.inputs), dtype=training_dtype(model, config))
    board = ray.remote(num_cpus=0)(Board).remote()
    threads = work.session.num_threads("train", num_workers(work.session))
    task = TrainTask(plan, data, work.writer, located, config, threads, board)
    num_steps = int(str(plan.manifest.summary["steps"]))
    settings = config.model_dump(mode="json", exclude_defaults=True, exclude=UNFELT)
    with event_folder(work.writer) as folder:
        loggers = open_loggers(config, Training(work.step.label, work.step.fingerprint, settings, folder))
        with following(board, num_steps, work.progress, loggers) as follower:
            _fit(task, work.session)
            raise_failure(ray.get(board.failure.remote()), data)
        steps = work.writer.finished("training_steps").get(0)
        if follower.stopping and steps is None:
            raise KeyboardInterrupt
        assert steps is not None
        if config.tensorboard:
            work.writer.put_directory("tensorboard", folder)
    summary = {"steps": steps.rows, "dtype": located.dtype, "device": located.device}
    artifact = work.commit({"training_steps": 1}, {**summary, "workers": num_workers(work.session)})
    if follower.stopping:
        raise KeyboardInterrupt
    return artifact


def num_workers(session: "Session") -> int:
    """Return the number of ranks: as the definition says, on the embedded cluster no more than fit."""
    wanted = session.definition.role("train").workers or 1
    most = wanted if isinstance(wanted, int) else wanted[1]
    return min(most, session.pool("train")[1]) if session.definition.is_local else most


def run_rank(task: TrainTask) -> None:
    """Train on one rank, in a process group with the others; what Ray Train runs on every worker.

    An error of ours would come again: it is posted, the ranks that Ray Train starts anew find it and leave, and the
    driver raises it. Any other failure is a lost worker, which they make good.
    """
    import ray

    from cluster.process_group import join_process_group
    from pipelines.train.worker import train_worker

    if ray.get(task.board.failure.remote()) is not None:
        return
    join_process_group("nccl" if task.model.device == "cuda" else "gloo")
    try:
        train_worker(task)
    except (UserError, ModelError) as error:
        ray.get(task.board.fail.remote(error))
        raise


def _fit(task: TrainTask, session: "Session") -> None:
    import ray
    from ray.exceptions import RayActorError
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    asked, ranks = session.resources("train"), num_workers(session)
    # Sharded checkpoints fit one number of ranks only: with another one the training starts afresh.
    name = f"ranks-{ranks}"
    resources = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"], "memory": asked.get("memory", 0)}
    trainer = DataParallelTrainer(
        partial(run_rank, task),
        scaling_config=ScalingConfig(
            num_workers=ranks,
            use_gpu=asked["num_gpus"] > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount},
            label_selector=asked.get("label_selector"),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=task.writer.scratch_uri,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    forget_torn_snapshot(task.writer, name)
    controllers: list[Any] = []
    # Ray's own handler would turn Ctrl-C into an exit with status 0, and stay in place after the training.
    trainer._register_sigint_handler = controllers.append
    try:
        trainer.fit()
    except KeyboardInterrupt:
        for controller in controllers:
            try:
                ray.get(controller.abort.remote(), timeout=10)
            except (RayActorError, ray.exceptions.GetTimeoutError):
                # The controller ends itself once the workers are gone.
                continue
        raise


def forget_torn_snapshot(writer: ArtifactWriter, name: str) -> None:
    """Remove the checkpoints of a training that was killed while Ray Train noted down a new one.

    Ray writes that note in place, and could not read half of one.
    """
    folder = f"{writer.key}/scratch/{name}"
    try:
        json.loads(writer.storage.read(f"{folder}/checkpoint_manager_snapshot.json"))
    except MissingObject:
        return
    except ValueError:
        writer.storage.delete(folder)
