"""What a recipe may say of selecting negatives."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.errors import UserError

DEFAULT_THRESHOLDS = {"absolute": 0.7, "margin_pos": 0.05, "perc_pos": 0.95, "double": 0.8}
DEFAULT_SHIFTS = {"shifted": 10, "double": 5}
DEFAULT_MAX_POSITIVE_RATIO = 0.95
HYBRID = ("absolute", "margin_pos", "perc_pos")
"""Methods that can be applied to the scores of another teacher."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class FilterConfig(BaseModel):
    """Which candidates count as false negatives and are dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["naive", "shifted", "absolute", "margin_pos", "perc_pos", "double"] = "perc_pos"
    """naive: none. shifted: the first `shift` ranks. absolute: scores above `threshold`. margin_pos: scores not
    below the positive's minus `threshold`. perc_pos: scores not below `threshold` times the positive's. double: the
    first `shift` ranks, scores not below `threshold`, and scores not below `max_positive_ratio` times the
    positive's."""
    threshold: Finite | dict[str, Finite] | None = None
    """In the units of the teacher's scores; a mapping gives each supplying teacher its own. Null: the best value of
    NV-Retriever, table 1 (absolute .7, margin_pos .05, perc_pos .95), and .8 for double."""
    scores_of: str | None = None
    """A teacher, such as a reranker, whose scores of positive and candidate the method looks at instead of those of
    the teacher that supplies the candidate (hybrid mining); with absolute, margin_pos and perc_pos. Candidates that
    it did not score are dropped. Null: each teacher's own scores."""
    shift: int | None = Field(default=None, ge=0)
    """Ranks dropped by shifted and double. Null: 10 for shifted, 5 for double."""
    max_positive_ratio: Finite | None = None
    """Second bound of double, as a share of the positive's score. Null: .95."""
    max_positive_rank: int | None = Field(default=None, ge=1)
    """Ranking consistency: a query (or example) whose best positive is not among the first so many ranks of any
    teacher that supplies it is dropped. At most the retrieval depth; 50 is usual. Null: none is."""
    min_rank: int = Field(default=1, ge=1)
    """First rank that may become a negative. 1: all."""
    max_rank: int | None = Field(default=None, ge=1)
    """Last rank that may become a negative. Null: all."""

    @model_validator(mode="after")
    def _settings_fit_the_method(self) -> "FilterConfig":
        for name, methods in (
            ("threshold", tuple(DEFAULT_THRESHOLDS)),
            ("shift", tuple(DEFAULT_SHIFTS)),
            ("max_positive_ratio", ("double",)),
            ("scores_of", HYBRID),
        ):
            value = getattr(self, name)
            if value is not None and self.method not in methods:
                raise ValueError(f"method {self.method} takes no {name} (got {value}); {_listed(methods)} do")
        if self.scores_of is not None and isinstance(self.threshold, dict):
            raise ValueError(
                f"scores_of ({self.scores_of}) has one scale, so threshold ({self.threshold}) is one number"
            )
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise ValueError(f"max_rank ({self.max_rank}) is less than min_rank ({self.min_rank})")
        return self

    def threshold_of(self, teacher: str) -> float:
        """Return the threshold in force for the candidates of ``teacher``; 0 for methods that have none."""
        if isinstance(self.threshold, dict):
            return self.threshold[teacher]
        return DEFAULT_THRESHOLDS.get(self.method, 0.0) if self.threshold is None else self.threshold

    @property
    def resolved(self) -> "FilterConfig":
        """The same rule with every default in force written out."""
        updates: dict[str, object] = {}
        if self.threshold is None:
            updates["threshold"] = DEFAULT_THRESHOLDS.get(self.method)
        if self.shift is None:
            updates["shift"] = DEFAULT_SHIFTS.get(self.method)
        if self.max_positive_ratio is None and self.method == "double":
            updates["max_positive_ratio"] = DEFAULT_MAX_POSITIVE_RATIO
        return self.model_copy(update=updates)


