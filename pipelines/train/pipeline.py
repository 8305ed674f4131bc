"""Planning and training as steps: the plan decides every batch, the training follows it on Ray Train."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from cluster.artifacts import Artifact
from pipelines.located_model import LocatedModel
from pipelines.model import Model
from pipelines.steps import Step, Work
from pipelines.train.config import PLANNED, UNFELT, TrainConfig
from pipelines.train.cross_encoder import Trained
from pipelines.train.deepspeed_settings import check_deepspeed
from pipelines.train.ranks import Ranks, num_workers
from pipelines.train.refresh import Renew, renewed_plan
from pipelines.train.sources import Source, check_guides, open_sources
from pipelines.train.stages import MAIN, resolve_stages
from pipelines.train.task import TrainTask
from pipelines.train.watching import check_watchers

PLAN_VERSION = 4
STAGE_VERSION = 5


def plan_step(
    data: Step,
    groups: Step,
    model: Trained,
    config: TrainConfig,
    guides: Mapping[str, Step] | None = None,
    also: Sequence[Source] = (),
    drafts: tuple[Step, Step] | tuple[()] = (),
) -> Step:
    """Decide which query, positive and negatives form each global batch, and tokenise their texts once.

    Args:
        data: Ingest.
        groups: Select.
        model: To be trained.
        config: Of the training.
        guides: Dense teachers, which may guide a loss or cluster queries: name -> their embeddings of ``data``.
        also: Further data sets.
        drafts: Queries that were generated for ``data``, and the search for their documents.

    Returns:
        A step whose artifact has the table `order` (schema PLAN_ORDER), sorted by step, and the files
        `queries/*.npy` and `documents/*.npy`; its summary names the teachers of the scores and what the ordinals of
        each data set were raised by. With `few_shot` the files `shown_queries/*.npy` hold every row's query behind its
        examples. It does not depend on the number of workers.

    Raises:
        UserError: The guide, or the teacher of the clusters, is no dense teacher of each data set, or a stage names
            a data set that is none of them.
    """
    given, model = model, model.in_training(config.few_shot > 0, config.max_document_tokens)
    further = [
        replace(each, prompts=model.prompts) if each.prompts == given.prompts else each for each in also
    ]
    sources = (Source(MAIN, data, groups, model.prompts, guides or {}, drafts=drafts), *further)
    stages = resolve_stages(config, {source.name: source.settings for source in sources})
    read = {name: step for source in sources for name, step in source.inputs(config).items()}
    check_guides(sources, config)
    tokens = {name: model.identity[name] for name in ("digest", "max_query_tokens", "max_document_tokens")}
    tokens["prompts"] = model.prompts.identity
    # Prompts that a pooler cannot leave out are refused when the plan is made.
    tokens["pooling"] = model.identity.get("pooling")
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
            "model": tokens,
            "prompts": {source.name: source.prompts.identity for source in further},
            **({"few_shot": config.few_shot} if config.few_shot else {}),
        },
        libraries=("numpy", "tokenizers", "transformers", *config.batches.libraries),
        inputs={**read, **model.inputs},
        run=partial(_plan, model=model, config=config, sources=sources),
    )


def train_step(plan: Step, model: Trained, config: TrainConfig, renew: Renew | None = None) -> Step:
    """Fine-tune ``model`` in the order of ``plan``; the number of workers is no part of it.

    What kind of model that is, pipelines.train.kinds tells apart.

    Args:
        plan: Of the training, or of its first steps where the negatives are mined anew.
        model: To begin with.
        config: Of the training.
        renew: Says how negatives are mined anew: as those of ``plan`` were, with another model.

    Returns:
        A step whose artifact has the files `model/...`, a directory that sentence-transformers and
        transformers load, with float32 weights, and the table `training_steps`; with `lora.keep_adapter` the
        files `adapter/...` too, as peft loads them, with `tensorboard` the files `tensorboard/...`, with `dev` the
        table `training_metrics`; its summary names the audits of what was mined meanwhile.

    Raises:
        UserError: The recipe asks for a logger whose package is not installed, or for what DeepSpeed refuses.
    """
    check_watchers(config)
    check_deepspeed(config)
    settings = config.model_dump(mode="json", exclude=UNFELT | PLANNED)
    return Step(
        stage="train",
        label=f"{model.label}-{plan.label}"[:80],
        stage_version=STAGE_VERSION,
        identity={"config": settings, "model": {**model.identity, "dtype": training_dtype(model, config)}},
        libraries=("torch", "transformers", "deepspeed", *(("peft",) if config.lora else ())),
        inputs={"plan": plan, "data": plan.inputs["data"], **model.inputs},
        run=partial(_train, model=model, config=config, renew=renew),
    )


def training_dtype(model: Trained, config: TrainConfig) -> str:
    """Return the dtype of matrix products: what the recipe says, else bfloat16 if the model runs in it."""
    if config.dtype != "auto":
        return config.dtype
    # float16 would need its loss scaled; float32 is always right.
    return model.dtype if model.dtype == "bfloat16" else "float32"


def _plan(work: Work, model: Trained, config: TrainConfig, sources: Sequence[Source]) -> Artifact:
    from pipelines.train.planning import write_plan

    opened = open_sources(sources, work.inputs)
    work.progress.total(sum(source.groups.num_rows("groups") for source in opened), "groups")
    summary, counters = work.session.run_on(
        "tokenize", write_plan, work.writer, opened, model.locate(work.inputs), config
    )
    return work.commit({"order": 1}, summary, counters)


def _train(work: Work, model: Trained, config: TrainConfig, renew: Renew | None) -> Artifact:
    from pipelines.train.checks import check_plan
    from pipelines.train.watching import Training, event_folder, open_loggers

    check_plan(work.inputs["plan"].manifest.summary, config)
    work.session.start()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from pipelines.train.board import Board
    from pipelines.train.dev_cut import make_cut
    from pipelines.train.following import following

    plan, data = work.inputs["plan"], work.inputs["data"]
    located = replace(model.locate(work.inputs), dtype=training_dtype(model, config))
    # Beside the driver, which cannot do without it: what asks for nothing may be put on a node that is taken away.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    threads = work.session.num_threads("train", num_workers(work.session))
    cut = None
    if config.dev:
        assert isinstance(located, LocatedModel)
        cut = ray.put(work.session.run_on("tokenize", make_cut, data, located, config.dev, config.seed))
    task = TrainTask(plan, data, work.writer, located, config, threads, board, cut)
    num_steps = int(str(plan.manifest.summary["steps"]))
    settings = config.model_dump(mode="json", exclude_defaults=True, exclude=UNFELT)
    with event_folder(work.writer) as folder:
        loggers = open_loggers(config, Training(work.step.label, work.step.fingerprint, settings, folder))
        with following(board, num_steps, work.progress, loggers) as follower:
            ranks = Ranks(task, work.session, follower)
            audits: list[str] = []
            if renew and config.refresh_every_steps:
                assert isinstance(model, Model)
                ends = range(config.refresh_every_steps, num_steps, config.refresh_every_steps)
                plan, audits = renewed_plan(work, model, ends, renew, ranks.train_until)
            ranks.train(plan)
        if config.tensorboard:
            work.writer.put_directory("tensorboard", folder)
    return ranks.commit(work, audits)
