"""What the user may say of an import and of an export."""

from math import isclose
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.schemas import Split

Shape = Literal["pair", "triplet", "n-tuple", "labeled-pair", "labeled-list"]
"""The layouts of a sentence-transformers data set."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SourceFile(_Config):
    """One file or directory to read."""

    path: Path
    """Where it is."""
    split: Split | None = None
    """Split of its rows; null: the rows' own `split` column, else as `ImportConfig.ratios` says."""


class ClicksConfig(_Config):
    """How a click log becomes graded judgments.

    The rate of a (query, document) pair is (clicks + k m) / (impressions + k), where m is the click-through rate of
    the whole log and k is `prior_impressions`: few impressions say little, so the rate starts at the log's mean. The
    grade is the number of `cuts` that the rate reaches; grade 0 is no judgment. The position at which a document
    was shown is not modelled: a rate of a document that always stood first is flattered.
    """

    min_impressions: int = Field(default=10, ge=1)
    """Pairs shown less often than this, all their rows taken together, are left out."""
    prior_impressions: float = Field(default=20.0, ge=0, allow_inf_nan=False)
    """Weight of the log's mean rate, in impressions; 0 turns smoothing off."""
    cuts: tuple[float, float, float] = (0.05, 0.15, 0.3)
    """Rates from which the grade is 1, 2 and 3; ascending, within (0, 1]."""

    @model_validator(mode="after")
    def _ascending(self) -> "ClicksConfig":
        first, second, third = self.cuts
        if not 0 < first < second < third <= 1:
            raise ValueError(f"cuts {self.cuts} do not ascend within (0, 1]")
        return self


class ImportConfig(_Config):
    """One import: what is read, how, and which options its format takes."""

    files: tuple[SourceFile, ...] = Field(min_length=1)
    """What is read, in this order."""
    columns: dict[str, str] = {}
    """Role -> name of the column in the file, where it is not the format's own name."""
    corpus: Path | None = None
    """Documents that the files name by id: _id (or docid), title, text; .jsonl, .tsv, .csv or .parquet."""
    queries: Path | None = None
    """Queries that the files name by id: _id (or query_id), text."""
    ranking: Path | None = None
    """TREC run file; what it ranks and nobody judged relevant becomes a negative."""
    min_score: float | None = Field(default=None, allow_inf_nan=False)
    """Pairs labelled with a score are positives from here on, negatives below; null: labels above 0 are positives,
    and scores are refused."""
    ratios: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Shares of the queries that go to train, dev and test where neither the file nor its rows name a split. Drawn
    by a hash of the query's id; near-duplicate queries may part (`data: {kind: pairs}` of a recipe keeps them
    together)."""
    clicks: ClicksConfig = ClicksConfig()
    """How clicks are graded."""

    @model_validator(mode="after")
    def _shares(self) -> "ImportConfig":
        if min(self.ratios) < 0 or not isclose(sum(self.ratios), 1, abs_tol=1e-6):
            raise ValueError(f"ratios {self.ratios} are not shares that sum to 1")
        return self


class ExportConfig(_Config):
    """One export of a run."""

    split: Split | None = None
    """Queries of this split alone; null: every query of the groups, the candidates or the judgments."""
    shape: Shape = "n-tuple"
    """Layout of a sentence-transformers file."""
    scores: bool | None = None
    """Whether teacher scores are written; null: yes in n-tuple, triplet and flagembedding. A row that lacks one is
    then left out and counted."""
    teacher: str | None = None
    """Whose scores; null: of each negative the teacher that supplied it, of a positive the teacher of its first
    negative."""
    num_negatives: int | None = Field(default=None, ge=1)
    """Negatives of an n-tuple, the first ones; null: as many as the largest group has. Groups with fewer are left
    out and counted."""
    prompt: str | None = None
    """Instruction written into every row of a flagembedding file; null: none, so the trainer's own applies."""
    parquet: bool = False
    """Whether a beir export is written as Parquet instead of JSON lines and TSV."""
