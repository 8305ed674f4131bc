"""From a recipe to the work of its steps: the one place that knows what a run consists of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from cluster.definition import RoleName
from pipelines.cost.corpus import Corpus
from pipelines.cost.shape import ModelShape, model_directory, read_shape
from pipelines.cost.texts import BYTES_PER_TOKEN, Texts, measure_texts, read_prefix, token_lengths
from pipelines.cost.works import (
    EncodeWork,
    EvaluateWork,
    IndexWork,
    IngestWork,
    LexicalWork,
    ListWork,
    PlannedStep,
    PlanWork,
    ScoreWork,
    SearchWork,
    SelectWork,
    TrainWork,
    row_bytes,
)
from pipelines.recipe import Recipe

FUSED = {"faiss": False, "torch": False}
"""Search backend -> whether it selects scores in the kernel that computes them."""
SEARCH_DTYPE = "float32"
"""Of the products of every backend."""
QUERY_SHARD_TOKENS = 262_144
PAIRS_A_TASK = 65_536
VOCABULARY_HEADS = ("yes_no", "query_likelihood")
"""Methods of rerankers that need logits over the vocabulary."""


@dataclass(frozen=True)
class SizedModel:
    """A model of the recipe with its shape and its texts.

    Args:
        name: For tables.
        settings: As the recipe has them.
        shape: Of its layers.
        documents: The corpus, cut as this model cuts it; chunks count.
        queries: One query's worth of moments; ``times`` gives the number wanted.
    """

    name: str
    settings: Mapping[str, Any]
    shape: ModelShape
    documents: Texts
    queries: Texts

    @property
    def max_tokens(self) -> int:
        """The longest text."""
        return max(int(self.settings["max_query_tokens"]), int(self.settings["max_document_tokens"]))


def plan_steps(
    recipe: Recipe, corpus: Corpus, dtype_of: Callable[[RoleName, str], str], num_ranks: int
) -> list[PlannedStep]:
    """Return the steps of a run in order, each with its work; equal embeddings are computed once.

    Args:
        recipe: The run.
        corpus: Its sizes.
        dtype_of: (role, dtype as the recipe says) -> dtype in force there.
        num_ranks: Workers of training.
    """
    return _Steps(recipe, corpus, dtype_of, num_ranks).all()


class _Steps:
    """The steps of one recipe; holds what several of them need."""

    def __init__(
        self, recipe: Recipe, corpus: Corpus, dtype_of: Callable[[RoleName, str], str], num_ranks: int
    ) -> None:
        self.recipe, self.corpus, self.dtype_of, self.num_ranks = recipe, corpus, dtype_of, num_ranks
        self.mine: dict[str, Any] = recipe.mine.model_dump()
        self.encode: dict[str, Any] = recipe.encode.model_dump()
        self.search: dict[str, Any] = self.mine["search"]
        self.base = self._sized(recipe.model.model_dump())
        self.shard_tokens = int(recipe.data.shard_tokens)
        self.mined, self.held_out = corpus.asked(recipe.mine.split), corpus.asked(recipe.evaluate.split)
        self.depth = int(self.search["retrieval_depth"])
        self.ranked = recipe.evaluate.retrieval_depth

    def all(self) -> list[PlannedStep]:
        """Return the steps of a whole run, in the order of ``pipelines.run.plan``."""
        recipe, corpus = self.recipe, self.corpus
        texts = (self.base.documents.times(corpus.num_documents), self.base.queries.times(self._asked_ever()))
        steps = [PlannedStep("data", "ingest", recipe.data.name, IngestWork(texts))]
        if not self._asked_ever():
            # A corpus alone can be embedded, and nothing else.
            return [*steps, *self._encoded("base_embeddings", self.base, steps)]
        one_round = [
            *self._teachers(),
            PlannedStep("groups", "select", "negatives", self._select()),
            PlannedStep("order", "plan", "batches", self._plan()),
            PlannedStep("trained", "train", self.base.name, self._train()),
        ]
        for number in range(1, recipe.rounds):
            steps += [replace(step, name=f"round{number}.{step.name}") for step in one_round]
        steps += one_round
        steps += [
            *self._encoded("base_embeddings", self.base, steps),
            PlannedStep(
                "base_ranking", "search", "base", self._search(self.base, self.held_out, self.ranked)
            ),
            PlannedStep(
                "tuned_embeddings",
                "encode",
                f"{self.base.name}-tuned",
                self._encode(self.base, self.held_out),
            ),
            PlannedStep(
                "tuned_ranking", "search", "tuned", self._search(self.base, self.held_out, self.ranked)
            ),
        ]
        steps += [
            PlannedStep(f"{name}_ranking", "search", name, self._lexical(self.held_out, self.ranked))
            for name in recipe.evaluate.baselines
        ]
        rankings = 2 + len(recipe.evaluate.baselines)
        rows = rankings * self.held_out * min(self.ranked, corpus.num_documents)
        resamples = (rankings + 1) * 4 * recipe.evaluate.bootstrap_samples * self.held_out
        index = IndexWork(self.base.documents, self._dimension(self.base))
        return [
            *steps,
            PlannedStep("metrics", "evaluate", recipe.evaluate.split, EvaluateWork(rows, resamples)),
            PlannedStep("index", "index", self.base.name, index),
        ]

    def _asked_ever(self) -> int:
        return sum(self.corpus.num_queries.values())

    def _teachers(self) -> list[PlannedStep]:
        """Return the steps of every teacher of ``mine``: one that finds candidates, and what it needs before."""
        steps: list[PlannedStep] = []
        for name, teacher in self._named_teachers().items():
            kind = teacher["kind"]
            if kind == "dense":
                model = self._sized(teacher["model"]) if teacher.get("model") else self.base
                steps += self._encoded(f"{name}_embeddings", model, steps)
                work: Any = self._search(model, self.mined, self.depth)
                steps.append(PlannedStep(f"{name}_candidates", "search", name, work, "mine.search.index"))
                continue
            works: dict[str, Callable[[], Any]] = {
                "bm25": lambda: self._lexical(self.mined, self.depth),
                "reranker": lambda teacher=teacher: self._score(teacher),  # type: ignore[misc]
            }
            work = works[kind]() if kind in works else ListWork(self.mined * self.depth)
            stage = {"bm25": "search", "reranker": "score"}.get(kind, "search")
            steps.append(PlannedStep(f"{name}_candidates", stage, name, work))
        return steps

    def _named_teachers(self) -> dict[str, dict[str, Any]]:
        if "teachers" in self.mine:
            return dict(self.mine["teachers"])
        return {"teacher": {"kind": "dense", "model": self.mine.get("teacher")}}

    def _sized(self, settings: Mapping[str, Any]) -> SizedModel:
        source = str(settings["source"])
        directory = model_directory(source)
        chunk = self.encode.get("chunk")
        prompts = settings.get("prompts") or {}
        prefix = {kind: prompts.get(kind, read_prefix(directory, kind)) for kind in ("query", "document")}
        queries = measure_texts(
            1, self.corpus.queries, directory, prefix["query"], int(settings["max_query_tokens"])
        )
        longest, count = int(settings["max_document_tokens"]), self.corpus.num_documents
        documents = measure_texts(count, self.corpus.documents, directory, prefix["document"], longest)
        if chunk and self.corpus.documents.texts:
            lengths = token_lengths(self.corpus.documents.texts, directory, prefix["document"])
            documents = chunked(documents, lengths, int(chunk["tokens"]), int(chunk["overlap"]))
        name = source.rpartition(":")[2].rstrip("/").rpartition("/")[2]
        return SizedModel(name, settings, read_shape(source), documents, queries)

    def _dimension(self, model: SizedModel) -> int:
        return int(self.encode.get("dimension") or model.shape.hidden)

    def _encoded(self, name: str, model: SizedModel, before: Sequence[PlannedStep]) -> list[PlannedStep]:
        """Return the step that embeds corpus and queries with ``model``, none where an earlier one does."""
        work = self._encode(model, self.corpus.asked(self.recipe.mine.split, self.recipe.evaluate.split))
        return (
            []
            if any(step.work == work for step in before)
            else [PlannedStep(name, "encode", model.name, work)]
        )

    def _encode(self, model: SizedModel, num_queries: int) -> EncodeWork:
        documents, queries = model.documents, model.queries.times(num_queries)
        document_shards = ceil(documents.num_bytes / BYTES_PER_TOKEN / self.shard_tokens)
        return EncodeWork(
            shape=model.shape,
            dtype=self.dtype_of("encode", str(model.settings.get("dtype", "auto"))),
            texts=(documents, queries),
            token_budget=int(self.encode["token_budget"]),
            max_tokens=model.max_tokens,
            dimension=self._dimension(model),
            precision=str(self.encode["precision"]),
            num_shards=max(1, document_shards)
            + ceil(queries.num_bytes / BYTES_PER_TOKEN / QUERY_SHARD_TOKENS),
        )

    def _search(self, model: SizedModel, num_queries: int, depth: int) -> SearchWork:
        dimension = self._dimension(model)
        inverted = self.search.get("index", "exact") == "ivf"
        return SearchWork(
            num_queries=num_queries,
            num_documents=model.documents.count,
            dimension=dimension,
            depth=depth,
            group_bytes=int(self.search["group_mb"]) * 2**20,
            range_queries=int(self.search["range_queries"]),
            dtype=SEARCH_DTYPE,
            is_fused=FUSED.get(str(self.search["backend"]), False),
            embedding_bytes=row_bytes(dimension, str(self.encode["precision"])),
            index="ivf" if inverted else "exact",
        )

    def _lexical(self, num_queries: int, depth: int) -> LexicalWork:
        return LexicalWork(self.base.documents.times(self.corpus.num_documents), num_queries, depth)

    def _score(self, teacher: Mapping[str, Any]) -> ScoreWork:
        settings = {"max_query_tokens": 64, "max_document_tokens": 256, **teacher["model"]}
        model = self._sized(settings)
        depth = min(int(teacher.get("depth") or self.depth), self.corpus.num_documents)
        mean = model.queries.mean_tokens + model.documents.mean_tokens
        # Lengths of queries vary little beside those of documents.
        squares = model.documents.mean_square_tokens + mean**2 - model.documents.mean_tokens**2
        num_bytes = model.queries.mean_bytes + model.documents.mean_bytes
        pairs = Texts(round(self.mined * (depth + self.corpus.positives)), mean, squares, num_bytes)
        is_vocabulary = settings.get("method") in VOCABULARY_HEADS
        rows = model.queries.mean_tokens if settings.get("method") == "query_likelihood" else 1.0
        return ScoreWork(
            shape=model.shape,
            dtype=self.dtype_of("score", str(settings.get("dtype", "auto"))),
            pairs=pairs,
            head_flops=2.0 * model.shape.hidden * model.shape.vocabulary * rows if is_vocabulary else 0.0,
            token_budget=int(settings.get("token_budget") or self.encode["token_budget"]),
            max_tokens=model.max_tokens,
            num_tasks=max(1, ceil(pairs.count / PAIRS_A_TASK)),
        )

    def _select(self) -> SelectWork:
        teachers = len(self._named_teachers())
        candidates = teachers * self.mined * min(self.depth, self.corpus.num_documents)
        return SelectWork(self.mined, candidates, self.recipe.mine.select.num_negatives)

    def _plan(self) -> PlanWork:
        train, negatives = self.recipe.train, self.recipe.mine.select.num_negatives
        documents = min(self.mined * (negatives + 1), self.base.documents.count)
        texts = (self.base.queries.times(self.mined), self.base.documents.times(documents))
        return PlanWork(self.mined * train.epochs, texts)

    def _train(self) -> TrainWork:
        train = self.recipe.train
        rows, steps = self.mined * train.epochs, train.epochs * ceil(self.mined / train.batch_size)
        documents = self.base.documents.times(rows * (1 + train.num_negatives))
        return TrainWork(
            shape=self.base.shape,
            dtype=self.dtype_of("train", train.dtype),
            texts=(self.base.queries.times(rows), documents),
            num_steps=max(1, steps),
            num_ranks=self.num_ranks,
            zero_stage=train.zero_stage,
            is_checkpointed=train.gradient_checkpointing,
            num_checkpoints=max(1, ceil(steps / train.checkpoint_every_steps)),
        )


def chunked(documents: Texts, lengths_N: np.ndarray, tokens: int, overlap: int) -> Texts:
    """Return the chunks of documents that a sample of uncut lengths stands for."""
    step = tokens - overlap
    counts = np.maximum(1, np.ceil((lengths_N - overlap) / step))
    last = lengths_N - (counts - 1) * step
    total = counts.sum()
    mean = float(((counts - 1) * tokens + last).sum() / total)
    squares = float(((counts - 1) * tokens**2 + last**2).sum() / total)
    per_document = float(counts.mean())
    return Texts(round(documents.count * per_document), mean, squares, documents.mean_bytes / per_document)