class SelectConfig(BaseModel):
    """From candidates to training groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Teachers of the recipe whose candidates become negatives, the most accurate first. Null: all but the one that
    only `filter.scores_of` names."""
    ensemble: Literal["none", "cross_sample", "intra_sample"] = "none"
    """none: one teacher. cross_sample: one of the teachers, drawn for each query (or example), supplies all its
    negatives. intra_sample: the teachers take turns, each with its best survivor that has not had its turn."""
    deduplicate: bool = False
    """intra_sample: whether a survivor that is in the group already gives way to the teacher's next; if not, a
    document that several teachers choose stands in the group several times, and weighs so."""
    filter: FilterConfig = FilterConfig()
    """Which candidates are dropped."""
    positives: Literal["per_query", "per_example"] = "per_query"
    """per_query: a group holds all positives of a query. per_example: one group for each labelled pair, its margin
    taken from that positive's score, as in NV-Retriever. Labelled positives are never negatives in either."""
    positive_score: Literal["min", "max", "mean"] = "min"
    """per_query: score of a query with several positives, to which the margin is applied."""
    num_negatives: int = Field(default=4, ge=1)
    """Negatives of a group."""
    selection: Literal["top", "sampled", "top1_sampled"] = "top"
    """top: the best survivors. sampled: drawn among the best `sample_from` by softmax(score / temperature).
    top1_sampled: the best survivor, the others drawn."""
    sample_from: int = Field(default=10, ge=1)
    """Survivors that sampling draws from."""
    sample_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """1 is nearly uniform on cosines; .05 prefers the hard ones."""
    starved: Literal["keep_fewer", "repeat", "random_fill", "drop"] = "keep_fewer"
    """What becomes of a group with fewer survivors than `num_negatives`: fewer negatives, the survivors over again,
    documents drawn from the whole corpus, or no group."""
    task_rules: bool = True
    """Whether queries of some tasks follow rules of their own: classification and bitext take the nearest documents
    unfiltered; sts and nli take labelled negatives first (`max_negative_relevance`). False: one rule for all."""
    max_negative_relevance: Finite | None = None
    """Tasks sts and nli: a labelled pair of at most this relevance is a negative, not a positive. Null: 0; sts often
    says 0 to 5, where 2 is a better bound."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of all draws; every query (or example) draws from a generator of its own."""

    @property
    def resolved(self) -> "SelectConfig":
        """The same settings with the defaults in force written out: equal rules have equal fingerprints."""
        return self.model_copy(update={"filter": self.filter.resolved})

    def suppliers(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which of the teachers ``names`` supply candidates, in order.

        Raises:
            UserError: The ensemble or the thresholds do not fit these teachers.
        """
        own = self.teachers or tuple(name for name in names if name != self.filter.scores_of)
        problem = _misfit(own, self) if own else f"scores_of ({self.filter.scores_of}) leaves none to supply"
        if problem:
            raise UserError(
                "the teachers do not fit",
                where="mine.select",
                got=problem,
                fix="name the teachers that supply candidates in mine.select.teachers",
            )
        return own

    def reads(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which of the recipe's teachers ``names`` selection reads: suppliers, then a mere judge.

        Raises:
            UserError: The ensemble or the thresholds do not fit these teachers.
        """
        own, judge = self.suppliers(names), self.filter.scores_of
        return own if judge is None or judge in own else (*own, judge)

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> "SelectConfig":
        if self.selection != "top" and self.sample_from < self.num_negatives:
            raise ValueError(
                f"sample_from ({self.sample_from}) is less than num_negatives ({self.num_negatives})"
            )
        if self.ensemble == "intra_sample" and self.selection != "top":
            raise ValueError(
                f"ensemble {self.ensemble} takes each teacher's best, so selection ({self.selection}) is top"
            )
        if self.deduplicate and self.ensemble != "intra_sample":
            raise ValueError(f"deduplicate (true) is of intra_sample, but ensemble is {self.ensemble}")
        if self.positives == "per_example" and self.positive_score != "min":
            raise ValueError(
                f"positives per_example have one score each, so positive_score ({self.positive_score}) goes"
            )
        return self

    @model_validator(mode="after")
    def _teachers_fit(self) -> "SelectConfig":
        if self.teachers is not None:
            if len(set(self.teachers)) < len(self.teachers):
                raise ValueError(f"teachers ({_listed(self.teachers)}) names one twice")
            problem = _misfit(self.teachers, self)
            if problem:
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _window_holds_the_negatives(self) -> "SelectConfig":
        first, last = self.filter.min_rank, self.filter.max_rank
        if last is not None and self.ensemble != "intra_sample" and last - first + 1 < self.num_negatives:
            raise ValueError(
                f"filter.min_rank ({first}) to filter.max_rank ({last}) hold fewer than num_negatives "
                f"({self.num_negatives})"
            )
        return self


def _misfit(own: Sequence[str], config: SelectConfig) -> str:
    """Say why these supplying teachers cannot be, or return an empty string."""
    if (config.ensemble == "none") != (len(own) == 1):
        takes = "one teacher" if config.ensemble == "none" else "several teachers"
        return f"ensemble {config.ensemble} takes {takes}, but teachers are {_listed(own)}"
    threshold = config.filter.threshold
    if isinstance(threshold, dict) and set(threshold) != set(own):
        return f"filter.threshold is of {_listed(sorted(threshold))}, but teachers are {_listed(own)}"
    return ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
