"""The Arrow schema of every table that crosses a stage.

Dense int64 ordinals (``doc``, ``query``), global to one ingest artifact, key all tables; string ids and texts are
joined back at the edges. A schema carries its name and version in its metadata, and both reach the manifest.
"""

from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from cluster.errors import UserError

Split = Literal["train", "dev", "test"]
"""The splits a query can belong to."""
Metric = Annotated[str, Field(pattern=r"^(ndcg|mrr|recall)@[1-9]\d{0,3}$")]
"""ndcg, mrr or recall, at a rank."""


def _table(name: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(
        fields, metadata={b"stope.table": name.encode(), b"stope.version": str(version).encode()}
    )


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


DOCUMENTS = _table(
    "documents",
    1,
    [
        _required("doc", pa.int64()),
        _required("doc_id", pa.string()),
        pa.field("title", pa.string()),
        _required("text", pa.string()),
        _required("dataset", pa.string()),
        pa.field("language", pa.string()),
    ],
)

QUERIES = _table(
    "queries",
    1,
    [
        _required("query", pa.int64()),
        _required("query_id", pa.string()),
        _required("text", pa.string()),
        _required("dataset", pa.string()),
        _required("task", pa.string()),
        pa.field("language", pa.string()),
    ],
)

QRELS = _table(
    "qrels",
    1,
    [
        _required("query", pa.int64()),
        _required("doc", pa.int64()),
        _required("relevance", pa.float32()),
        _required("split", pa.string()),
    ],
)

QUARANTINE = _table(
    "quarantine",
    1,
    [
        _required("source", pa.string()),
        _required("row", pa.int64()),
        _required("reason", pa.string()),
        _required("excerpt", pa.string()),
    ],
)

PARTIALS = _table(
    "partials",
    1,
    [
        _required("query", pa.int64()),
        _required("doc", pa.int64()),
        _required("score", pa.float32()),
        _required("is_positive", pa.bool_()),
    ],
)

CANDIDATES = _table(
    "candidates",
    1,
    [
        _required("query", pa.int64()),
        _required("doc", pa.int64()),
        _required("rank", pa.int32()),
        _required("score", pa.float32()),
        _required("is_positive", pa.bool_()),
    ],
)

GROUPS = _table(
    "groups",
    1,
    [
        _required("query", pa.int64()),
        _required("task", pa.string()),
        _required("dataset", pa.string()),
        _required(
            "positives", pa.list_(pa.struct([("doc", pa.int64()), ("scores", pa.list_(pa.float32()))]))
        ),
        _required(
            "negatives",
            pa.list_(
                pa.struct(
                    [
                        ("doc", pa.int64()),
                        ("scores", pa.list_(pa.float32())),
                        ("teacher", pa.int8()),
                        ("rank", pa.int32()),
                        ("answers", pa.list_(pa.int64())),
                    ]
                )
            ),
        ),
    ],
)

METRICS = _table(
    "metrics",
    1,
    [
        _required("run", pa.string()),
        _required("dataset", pa.string()),
        _required("split", pa.string()),
        _required("metric", pa.string()),
        _required("k", pa.int32()),
        _required("value", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
    ],
)

PLAN_ORDER = _table(
    "order",
    4,
    [
        _required("step", pa.int64()),
        _required("stage", pa.int16()),
        _required("query", pa.int64()),
        # Of the mined groups, counted through all data sets.
        _required("group", pa.int64()),
        _required("positive", pa.int64()),
        # Best first; a step takes `taken` of them, the first ones unless the training goes on to later ones.
        _required("negatives", pa.list_(pa.int64())),
        _required("taken", pa.int32()),
        _required("masked", pa.list_(pa.int64())),
        # Of the positive and of each negative: one score a teacher, in the order of the groups' manifest.
        _required("scores", pa.list_(pa.list_(pa.float32()))),
        # Of each negative: the queries it answers.
        _required("answers", pa.list_(pa.list_(pa.int64()))),
        # `main`, or a name under the recipe's `also`.
        _required("dataset", pa.string()),
        _required("task", pa.string()),
        # Whose documents are negatives: of the whole batch, of the rows of its task, of its own group.
        _required("scope", pa.string()),
    ],
)

TRAINING_STEPS = _table(
    "training_steps",
    3,
    [
        _required("step", pa.int64()),
        _required("loss", pa.float64()),
        _required("learning_rate", pa.float64()),
        _required("gradient_norm", pa.float64()),
        _required("tokens", pa.int64()),
        pa.field("largest_expert_share", pa.float64()),
        pa.field("replaced_negatives", pa.int64()),
    ],
)

METRICS_BY_QUERY = _table(
    "metrics_by_query",
    1,
    [
        _required("run", pa.string()),
        _required("query", pa.int64()),
        _required("metric", pa.string()),
        _required("k", pa.int32()),
        _required("value", pa.float64()),
    ],
)

TRAINING_METRICS = _table(
    "training_metrics",
    1,
    [
        # How many steps were taken when the dev cut was searched.
        _required("steps", pa.int64()),
        _required("metric", pa.string()),
        _required("value", pa.float64()),
    ],
)


def embeddings(dimension: int, precision: str) -> pa.Schema:
    """Return the schema of embeddings: unit norm in float16 and float32, codes of such in the other precisions.

    Args:
        dimension: Number of components of one embedding.
        precision: ``"float16"``, ``"float32"``, ``"int8"`` or ``"uint8"``, one value a component; ``"binary"``
            (int8) or ``"ubinary"`` (uint8), eight components a value, the last filled up with zeros.

    Returns:
        Columns ``id`` (int64 ordinal of the document or query; adjacent rows of one id are the chunks of a
        document, in order) and ``embedding`` (fixed-size list).
    """
    value = {
        "float16": pa.float16(),
        "float32": pa.float32(),
        "int8": pa.int8(),
        "uint8": pa.uint8(),
        "binary": pa.int8(),
        "ubinary": pa.uint8(),
    }[precision]
    size = -(-dimension // 8) if precision in ("binary", "ubinary") else dimension
    return _table(
        "embeddings", 1, [_required("id", pa.int64()), _required("embedding", pa.list_(value, size))]
    )


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return ``table`` under ``schema``, columns in its order, or say how the two differ.

    Raises:
        UserError: A column is missing, left over, of another type, or null where the schema forbids it.
    """
    name = (schema.metadata or {}).get(b"stope.table", b"table").decode()
    if set(table.column_names) != set(schema.names):
        raise UserError(
            "columns differ from the schema",
            where=f"table {name}",
            got=", ".join(sorted(table.column_names)),
            expected=", ".join(sorted(schema.names)),
        )
    try:
        cast = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise UserError("a column does not fit the schema", where=f"table {name}", got=str(error)) from error
    for field in schema:
        if not field.nullable and cast.column(field.name).null_count:
            raise UserError("null in a required column", where=f"table {name}, column {field.name}")
    return cast


def rendered_texts(table: pa.Table) -> list[str]:
    """Return the text of each document or query; a document's title stands before it, as BEIR joins them."""
    texts = table.column("text").to_pylist()
    if "title" not in table.column_names:
        return texts
    return [
        f"{title} {text}" if title else text
        for title, text in zip(table.column("title").to_pylist(), texts, strict=True)
    ]
