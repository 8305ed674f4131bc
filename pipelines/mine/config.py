"""What a recipe may say of mining: its teachers, how they search, and what becomes of their candidates."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.generate.config import GenerateConfig
from pipelines.schemas import Split
from pipelines.score.config import RerankerConfig, ScoreConfig
from pipelines.search.config import Bm25Teacher, DenseTeacher, FusedTeacher, RandomTeacher, SearchConfig
from pipelines.select.config import SelectConfig


class RerankerTeacher(ScoreConfig):
    """The first candidates of another teacher in the order of a reranker's scores."""

    kind: Literal["reranker"]
    """Which teacher this is."""
    over: str = Field(min_length=1)
    """Name of the teacher whose candidates are scored."""
    model: RerankerConfig
    """The model that scores."""
    max_depth: int | None = Field(default=None, ge=1)
    """Candidates scored of a query that the filters starved, after `over` was searched deeper for it. Null: as many
    times `depth` as search.max_retrieval_depth is of search.retrieval_depth."""

    @property
    def scoring(self) -> ScoreConfig:
        """The settings of the scoring alone."""
        return ScoreConfig.model_validate(self.model_dump(include=set(ScoreConfig.model_fields)))

    def deeper_scoring(self, search: SearchConfig) -> ScoreConfig:
        """Return the settings of the scoring of starved queries."""
        in_proportion = -(-self.depth * search.max_retrieval_depth // search.retrieval_depth)
        return self.scoring.model_copy(update={"depth": self.max_depth or in_proportion})

    @model_validator(mode="after")
    def _deeper_is_deeper(self) -> "RerankerTeacher":
        if self.max_depth is not None and self.max_depth < self.depth:
            raise ValueError(f"max_depth ({self.max_depth}) is less than depth ({self.depth})")
        return self


Teacher = Annotated[
    DenseTeacher | Bm25Teacher | RandomTeacher | FusedTeacher | RerankerTeacher, Field(discriminator="kind")
]
TeacherName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]


class MineConfig(BaseModel):
    """Hard negatives: teachers find candidates, select keeps what is no false negative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split = "train"
    """Whose queries get negatives."""
    teachers: dict[TeacherName, Teacher] = Field(
        default={"model": DenseTeacher(kind="dense")}, min_length=1, validate_default=True
    )
    """Name -> teacher; one that reads others (fused, reranker) stands below them. The default searches with the
    model that will be trained."""
    search: SearchConfig = SearchConfig()
    """How deep, and with which backend."""
    select: SelectConfig = SelectConfig()
    """Filter, sampling, number of negatives."""
    generate: GenerateConfig | None = None
    """Queries written for negatives that no query asks for, for loss clp. Null: it has the real ones alone."""

    @property
    def round_trip(self) -> str:
        """The dense teacher by whose embeddings a generated query is judged."""
        assert self.generate is not None
        named = self.generate.teacher
        return named or next(name for name, each in self.teachers.items() if isinstance(each, DenseTeacher))

    @property
    def read_by_select(self) -> tuple[str, ...]:
        """The teachers whose candidates selection reads: suppliers, then a mere judge.

        Raises:
            UserError: Ensemble or thresholds do not fit the teachers.
        """
        inner = {source for teacher in self.teachers.values() for source in sources_of(teacher)}
        return self.select.reads([name for name in self.teachers if name not in inner])

    @property
    def searched_deeper(self) -> tuple[str, ...]:
        """The teachers that search starved queries once more: those selection reads, and before them their sources."""
        wanted = set(self.read_by_select) if self.search.searches_deeper else set[str]()
        for name in reversed(self.teachers):
            if name in wanted:
                wanted.update(sources_of(self.teachers[name]))
        return tuple(name for name in self.teachers if name in wanted)

    @model_validator(mode="after")
    def _deep_enough(self) -> "MineConfig":
        depth, wanted = self.search.retrieval_depth, self.select.num_negatives
        if depth <= wanted:
            raise ValueError(f"search.retrieval_depth ({depth}) must exceed select.num_negatives ({wanted})")
        for key in ("max_positive_rank", "max_rank"):
            rank = getattr(self.select.filter, key)
            if rank is not None and rank > depth:
                raise ValueError(f"select.filter.{key} ({rank}) exceeds search.retrieval_depth ({depth})")
        return self

    @model_validator(mode="after")
    def _teachers_are_there(self) -> "MineConfig":
        above: list[str] = []
        for name, teacher in self.teachers.items():
            for source in sources_of(teacher):
                if source not in above:
                    raise ValueError(
                        f"teacher {name} reads {source}, which is no teacher above it ({_listed(above)})"
                    )
            above.append(name)
        rule = self.select.filter
        named = [*(self.select.teachers or ()), *([rule.scores_of] if rule.scores_of else [])]
        for name in named:
            if name not in above:
                raise ValueError(f"select names the teacher {name}, but teachers are {_listed(above)}")
        _ = self.read_by_select
        return self

    @model_validator(mode="after")
    def _generated_queries_can_be_judged(self) -> "MineConfig":
        if self.generate is None:
            return self
        dense = [name for name, teacher in self.teachers.items() if isinstance(teacher, DenseTeacher)]
        named = self.generate.teacher
        if "drafts" in self.teachers:
            raise ValueError(
                "no teacher can be called drafts where queries are generated: that is what they are"
            )
        if named is None and len(dense) != 1:
            raise ValueError(
                f"generate.teacher: whose embeddings are meant? Dense teachers are {_listed(dense)}"
            )
        if named is not None and named not in dense:
            raise ValueError(f"generate.teacher ({named}) is no dense teacher ({_listed(dense)})")
        return self

    @model_validator(mode="after")
    def _max_depths_are_felt(self) -> "MineConfig":
        for name, teacher in self.teachers.items():
            told = isinstance(teacher, RerankerTeacher) and teacher.max_depth is not None
            if told and name not in self.searched_deeper:
                reason = (
                    "selection does not read this teacher"
                    if self.search.searches_deeper
                    else f"search.max_retrieval_depth ({self.search.max_retrieval_depth}) does not exceed "
                    f"search.retrieval_depth ({self.search.retrieval_depth})"
                )
                raise ValueError(f"teachers.{name}.max_depth does nothing: {reason}; remove it")
        return self


def sources_of(teacher: Teacher) -> tuple[str, ...]:
    """Return the names of the teachers that ``teacher`` reads."""
    if isinstance(teacher, FusedTeacher):
        return teacher.of
    return (teacher.over,) if isinstance(teacher, RerankerTeacher) else ()


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
