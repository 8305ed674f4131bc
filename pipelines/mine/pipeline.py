"""Mining as steps: every teacher ends in a table of candidates, and select decides on all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.session import Session
from pipelines.encode.config import EncodeConfig
from pipelines.encode.pipeline import encode_step
from pipelines.mine.config import MineConfig, RerankerTeacher
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
    """Return the steps of mining by name, in order; the last one, `groups`, holds the negatives.

    For a teacher NAME: `NAME_embeddings` where it is dense, `NAME_candidates`, and `NAME_deeper` for the queries that
    the filters starve, which `starved` names.
    """
    steps: dict[str, Step] = {}
    for name in mine.teachers:
        steps |= _teacher_steps(name, mine, shared, steps)
    read = {name: steps[f"{name}_candidates"] for name in mine.read_by_select}
    deeper: dict[str, Step] = {}
    if mine.search.searches_deeper and all(_can_search_deeper(mine, name) for name in read):
        starved = steps["starved"] = starved_step(shared.data, read, mine.select)
        for name in read:
            deeper[name] = steps[f"{name}_deeper"] = _search(name, mine, shared, steps, only=starved)
    steps["groups"] = select_step(shared.data, read, mine.select, deeper)
    return steps


def _can_search_deeper(mine: MineConfig, name: str) -> bool:
    """Return whether a teacher has more to offer than it gave; a list made of others' ends where theirs do."""
    return not isinstance(mine.teachers[name], FusedTeacher | RerankerTeacher)


def _teacher_steps(name: str, mine: MineConfig, shared: Shared, steps: dict[str, Step]) -> dict[str, Step]:
    teacher, made = mine.teachers[name], dict[str, Step]()
    if isinstance(teacher, DenseTeacher):
        model = Model.resolve(teacher.model, shared.session) if teacher.model else shared.model
        made[f"{name}_embeddings"] = encode_step(shared.data, model, shared.splits, shared.encode)
    made[f"{name}_candidates"] = _search(name, mine, shared, {**steps, **made})
    return made


def _search(
    name: str, mine: MineConfig, shared: Shared, steps: dict[str, Step], only: Step | None = None
) -> Step:
    teacher, search, data = mine.teachers[name], mine.search, shared.data
    depth = search.max_retrieval_depth if only else search.retrieval_depth
    if isinstance(teacher, DenseTeacher):
        return search_step(data, steps[f"{name}_embeddings"], mine.split, search, only)
    if isinstance(teacher, Bm25Teacher):
        return lexical_step(data, mine.split, depth, search.range_queries, only)
    if isinstance(teacher, FusedTeacher):
        return fused_step(data, {of: steps[f"{of}_candidates"] for of in teacher.of}, depth, teacher.constant)
    if isinstance(teacher, RerankerTeacher):
        reranker = Reranker.resolve(teacher.model, shared.session)
        return score_step(data, steps[f"{teacher.over}_candidates"], reranker, mine.split, teacher.scoring)
    return random_step(data, mine.split, depth, teacher.seed, search.range_queries, only)
