"""Mining as steps: every teacher ends in a table of candidates, and select decides on all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.session import Session
from pipelines.encode.config import EncodeConfig
from pipelines.encode.pipeline import encode_step
from pipelines.generate.config import GenerateConfig
from pipelines.generate.pipeline import SPLIT, draft_step
from pipelines.mine.config import MineConfig, RerankerTeacher, sources_of
from pipelines.model import Model
from pipelines.score.pipeline import score_step
from pipelines.score.reranker import Reranker
from pipelines.search.by_range import fused_step, random_step
from pipelines.search.config import Bm25Teacher, DenseTeacher, FusedTeacher
from pipelines.search.lexical import lexical_step
from pipelines.search.pipeline import search_step
from pipelines.select.pipeline import select_step, starved_step
from pipelines.steps import Step


@dataclass(frozen=True)
class Shared:
    """What the teachers of one recipe have in common.

    Args:
        data: The ingest step.
        model: The model that will be trained.
        encode: How texts are embedded.
        splits: Whose queries are embedded.
        session: Asked for the dtype of a model.
    """

    data: Step
    model: Model
    encode: EncodeConfig
    splits: Sequence[str]
    session: Session


def mine_steps(mine: MineConfig, shared: Shared) -> dict[str, Step]:
    """Return the steps of mining by name, in order; `groups` holds the negatives.

    For a teacher NAME: `NAME_embeddings` where it is dense, `NAME_candidates`, and `NAME_deeper` for the queries that
    the filters starve, which `starved` names. A list made of others is made again of what these find deeper. Behind
    `groups`, where queries are generated: `drafts`, `drafts_embeddings` and `drafts_candidates`, their round trip.
    """
    mining = _Mining(mine, shared)
    for name in mine.teachers:
        mining.add_teacher(name)
    steps = mining.steps
    read = {name: steps[f"{name}_candidates"] for name in mine.read_by_select}
    deeper: dict[str, Step] = {}
    if mine.searched_deeper:
        starved = steps["starved"] = starved_step(shared.data, read, mine.select)
        for name in mine.searched_deeper:
            steps[f"{name}_deeper"] = mining.search(name, starved)
        deeper = {name: steps[f"{name}_deeper"] for name in read}
    steps["groups"] = select_step(shared.data, read, mine.select, deeper)
    if mine.generate:
        steps |= mining.generating(mine.generate)
    return steps


class _Mining:
    """The steps of one mining, as they are added; a teacher's sources come before it.

    Args:
        mine: What the recipe says.
        shared: What its teachers have in common.
    """

    def __init__(self, mine: MineConfig, shared: Shared) -> None:
        self.mine, self.shared = mine, shared
        self.steps: dict[str, Step] = {}
        self._rerankers: dict[str, Reranker] = {}
        self._models: dict[str, Model] = {}

    def add_teacher(self, name: str) -> None:
        """Add the steps that find the candidates of all queries."""
        teacher, shared = self.mine.teachers[name], self.shared
        if isinstance(teacher, DenseTeacher):
            model = Model.resolve(teacher.model, shared.session) if teacher.model else shared.model
            self._models[name] = model
            self.steps[f"{name}_embeddings"] = encode_step(shared.data, model, shared.splits, shared.encode)
        if isinstance(teacher, RerankerTeacher):
            self._rerankers[name] = Reranker.resolve(teacher.model, shared.session)
        self.steps[f"{name}_candidates"] = self.search(name)

    def generating(self, config: GenerateConfig) -> dict[str, Step]:
        """Return the steps that write queries for negatives, and look for their documents."""
        shared, teacher = self.shared, self.mine.round_trip
        drafts = draft_step(shared.data, self.steps["groups"], config, shared.session)
        embeddings = encode_step(drafts, self._models[teacher], (SPLIT,), shared.encode)
        depth = {"retrieval_depth": config.keep_rank, "max_retrieval_depth": 1}
        search = self.mine.search.model_copy(update=depth)
        documents = self.steps[f"{teacher}_embeddings"]
        found = search_step(drafts, documents, SPLIT, search, queries=embeddings)
        return {"drafts": drafts, "drafts_embeddings": embeddings, "drafts_candidates": found}

    def search(self, name: str, only: Step | None = None) -> Step:
        """Return the step that finds a teacher's candidates: of all queries, or deeper ones of those ``only`` names."""
        teacher, search, data = self.mine.teachers[name], self.mine.search, self.shared.data
        split, deeper = self.mine.split, only is not None
        depth = search.max_retrieval_depth if deeper else search.retrieval_depth
        made_of = {
            of: self.steps[f"{of}_{'deeper' if deeper else 'candidates'}"] for of in sources_of(teacher)
        }
        if isinstance(teacher, DenseTeacher):
            return search_step(data, self.steps[f"{name}_embeddings"], split, search, only)
        if isinstance(teacher, Bm25Teacher):
            return lexical_step(data, split, depth, search.range_queries, only)
        if isinstance(teacher, FusedTeacher):
            return fused_step(data, made_of, depth, teacher.constant, deeper)
        if isinstance(teacher, RerankerTeacher):
            scoring = teacher.deeper_scoring(search) if deeper else teacher.scoring
            return score_step(data, made_of[teacher.over], self._rerankers[name], split, scoring, deeper)
        return random_step(data, split, depth, teacher.seed, search.range_queries, only)
