"""From a recipe to the work of its steps: the one place that knows what a run consists of."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import ceil

from cluster.definition import RoleName
from pipelines.cost.corpus import Corpus
from pipelines.cost.flops import exact_flops
from pipelines.cost.mined_set import Keyed, MinedSet
from pipelines.cost.sized import SizedModel
from pipelines.cost.texts import Texts
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import (
    COMPONENT_BYTES,
    EvaluateWork,
    IndexWork,
    PlannedStep,
    PlanWork,
)
from pipelines.recipe import Recipe
from pipelines.train.phases import homogeneous_rows
from pipelines.train.stages import MAIN, Stage


def plan_steps(
    recipe: Recipe,
    corpora: Mapping[str, Corpus],
    dtype_of: Callable[[RoleName, str], str],
    num_ranks: int,
) -> list[PlannedStep]:
    """Return the steps of a run in order, each with its work; what several rounds or teachers share comes once.

    Args:
        recipe: The run.
        corpora: `main` and every name under `also` -> the sizes of this data set.
        dtype_of: (role, dtype as the recipe says) -> dtype in force there.
        num_ranks: Workers of training.
    """
    sets = mined_sets(recipe, corpora, dtype_of)
    main = sets[MAIN]
    if not main.num_queries:
        # A corpus alone can be embedded, and nothing else.
        return [main.ingest().step, main.embeddings("base_embeddings", None, 0).step]
    training = _Training(recipe, sets, dtype_of, num_ranks)
    steps: dict[str, PlannedStep] = {}

    def add(keyed: Keyed, prefix: str = "") -> None:
        step = keyed.step
        steps.setdefault(keyed.key, replace(step, name=f"{prefix}{step.name}"))

    add(main.ingest())
    for number in range(recipe.rounds):
        prefix = f"round{number + 1}." if number + 1 < recipe.rounds else ""
        for name, one in sets.items():
            for keyed in [*([] if name == MAIN else [one.ingest()]), *one.mining(number)]:
                add(keyed, prefix)
        for step in training.steps():
            add(Keyed(step, f"{step.name} {number}"), prefix)
    add(main.embeddings("base_embeddings", None, 0))
    return [*steps.values(), *_measuring(recipe, main)]


def mined_sets(
    recipe: Recipe, corpora: Mapping[str, Corpus], dtype_of: Callable[[RoleName, str], str]
) -> dict[str, MinedSet]:
    """Return every data set of a recipe by name, `main` first."""
    of = partial(MinedSet, encode=recipe.encode, model=recipe.model, dtype_of=dtype_of)
    splits = (recipe.mine.split, recipe.evaluate.split)
    main = of(MAIN, recipe.data, recipe.mine, corpora[MAIN], query_prompt=None, splits=splits)
    further = {
        name: of(
            name, one.data, one.mine, corpora[name], query_prompt=one.query_prompt, splits=(one.mine.split,)
        )
        for name, one in recipe.also.items()
    }
    return {MAIN: main, **further}


def _measuring(recipe: Recipe, main: MinedSet) -> list[PlannedStep]:
    """Return what follows the training: the main data set is searched with both models, measured and indexed."""
    base, depth = main.base, recipe.evaluate.retrieval_depth
    held_out, num_documents = main.corpus.asked(recipe.evaluate.split), main.corpus.num_documents
    # An index of lists is for mining alone.
    search = replace(main.searching(base, held_out, depth), index="exact")
    steps = [PlannedStep("base_ranking", "search", "base", search)]
    ranked = ["base", "tuned"]
    if recipe.reranker:
        ranked = ["base", "untrained", "tuned"]
        scoring = main.scoring(recipe.reranker, held_out, recipe.evaluate.rerank_depth)
        steps += [PlannedStep(f"{name}_ranking", "score", name, scoring) for name in ranked[1:]]
    else:
        steps += [
            PlannedStep("tuned_embeddings", "encode", f"{base.name}-tuned", main.encoding(base, held_out)),
            PlannedStep("tuned_ranking", "search", "tuned", search),
        ]
    steps += [
        PlannedStep(f"{name}_ranking", "search", name, main.lexical(held_out, depth))
        for name in recipe.evaluate.baselines
    ]
    rankings = len(ranked) + len(recipe.evaluate.baselines)
    rows = rankings * held_out * min(depth, num_documents)
    differences = len(ranked) - 1
    resamples = (
        (rankings + differences) * len(recipe.evaluate.metrics) * recipe.evaluate.bootstrap_samples * held_out
    )
    steps.append(PlannedStep("metrics", "evaluate", recipe.evaluate.split, EvaluateWork(rows, resamples)))
    if not recipe.reranker:
        steps.append(PlannedStep("index", "index", base.name, _indexing(recipe, main)))
    return [replace(step, dataset=MAIN) for step in steps]


def _indexing(recipe: Recipe, main: MinedSet) -> IndexWork:
    index, documents, dimension = recipe.index, main.base.documents, main.dimension(main.base)
    component = COMPONENT_BYTES["float32" if index.kind == "flat" else index.kind]
    held = ceil((index.dimension or dimension) * component)
    if index.is_exact:
        return IndexWork(documents, held)
    is_mapped = index.rescore_with == "embeddings"
    asked = min(index.recall_sample, main.corpus.asked(recipe.evaluate.split))
    return IndexWork(
        documents,
        held,
        mapped_bytes=dimension * COMPONENT_BYTES[recipe.encode.precision] if is_mapped else 0.0,
        recall_flops=exact_flops(asked, documents.count, dimension),
    )


class _Training:
    """The plan and the training of one round, over all stages.

    Args:
        recipe: The run.
        sets: Every data set by name.
        dtype_of: (role, dtype as the recipe says) -> dtype in force there.
        num_ranks: Workers.
    """

    def __init__(
        self,
        recipe: Recipe,
        sets: Mapping[str, MinedSet],
        dtype_of: Callable[[RoleName, str], str],
        num_ranks: int,
    ) -> None:
        self.recipe, self.sets, self.dtype_of, self.num_ranks = recipe, sets, dtype_of, num_ranks
        self.texts = {
            name: one.training_texts(recipe.train.max_document_tokens) for name, one in sets.items()
        }
        self.pairs = {name: one.pairs(recipe.reranker)[1] for name, one in sets.items() if recipe.reranker}
        self.used = [name for name in sets if any(name in stage.sets for stage in recipe.stages)]

    def steps(self) -> list[PlannedStep]:
        """Return both steps."""
        of = "+".join(self.used)
        return [
            PlannedStep("order", "plan", "batches", self._plan(), dataset="+".join(self.sets)),
            PlannedStep("trained", "train", self._trained.name, self._train(), dataset=of),
        ]

    @property
    def _trained(self) -> SizedModel:
        main, reranker = self.sets[MAIN], self.recipe.reranker
        return main.pairs(reranker)[0] if reranker else main.base

    def _plan(self) -> PlanWork:
        texts: list[Texts] = []
        for name, one in self.sets.items():
            queries, document = self.texts[name]
            documents = one.num_groups * (one.mine.select.num_negatives + 1)
            texts += [
                queries.times(one.num_asked),
                document.times(min(documents, one.corpus.num_documents)),
            ]
        rows = [
            (stage, name, count) for stage in self.recipe.stages for name, count in self._rows(stage).items()
        ]
        num_documents = sum(count * (1 + self._num_planned(stage, name)) for stage, name, count in rows)
        return PlanWork(sum(count for _, _, count in rows), num_documents, tuple(texts))

    def _num_planned(self, stage: Stage, name: str) -> int:
        """Return how many negatives the plan holds for a row of a data set."""
        own = stage.sets[name].num_negatives
        return self.sets[name].mine.select.num_negatives if stage.dynamic else own

    def _train(self) -> TrainWork:
        train, stages = self.recipe.train, self.recipe.stages
        num_steps = sum(self._num_steps(stage) for stage in stages)
        batches = [batch for stage in stages for batch in self._batches(stage)]
        return TrainWork(
            shape=self._trained.shape,
            dtype=self.dtype_of("train", train.dtype),
            texts=tuple(texts for stage in stages for texts in self._passed(stage, self._rows(stage))),
            num_steps=max(1, num_steps),
            num_ranks=self.num_ranks,
            zero_stage=train.zero_stage,
            is_checkpointed=train.gradient_checkpointing,
            num_checkpoints=max(1, ceil(num_steps / train.checkpoint_every_steps)),
            largest_batch=max(batches, key=lambda batch: sum(texts.tokens for texts in batch)),
            adapter_parameters=self._trained.shape.adapter_parameters(train.lora.rank) if train.lora else 0,
            is_offloaded=train.offload != "none",
            chunk=train.gradcache_chunk or 0,
        )

    def _rows(self, stage: Stage) -> dict[str, int]:
        """Return the rows of a stage by data set, epochs counted."""
        return {name: stage.epochs * self.sets[name].num_groups for name in stage.sets}

    def _num_steps(self, stage: Stage) -> int:
        """Return the batches of a stage; those of one task each are counted as if a data set had one task."""
        groups = {name: self.sets[name].num_groups for name in stage.sets}
        total = sum(groups.values())
        steps = 0
        for apart in homogeneous_rows(stage, max(1, total)):
            steps += ceil(max(0, total - apart) / stage.batch_size)
            steps += sum(ceil(apart * count / max(1, total) / stage.batch_size) for count in groups.values())
        return steps

    def _passed(self, stage: Stage, rows: Mapping[str, int]) -> tuple[Texts, ...]:
        """Return the texts that so many rows of each data set bring, the negatives of the stage among them."""
        texts: list[Texts] = []
        for name, count in rows.items():
            queries, documents = self.texts[name]
            scored = count * (1 + stage.sets[name].num_negatives)
            if name in self.pairs:
                texts.append(self.pairs[name].times(scored))
            else:
                texts += [queries.times(count), documents.times(scored)]
        return tuple(texts)

    def _batches(self, stage: Stage) -> list[tuple[Texts, ...]]:
        """Return the kinds of global batches of a stage: drawn from all its data sets, or of one each."""
        rows = self._rows(stage)
        total = max(1, sum(rows.values()))
        size = min(stage.batch_size, total)
        shares = {name: ceil(size * count / total) for name, count in rows.items()}
        mixed = [self._passed(stage, shares)] if stage.mixed_share > 0 else []
        apart = [{name: min(size, count)} for name, count in rows.items()] if stage.mixed_share < 1 else []
        return mixed + [self._passed(stage, one) for one in apart]
