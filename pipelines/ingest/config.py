"""Where the data comes from and how much of it is used."""

from math import isclose
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.schemas import Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")

Task = Literal["retrieval", "classification", "clustering", "sts", "nli", "bitext"]

JUDGED_NEGATIVES: tuple[Task, ...] = ("sts", "nli")
"""Tasks whose pairs of no relevance say something: they were chosen to be hard."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SplitRatios(_Config):
    """Share of the queries in each split; the three sum to 1."""

    train: float = Field(default=0.7, ge=0, le=1)
    """Share of the queries for training."""
    dev: float = Field(default=0.1, ge=0, le=1)
    """Share of the queries for development; 0 leaves the split empty."""
    test: float = Field(default=0.2, ge=0, le=1)
    """Share of the queries for the final measurement; 0 leaves the split empty."""

    @model_validator(mode="after")
    def _sum_to_one(self) -> "SplitRatios":
        total = self.train + self.dev + self.test
        if not isclose(total, 1, abs_tol=1e-6):
            raise ValueError(
                f"train {self.train} + dev {self.dev} + test {self.test} = {total:g}, expected a sum of 1"
            )
        return self


class _Source(_Config):
    task: Task = "retrieval"
    """What a query asks for; mining has rules of its own for some tasks, and training may make batches of one task at a
    time. Pairs of sts and nli that are judged not relevant (0 or less) are kept: they are the negatives."""
    language: str | None = None
    """Language code of all texts, such as "en"; null when unknown or mixed."""
    limit: int | None = Field(default=None, ge=1)
    """Most documents kept; null keeps all. Queries are admitted in the order of a hash of their id as long as
    all their positives fit, then other documents fill up: every kept query keeps every positive."""
    max_queries: Annotated[int, Field(ge=1)] | dict[Split, Annotated[int, Field(ge=0)]] | None = None
    """Most queries kept, as one number for each split or as {train: 2000}; null keeps all. Drawn by a hash of
    the query's id."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of every draw: the split, ``limit`` and ``max_queries``."""
    shard_tokens: int = Field(default=1_048_576, ge=1)
    """Estimated tokens (4 bytes of UTF-8 each) in a shard of documents; a shard is the unit of later work."""
    query_shard_tokens: int = Field(default=262_144, ge=1)
    """Estimated tokens of one shard of queries."""


class DocstringsConfig(_Source):
    """Documentation of installed Python packages: first paragraphs are queries, the rest documents."""

    kind: Literal["docstrings"] = "docstrings"
    """Selects this source."""
    name: str = "docstrings"
    """Name of the data set, in tables and listings."""
    language: str | None = "en"
    """Language code of all texts."""
    packages: tuple[str, ...] = Field(default=("pandas", "sklearn", "scipy"), min_length=1)
    """Import names; each is imported and its public classes and functions are read; nothing else is run."""
    methods_of: tuple[str, ...] = ("pandas.DataFrame",)
    """Classes whose public methods and properties are read too; [] reads none."""
    min_document_words: int = Field(default=20, ge=1)
    """Docstrings whose rest, after the first paragraph, has fewer words than this are left out."""
    splits: SplitRatios = SplitRatios()
    """Share of the queries in each split; near-duplicates never part."""
    near_duplicate_jaccard: float = Field(default=0.5, gt=0, le=1)
    """Documents whose 5-word shingles overlap by this Jaccard stay in one split; 1 joins equal ones only."""


class BeirFiles(_Config):
    """The files of a BEIR data set that does not lie in one directory."""

    corpus: str = Field(min_length=1)
    """Path of the documents, .jsonl or .parquet: _id, title (optional), text."""
    queries: str = Field(min_length=1)
    """Path of the queries, .jsonl or .parquet: _id, text."""
    qrels: dict[Split, str] = Field(min_length=1)
    """Path of the judgments of each split, .tsv or .parquet: query-id, corpus-id, score."""

    def anchored(self, folder: Path) -> "BeirFiles":
        """Return the same files with paths that count from ``folder``."""
        return BeirFiles(
            corpus=str(folder / Path(self.corpus).expanduser()),
            queries=str(folder / Path(self.queries).expanduser()),
            qrels={split: str(folder / Path(path).expanduser()) for split, path in self.qrels.items()},
        )


class BeirConfig(_Source):
    """A data set in BEIR's layout, JSON lines or Parquet."""

    kind: Literal["beir"]
    """Selects this source."""
    name: str = Field(min_length=1)
    """Name of the data set, in tables and listings."""
    path: str | BeirFiles
    """A directory with corpus.jsonl, queries.jsonl and qrels/*.tsv (or .parquet), or the files by name."""


class PairColumns(_Config):
    """Names of the columns of a file of pairs."""

    query: str = "query"
    """Text of the query."""
    document: str = "document"
    """Text of a document that answers it."""
    score: str = "score"
    """Relevance, above zero; 1 where the column is absent."""
    split: str = "split"
    """train, dev or test; where the column is absent the pairs are split by ``splits``."""
    title: str = "title"
    """Title of the document; none where the column is absent."""


class PairsConfig(_Source):
    """A file of (query, document) pairs. Distinct texts are held in memory."""

    kind: Literal["pairs"]
    """Selects this source."""
    name: str = Field(min_length=1)
    """Name of the data set, in tables and listings."""
    path: str = Field(min_length=1)
    """A .csv, .tsv, .jsonl or .parquet file."""
    columns: PairColumns = PairColumns()
    """Names of its columns."""
    splits: SplitRatios = SplitRatios()
    """Share of the queries in each split, where the file has no split column; near-duplicates never part."""
    near_duplicate_jaccard: float = Field(default=0.5, gt=0, le=1)
    """Documents whose 5-word shingles overlap by this Jaccard stay in one split; 1 joins equal ones only."""


class TextColumns(_Config):
    """Names of the columns of a table of texts."""

    id: str | None = "id"
    """Id of the text, a string or an integer; null numbers the rows of each file."""
    text: str = "text"
    """The text."""
    title: str | None = "title"
    """Title that stands before the text; null, or an absent column: none."""


class TextsConfig(_Config):
    """A corpus alone, to be embedded: tables of texts without queries or labels. Streamed, never whole in memory."""

    kind: Literal["texts"]
    """Selects this source."""
    name: str = Field(min_length=1)
    """Name of the data set, in tables and listings."""
    path: str = Field(min_length=1)
    """A .parquet, .jsonl, .csv or .tsv file; a directory of such files, all of one kind, read in the order of
    their names; or a pattern such as shards/*.parquet."""
    columns: TextColumns = TextColumns()
    """Names of the columns."""
    language: str | None = None
    """Language code of all texts, such as "en"; null when unknown or mixed."""
    limit: int | None = Field(default=None, ge=1)
    """Most documents kept, the first of the files; null keeps all."""
    shard_tokens: int = Field(default=1_048_576, ge=1)
    """Estimated tokens (4 bytes of UTF-8 each) in a shard of documents; a shard is the unit of later work."""


JudgedConfig = DocstringsConfig | BeirConfig | PairsConfig
"""The sources with queries and judgments."""

DataConfig = Annotated[JudgedConfig | TextsConfig, Field(discriminator="kind")]
