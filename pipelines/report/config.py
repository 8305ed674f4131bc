"""What a recipe may say of the audit."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator


class KnownConfig(BaseModel):
    """False negatives that somebody knows of: a list of pairs, answer strings, or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: str | None = None
    """Parquet file with the columns query-id, corpus-id and, if graded, level: documents that answer the query
    though no label says so. Null: none."""
    min_level: int | None = None
    """Pairs below this level do not count. Null: all count, and the file needs no level."""
    answers: str | None = None
    """Parquet file with the columns query-id and answers (list of strings): a negative whose text holds an
    answer of its query is likely false. Answers under five characters or without a letter are left out. Null: none."""

    @model_validator(mode="after")
    def _level_needs_pairs(self) -> "KnownConfig":
        if self.min_level is not None and self.pairs is None:
            raise ValueError(f"min_level ({self.min_level}) is of pairs, and pairs is null")
        return self

    @property
    def paths(self) -> dict[str, Path]:
        """The files that are named, by role."""
        named = {"pairs": self.pairs, "answers": self.answers}
        return {role: Path(path).expanduser() for role, path in named.items() if path}

    def anchored(self, folder: Path) -> "KnownConfig":
        """Return the same lists with paths that count from ``folder``."""
        return self.model_copy(update={role: str(folder / path) for role, path in self.paths.items()})


class AuditConfig(BaseModel):
    """How negatives are audited."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    known: KnownConfig = KnownConfig()
    """Lists of known false negatives."""
    score_by: str | None = None
    """Teacher whose scores the histograms, margins and losses are made of. Null: the first of the teachers."""
    temperature: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Of the InfoNCE loss over a group's teacher scores; .02 suits cosines."""
    near_duplicate_jaccard: float = Field(default=0.5, gt=0, le=1)
    """A negative whose 5-word shingles overlap by this Jaccard with a positive's is a near-duplicate."""
    agreement_depth: int = Field(default=4, ge=1)
    """Best unlabelled candidates of every teacher that are compared."""
    max_text_queries: int | None = Field(default=50_000, ge=1)
    """Queries whose texts are read, spread evenly over all, for answers, identical and near-duplicate texts;
    their documents must fit memory. Null: all queries."""
    num_examples: int = Field(default=24, ge=0)
    """Queries whose decisions are kept for reading; 0 keeps none."""
    bootstrap_samples: int = Field(default=1000, ge=100)
    """Resamples of the queries behind every 95% interval."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the resampling."""
