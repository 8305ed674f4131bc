"""Planning and training as steps: the plan decides every batch, the training follows it on Ray Train."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.errors import UserError
from cluster.storage import MissingObject
from models.errors import ModelError
from pipelines.model import Model
from pipelines.steps import Step, Work
from pipelines.train.config import UNFELT, TrainConfig
from pipelines.train.sources import Source, check_guides, open_sources
from pipelines.train.stages import MAIN, resolve_stages
from pipelines.train.task import TrainTask
from pipelines.train.watching import check_watchers

if TYPE_CHECKING:
    from cluster.session import Session

PLAN_VERSION = 3
STAGE_VERSION = 3
MAX_FAILURES = 3
"""Lost workers that one training survives."""
RUN_NAME = "ranks"
"""Ray Train's folder in the scratch; a training goes on from there with any number of workers."""


def plan_step(
    data: Step,
    groups: Step,
    model: Model,
    config: TrainConfig,
    guides: Mapping[str, Step] | None = None,
    also: Sequence[Source] = (),
) -> Step:
    """Decide which query, positive and negatives form each global batch, and tokenise their texts once.

    Args:
        data: Ingest.
        groups: Select.
        model: To be trained.
        config: Of the training.
        guides: Dense teachers, which may guide a loss or cluster queries: name -> their embeddings of ``data``.
        also: Further data sets.

    Returns:
        A step whose artifact has the table `order` (schema PLAN_ORDER), sorted by step, and the files
        `queries/*.npy` and `documents/*.npy`; its summary names the teachers of the scores and what the ordinals of
        each data set were raised by. It does not depend on the number of workers.

    Raises:
        UserError: The guide, or the teacher of the clusters, is no dense teacher of each data set, or a stage names
            a data set that is none of them.
    """
    sources = (Source(MAIN, data, groups, model.prompts, guides or {}), *also)
    stages = resolve_stages(config, {source.name: source.settings for source in sources})
    read = {name: step for source in sources for name, step in source.inputs(config).items()}
    check_guides(sources, config)
    tokens = {name: model.identity[name] for name in ("digest", "prompts", "max_query_tokens")}
    batches = config.batches.model_dump(mode="json", include={"clusters", "near_duplicate_jaccard"})
    return Step(
        stage="plan",
        label=groups.label,
        stage_version=PLAN_VERSION,
        identity={
            "stages": [stage.identity for stage in stages],
            "seed": config.seed,
            "max_answers": config.max_answers,
            "batches": batches,
            "model": tokens | {"max_document_tokens": _document_tokens(model, config)},
            "prompts": {source.name: source.prompts.identity for source in also},
        },
        libraries=("numpy", "tokenizers", "transformers", *config.batches.libraries),
        inputs={**read, **model.inputs},
        run=partial(_plan, model=model, config=config, sources=sources),
    )


def train_step(plan: Step, model: Model, config: TrainConfig) -> Step:
    """Fine-tune ``model`` in the order of ``plan``; the number of workers is no part of it.

    Returns:
        A step whose artifact has the files `model/...`, a directory that sentence-transformers and
        transformers load, with float32 weights, and the table `training_steps`; with `lora.keep_adapter` the
        files `adapter/...` too, with `tensorboard` the files `tensorboard/...`, with `dev` the table
        `training_metrics`.

    Raises:
        UserError: The recipe asks for a logger whose package is not installed.
    """
    check_watchers(config)
    settings = config.model_dump(mode="json", exclude=UNFELT)
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


def _document_tokens(model: Model, config: TrainConfig) -> int:
    return config.max_document_tokens or model.config.max_document_tokens


def _plan(work: Work, model: Model, config: TrainConfig, sources: Sequence[Source]) -> Artifact:
    from pipelines.train.planning import write_plan

    opened = open_sources(sources, work.inputs)
    work.progress.total(sum(source.groups.num_rows("groups") for source in opened), "groups")
    summary, counters = work.session.run_on(
        "tokenize",
        write_plan,
        work.writer,
        opened,
        replace(model.locate(work.inputs), max_document_tokens=_document_tokens(model, config)),
        config,
    )
    return work.commit({"order": 1}, summary, counters)


def _train(work: Work, model: Model, config: TrainConfig) -> Artifact:
    from pipelines.train.checks import check_plan
    from pipelines.train.watching import Training, event_folder, open_loggers

    check_plan(work.inputs["plan"].manifest.summary, config)
    work.session.start()
    import ray

    from pipelines.train.board import Board
    from pipelines.train.dev_cut import make_cut
    from pipelines.train.failures import raise_failure
    from pipelines.train.following import following

    plan, data = work.inputs["plan"], work.inputs["data"]
    located = replace(model.locate(work.inputs), dtype=training_dtype(model, config))
    board = ray.remote(num_cpus=0)(Board).remote()
    threads = work.session.num_threads("train", num_workers(work.session))
    cut = None
    if config.dev:
        cut = ray.put(work.session.run_on("tokenize", make_cut, data, located, config.dev, config.seed))
    task = TrainTask(plan, data, work.writer, located, config, threads, board, cut)
    num_steps = int(str(plan.manifest.summary["steps"]))
    settings = config.model_dump(mode="json", exclude_defaults=True, exclude=UNFELT)
    with event_folder(work.writer) as folder:
        loggers = open_loggers(config, Training(work.step.label, work.step.fingerprint, settings, folder))
        with following(board, num_steps, work.progress, loggers) as follower:
            _fit(task, work.session)
            raise_failure(ray.get(board.failure.remote()), plan)
        steps = work.writer.finished("training_steps").get(0)
        if follower.stopping and steps is None:
            raise KeyboardInterrupt
        assert steps is not None
        if config.tensorboard:
            work.writer.put_directory("tensorboard", folder)
    tables = {"training_steps": 1} | ({"training_metrics": 1} if config.dev else {})
    summary = {"steps": steps.rows, "dtype": located.dtype, "device": located.device}
    artifact = work.commit(tables, {**summary, "workers": num_workers(work.session)})
    if follower.stopping:
        raise KeyboardInterrupt
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
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    forget_torn_snapshot(task.writer)
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


def forget_torn_snapshot(writer: ArtifactWriter) -> None:
    """Remove the checkpoints of a training that was killed while Ray Train noted down a new one.

    Ray writes that note in place, and could not read half of one.
    """
    folder = f"{writer.key}/scratch/{RUN_NAME}"
    try:
        json.loads(writer.storage.read(f"{folder}/checkpoint_manager_snapshot.json"))
    except MissingObject:
        return
    except ValueError:
        writer.storage.delete(folder)
