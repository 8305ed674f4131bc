"""The tables of an audit: their schemas, what every measure means, and the audit opened for reading."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from cluster.artifacts import Artifact


def _table(name: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={b"stope.table": name.encode(), b"stope.version": b"1"})


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


AUDIT = _table(
    "audit",
    [
        _required("method", pa.string()),
        _required("measure", pa.string()),
        _required("value", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        _required("count", pa.int64()),
    ],
)
"""`count`: for a share, how many cases; for a mean or a median, how many values."""

HISTOGRAMS = _table(
    "histograms",
    [
        _required("method", pa.string()),
        _required("quantity", pa.string()),
        _required("bin_low", pa.float64()),
        _required("bin_high", pa.float64()),
        _required("count", pa.int64()),
    ],
)

AGREEMENT = _table(
    "agreement",
    [
        _required("teacher_a", pa.string()),
        _required("teacher_b", pa.string()),
        _required("jaccard", pa.float64()),
    ],
)

EXAMPLES = _table(
    "examples",
    [
        _required("query", pa.int64()),
        _required("query_id", pa.string()),
        _required("query_text", pa.string()),
        _required("doc", pa.int64()),
        _required("doc_id", pa.string()),
        _required("text", pa.string()),
        _required("role", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("rank", pa.int32()),
        _required("methods", pa.list_(pa.string())),
        _required("flags", pa.list_(pa.string())),
    ],
)
"""One row a document of a query; `role` is positive, negative (chosen by `methods`) or rejected (by none)."""

SCHEMAS = {"audit": AUDIT, "histograms": HISTOGRAMS, "agreement": AGREEMENT, "examples": EXAMPLES}

QUANTITIES = ("positive", "negative", "margin", "loss")
"""What the histograms count, as in NV-Retriever (arXiv 2407.15831), figure 1."""


class Measure(NamedTuple):
    """How a measure is shown."""

    label: str
    kind: Literal["count", "share", "number"]
    meaning: str


MEASURES: dict[str, Measure] = {
    "listed_false": Measure(
        "listed false",
        "share",
        "negatives that a list calls false, among the negatives of queries in the list",
    ),
    "listed_false_queries": Measure(
        "queries with listed false", "share", "queries in the list with at least one listed false negative"
    ),
    "answer_false": Measure(
        "hold an answer", "share", "negatives whose text holds an answer of the query: likely false"
    ),
    "answer_false_queries": Measure(
        "queries with such", "share", "queries with known answers of which a negative holds one"
    ),
    "identical": Measure(
        "same as positive", "share", "negatives with the very text of a positive, white space aside"
    ),
    "near_duplicate": Measure(
        "near-duplicate",
        "share",
        "negatives that share most 5-word shingles with a positive, identical ones aside",
    ),
    "labelled": Measure("labelled", "share", "negatives that are labelled positives of the query: must be 0"),
    "repeated": Measure("repeated", "share", "negatives that stand in their group already"),
    "starved": Measure(
        "starved", "share", "queries with fewer negatives than asked for, dropped ones included"
    ),
    "mean_rank": Measure(
        "mean rank", "number", "mean rank of the negatives, for the teacher that found them"
    ),
    "median_rank": Measure("median rank", "number", "median rank of the negatives"),
    "mean_positive": Measure("positive score", "number", "mean teacher score of the positives"),
    "mean_negative": Measure("negative score", "number", "mean teacher score of the negatives"),
    "mean_margin": Measure(
        "margin", "number", "mean of positive minus negative score, over pairs of a group"
    ),
    "mean_loss": Measure(
        "loss", "number", "mean InfoNCE loss of a positive against its group, from teacher scores"
    ),
    "queries": Measure("queries", "count", "groups that were made"),
    "negatives": Measure("negatives", "count", "negatives chosen"),
}
"""Every measure of the table `audit`, in the order in which tables show them."""


@dataclass(frozen=True)
class Audit:
    """An audit, open for reading.

    Args:
        audit: Schema AUDIT.
        histograms: Schema HISTOGRAMS.
        agreement: Schema AGREEMENT.
        examples: Schema EXAMPLES.
        facts: Small facts from the manifest's summary: score_by, temperature, methods and what each dropped.
    """

    audit: pa.Table
    histograms: pa.Table
    agreement: pa.Table
    examples: pa.Table
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, artifact: Artifact) -> "Audit":
        """Open the artifact of an audit step."""
        return cls(**{name: artifact.read(name) for name in SCHEMAS}, facts=artifact.manifest.summary)

    @property
    def methods(self) -> list[str]:
        """Names, in the order in which they were given."""
        return list(dict.fromkeys(self.audit.column("method").to_pylist()))

    def measures(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return measure -> method -> row; measures in the order of MEASURES, absent ones left out."""
        rows = self.audit.to_pylist()
        found = {name: {row["method"]: row for row in rows if row["measure"] == name} for name in MEASURES}
        return {name: of_method for name, of_method in found.items() if of_method}


def side_by_side(audits: Mapping[str, Audit]) -> Audit:
    """Return several audits, such as those of the rounds of a training, as one.

    Args:
        audits: What stands before the names of the methods -> audit.

    Returns:
        With the histograms of all; examples, agreement and facts are those of the last.
    """
    tables = {"audit": AUDIT, "histograms": HISTOGRAMS}
    joined = {
        name: [_renamed(getattr(audit, name), given) for given, audit in audits.items()] for name in tables
    }
    last = list(audits.values())[-1]
    return replace(last, **{name: pa.concat_tables(parts) for name, parts in joined.items()})


def _renamed(table: pa.Table, given: str) -> pa.Table:
    place = table.schema.get_field_index("method")
    names = pa.array([f"{given}: {method}" for method in table.column(place).to_pylist()], pa.string())
    return table.set_column(place, table.schema.field(place), names)
