"""One data set of a recipe, the main one or one under `also`: the work of ingest, teachers and selection."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

from cluster.definition import RoleName
from pipelines.cost.corpus import Corpus
from pipelines.cost.shape import model_directory
from pipelines.cost.sized import SizedModel, sized_model
from pipelines.cost.texts import BYTES_PER_TOKEN, Texts, measure_texts
from pipelines.cost.works import (
    EncodeWork,
    GenerateWork,
    IngestWork,
    LexicalWork,
    ListWork,
    PlannedStep,
    ScoreWork,
    SearchWork,
    SelectWork,
    Work,
    row_bytes,
)
from pipelines.encode.config import EncodeConfig
from pipelines.ingest.config import DataConfig
from pipelines.mine.config import MineConfig, RerankerTeacher, sources_of
from pipelines.model_config import ModelConfig
from pipelines.score.config import RerankerConfig
from pipelines.search.config import Bm25Teacher, DenseTeacher
from pipelines.train.stages import MAIN

FUSED = {"faiss": False, "torch": False}
"""Search backend -> whether it selects scores in the kernel that computes them."""
SEARCH_DTYPE = "float32"
"""Of the products of every backend."""
QUERY_SHARD_TOKENS = 262_144
PAIRS_A_TASK = 65_536
VOCABULARY_HEADS = ("yes_no", "query_likelihood")
"""Methods of rerankers that need logits over the vocabulary."""


@dataclass(frozen=True)
class Keyed:
    """A step, and all that its result depends on: of steps with equal keys one is computed.

    Args:
        step: The step.
        key: Compared, never read.
    """

    step: PlannedStep
    key: str


@dataclass(frozen=True)
class MinedSet:
    """A data set with everything that its share of the work depends on.

    Args:
        name: `main`, or its name under `also`.
        data: Where it comes from.
        mine: How its negatives are found.
        corpus: Its sizes.
        encode: How texts are embedded.
        model: The model that is trained.
        query_prompt: In place of the model's own; None: that one.
        splits: Whose queries are embedded.
        dtype_of: (role, dtype as the recipe says) -> dtype in force there.
    """

    name: str
    data: DataConfig
    mine: MineConfig
    corpus: Corpus
    encode: EncodeConfig
    model: ModelConfig
    query_prompt: str | None
    splits: tuple[str, ...]
    dtype_of: Callable[[RoleName, str], str]

    @cached_property
    def base(self) -> SizedModel:
        """The model that is trained, beside these texts."""
        return sized_model(self.model.model_dump(), self.corpus, self.encode, self.query_prompt)

    @property
    def num_asked(self) -> int:
        """Queries that are mined."""
        return self.corpus.asked(self.mine.split)

    @property
    def num_groups(self) -> int:
        """Groups that mining makes, at most."""
        per_query = self.mine.select.positives == "per_query"
        return self.num_asked if per_query else round(self.num_asked * self.corpus.positives)

    @property
    def num_queries(self) -> int:
        """Queries of all splits."""
        return sum(self.corpus.num_queries.values())

    def training_texts(self, max_document_tokens: int | None) -> tuple[Texts, Texts]:
        """Return one query's and one document's worth of moments as training sees them: never in chunks."""
        longest = max_document_tokens or self.model.max_document_tokens
        directory, prefix = model_directory(self.model.source), self.base.prefixes[1]
        return self.base.queries, measure_texts(1, self.corpus.documents, directory, prefix, longest)

    def ingest(self) -> Keyed:
        """Return the step that reads the data."""
        documents = self.base.documents.times(self.corpus.num_documents)
        work = IngestWork((documents, self.base.queries.times(self.num_queries)))
        return self._keyed("data", "ingest", self.data.name, work)

    def mining(self, generation: int = 0) -> list[Keyed]:
        """Return the steps that find negatives, in the order of ``pipelines.mine.pipeline.mine_steps``.

        Args:
            generation: Trainings that the model has behind it.
        """
        steps = [step for name in self.mine.teachers for step in self._teacher(name, generation)]
        reads = self.mine.read_by_select
        candidates = len(reads) * self.num_asked * min(self._depth, self.corpus.num_documents)
        made_of = self.mine.split, *(self._identity(name, generation) for name in reads)
        select = self.mine.select
        work = SelectWork(self.num_asked, candidates, select.num_negatives)
        if self.mine.searched_deeper:
            shorter = replace(work, num_negatives=0)
            steps.append(self._keyed("starved", "select", "starved queries", shorter, made_of, select))
        deepest = self.mine.search.max_retrieval_depth
        steps.append(self._keyed("groups", "select", "negatives", work, made_of, select, deepest))
        return [*steps, *self._generated((made_of, select, deepest), generation)]

    def _generated(self, groups: object, generation: int) -> list[Keyed]:
        """Return the steps that write queries for negatives, as if none was asked for, and find their documents."""
        config = self.mine.generate
        if config is None:
            return []
        writer = sized_model(config.model_dump(), self.corpus, self.encode.model_copy(update={"chunk": None}))
        teacher = self.mine.teachers[self.mine.round_trip]
        assert isinstance(teacher, DenseTeacher)
        count = min(self.num_groups * self.mine.select.num_negatives, self.corpus.num_documents)
        shown = config.examples + 1
        mean = shown * (writer.documents.mean_tokens + writer.queries.mean_tokens)
        spread = shown * (writer.documents.mean_square_tokens - writer.documents.mean_tokens**2)
        num_bytes = shown * (writer.documents.mean_bytes + writer.queries.mean_bytes)
        work = GenerateWork(
            shape=writer.shape,
            dtype=self.dtype_of("generate", config.dtype),
            prompts=Texts(count, mean, spread + mean**2, num_bytes),
            written_tokens=writer.queries.mean_tokens,
            token_budget=config.token_budget,
            max_tokens=shown * writer.max_tokens,
            num_tasks=max(1, ceil(count / config.row_documents)),
        )
        model = self._sized(teacher.model)
        # Queries of their own, and no document.
        embedded = replace(self.encoding(model, count), texts=(model.queries.times(count),), num_shards=1)
        found = self.searching(model, count, config.keep_rank)
        return [
            self._keyed("drafts", "generate", writer.name, work, groups, config, generation),
            self._keyed("drafts_embeddings", "encode", model.name, embedded, groups, config, generation),
            self._keyed("drafts_candidates", "search", "drafts", found, groups, setting="mine.search.index"),
        ]

    def embeddings(self, name: str, model: ModelConfig | None, generation: int) -> Keyed:
        """Return the step that embeds the corpus and the queries.

        Args:
            name: Of the step.
            model: None: the one that is trained.
            generation: Trainings that it has behind it.
        """
        sized = self._sized(model)
        work = self.encoding(sized, self.corpus.asked(*self.splits))
        return self._keyed(
            name, "encode", sized.name, work, self._embedded_by(model, generation), self.splits
        )

    def encoding(self, model: SizedModel, num_queries: int) -> EncodeWork:
        """Return the work of embedding the corpus and so many queries."""
        documents, queries = model.documents, model.queries.times(num_queries)
        document_shards = ceil(documents.num_bytes / BYTES_PER_TOKEN / self.data.shard_tokens)
        return EncodeWork(
            shape=model.shape,
            dtype=self.dtype_of("encode", str(model.settings.get("dtype", "auto"))),
            texts=(documents, queries),
            token_budget=self.encode.token_budget,
            max_tokens=model.max_tokens,
            dimension=self.dimension(model),
            precision=self.encode.precision,
            num_shards=max(1, document_shards)
            + ceil(queries.num_bytes / BYTES_PER_TOKEN / QUERY_SHARD_TOKENS),
        )

    def searching(self, model: SizedModel, num_queries: int, depth: int) -> SearchWork:
        """Return the work of searching the embeddings of a model."""
        dimension, search, documents = self.dimension(model), self.mine.search, model.documents.count
        return SearchWork(
            num_queries=num_queries,
            num_documents=documents,
            dimension=dimension,
            depth=depth,
            group_bytes=search.group_mb * 2**20,
            range_queries=search.range_queries,
            dtype=SEARCH_DTYPE,
            is_fused=FUSED.get(search.backend, False),
            embedding_bytes=row_bytes(dimension, self.encode.precision),
            index=search.index,
            num_lists=search.ivf.lists_of(documents),
            num_probes=search.ivf.num_probes,
            training_sample=search.ivf.training_sample,
        )

    def lexical(self, num_queries: int, depth: int) -> LexicalWork:
        """Return the work of BM25."""
        return LexicalWork(self.base.documents.times(self.corpus.num_documents), num_queries, depth)

    def pairs(self, reranker: RerankerConfig) -> tuple[SizedModel, Texts]:
        """Return a reranker beside these texts, and the moments of one pair as it reads it."""
        model = sized_model(
            reranker.model_dump(), self.corpus, self.encode.model_copy(update={"chunk": None})
        )
        mean = model.queries.mean_tokens + model.documents.mean_tokens
        # Lengths of queries vary little beside those of documents.
        squares = model.documents.mean_square_tokens + mean**2 - model.documents.mean_tokens**2
        return model, Texts(1, mean, squares, model.queries.mean_bytes + model.documents.mean_bytes)

    def scoring(self, reranker: RerankerConfig, num_queries: int, depth: int) -> ScoreWork:
        """Return the work of scoring so many candidates of each query, and its positives."""
        model, pair = self.pairs(reranker)
        depth = min(depth, self.corpus.num_documents)
        pairs = pair.times(round(num_queries * (depth + self.corpus.positives)))
        rows = model.queries.mean_tokens if reranker.method == "query_likelihood" else 1.0
        logits = 2.0 * model.shape.hidden * model.shape.vocabulary * rows
        return ScoreWork(
            shape=model.shape,
            dtype=self.dtype_of("score", reranker.dtype),
            pairs=pairs,
            head_flops=logits if reranker.method in VOCABULARY_HEADS else 0.0,
            token_budget=reranker.token_budget,
            max_tokens=model.max_tokens,
            num_tasks=max(1, ceil(pairs.count / PAIRS_A_TASK)),
        )

    def dimension(self, model: SizedModel) -> int:
        """Return the components of a stored embedding."""
        return self.encode.dimension or model.dimension

    @property
    def _depth(self) -> int:
        return self.mine.search.retrieval_depth

    def _keyed(
        self, name: str, stage: str, label: str, work: Work, *depends: object, setting: str = ""
    ) -> Keyed:
        prefix = "" if self.name == MAIN else f"{self.name}."
        step = PlannedStep(
            f"{prefix}{name}", stage, label, work, setting and f"{self._place}{setting}", self.name
        )
        return Keyed(step, repr((stage, self.data, self.encode, work, depends)))

    @property
    def _place(self) -> str:
        return "" if self.name == MAIN else f"also.{self.name}."

    def _sized(self, model: ModelConfig | None) -> SizedModel:
        return self.base if model is None else sized_model(model.model_dump(), self.corpus, self.encode)

    def _embedded_by(self, model: ModelConfig | None, generation: int) -> tuple[object, ...]:
        if model is None:
            return self.model, self.query_prompt, generation
        return model, None, 0

    def _identity(self, name: str, generation: int) -> tuple[object, ...]:
        """Return what the candidates of a teacher depend on besides data, split and depth of the search."""
        teacher = self.mine.teachers[name]
        if isinstance(teacher, DenseTeacher):
            return ("dense", *self._embedded_by(teacher.model, generation), self.mine.search.index)
        own = teacher.model_dump(exclude={"of", "over", "max_depth"})
        return (repr(own), *(self._identity(source, generation) for source in sources_of(teacher)))

    def _teacher(self, name: str, generation: int) -> list[Keyed]:
        """Return the step that finds a teacher's candidates, and what it needs before."""
        teacher, title = self.mine.teachers[name], f"{name}_candidates"
        identity = (self.mine.split, self._identity(name, generation))
        if isinstance(teacher, DenseTeacher):
            embeddings = self.embeddings(f"{name}_embeddings", teacher.model, generation)
            tiles = self.searching(self._sized(teacher.model), self.num_asked, self._depth)
            setting = "mine.search.index"
            return [embeddings, self._keyed(title, "search", name, tiles, identity, setting=setting)]
        if isinstance(teacher, RerankerTeacher):
            work = self.scoring(teacher.model, self.num_asked, min(teacher.depth, self._depth))
            return [self._keyed(title, "score", name, work, identity)]
        listed = ListWork(self.num_asked * self._depth)
        is_lexical = isinstance(teacher, Bm25Teacher)
        found = self.lexical(self.num_asked, self._depth) if is_lexical else listed
        return [self._keyed(title, "search", name, found, identity)]
