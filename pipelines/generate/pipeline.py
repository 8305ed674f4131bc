"""The Ray graph of generation: documents to prompts on CPU tasks -> queries on an actor pool -> shards of drafts."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.errors import UserError
from cluster.session import Session
from pipelines import schemas
from pipelines.answers import unanswered
from pipelines.generate.config import GenerateConfig
from pipelines.generate.writer import LocatedWriter
from pipelines.steps import Step, Work
from pipelines.texts import read_texts
from pipelines.waves import run_waves

if TYPE_CHECKING:
    from ray.data import Dataset

    from models.generation import QueryPrompts

STAGE_VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")
SPLIT = "generated"
"""What drafts are the queries of."""
DRAFTS = pa.schema(
    [pa.field("doc", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False)]
)
_SHARD_ROWS = 1 << 16


def draft_step(data: Step, groups: Step, config: GenerateConfig, session: Session) -> Step:
    """Write a query for every negative that no query of its split asks for.

    Args:
        data: The ingest step.
        groups: Of the stage select.
        config: Which model, and how it is asked.
        session: Asked for the dtype that the machines of role `generate` multiply fastest.

    Returns:
        A step whose artifact has the tables of an ingest artifact, without documents: `queries`, and `qrels` of the
        split ``generated``, which name the documents by their ordinals in ``data``.
    """
    writer = LocatedWriter.resolve(config, session)
    return Step(
        stage="generate",
        label=groups.label,
        stage_version=STAGE_VERSION,
        identity=writer.identity,
        libraries=LIBRARIES,
        inputs={"data": data, "groups": groups},
        run=partial(_run, model=writer),
    )


def _run(work: Work, model: LocatedWriter) -> Artifact:
    data, groups, config = work.inputs["data"], work.inputs["groups"], model.config
    docs = unanswered(data, groups)
    if not len(docs):
        raise UserError(
            "there is nothing to generate: a query of the data asks for every negative already",
            where="mine.generate",
            fix="remove it; the penalty has all of its queries",
        )
    size = config.row_documents
    rows: list[dict[str, Any]] = [
        {"index": index, "docs": docs[start : start + size].tolist()}
        for index, start in enumerate(range(0, len(docs), size))
    ]
    missing = set(work.writer.missing("drafts", len(rows)))
    todo = [row for row in rows if row["index"] in missing]
    work.progress.total(len(docs), "documents", done=len(docs) - sum(len(row["docs"]) for row in todo))
    if todo:
        prompts = work.session.run_on("tokenize", _prompts, data, groups, config)
        build = partial(_graph, work=work, num_rows=len(todo), prompts=prompts, model=model)
        for receipt in run_waves(work.session, todo, build):
            work.progress.advance(receipt["rows"])
    return _commit(work, len(rows))


def _prompts(data: Artifact, groups: Artifact, config: GenerateConfig) -> "QueryPrompts":
    from models.checkpoint import resolve_model
    from models.generation import QueryPrompts

    return QueryPrompts(
        resolve_model(config.source),
        config.template,
        draw_examples(data, groups, config),
        config.max_document_tokens,
        config.max_query_tokens,
        config.token_budget,
    )


def draw_examples(data: Artifact, groups: Artifact, config: GenerateConfig) -> list[tuple[str, str]]:
    """Return texts of training queries and of a document that each asks for.

    Raises:
        UserError: There are fewer than the recipe wants.
    """
    table = groups.read("groups", ["query", "positives"])
    lists = table.column("positives").to_pylist()
    pairs = {
        query: row[0]["doc"]
        for query, row in zip(table.column("query").to_pylist(), lists, strict=True)
        if row
    }
    if len(pairs) < config.examples:
        raise UserError(
            "fewer queries than examples are to be shown",
            where="mine.generate.examples",
            got=str(config.examples),
            expected=f"at most {len(pairs)}",
        )
    names = np.random.default_rng(config.seed).choice(sorted(pairs), config.examples, replace=False).tolist()
    texts: list[dict[int, str]] = []
    for kind, ordinals in (("query", names), ("document", [pairs[name] for name in names])):
        read = read_texts(data, kind, np.unique(np.array(ordinals, np.int64)))  # type: ignore[arg-type]
        texts.append({int(key): text for keys, found in read for key, text in zip(keys, found, strict=True)})
    return [(texts[0][name], texts[1][pairs[name]]) for name in names]


def _graph(
    rows: "Dataset", work: Work, num_rows: int, prompts: "QueryPrompts", model: LocatedWriter
) -> "Dataset":
    from ray.data import ActorPoolStrategy

    from pipelines.generate.writer import DraftWriter

    smallest, largest = (min(size, num_rows) for size in work.session.pool("generate"))
    beside = work.session.resources("tokenize") | {"concurrency": work.session.pool("tokenize")[1]}
    return (
        rows.map(partial(_prepare, data=work.inputs["data"], prompts=prompts), **beside)
        .map(
            DraftWriter,
            fn_constructor_args=(model,),
            compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
            **work.session.resources("generate"),
        )
        .map(partial(_store, writer=work.writer), **beside)
    )


def _prepare(row: dict[str, Any], data: Artifact, prompts: "QueryPrompts") -> dict[str, Any]:
    docs = np.asarray(row["docs"], np.int64)
    texts = [text for _, found in read_texts(data, "document", docs) for text in found]
    tokens = prompts.tokenize(texts)
    return {
        "index": row["index"],
        "docs": docs.tobytes(),
        "ids": tokens.ids.tobytes(),
        "offsets": tokens.offsets.tobytes(),
    }


def _store(row: dict[str, Any], writer: ArtifactWriter) -> dict[str, Any]:
    docs = np.frombuffer(row["docs"], np.int64)
    table = pa.table({"doc": docs, "text": list(row["queries"])}, schema=DRAFTS)
    return {"rows": writer.write_shard("drafts", row["index"], table, seconds=row["seconds"]).rows}


def _commit(work: Work, num_rows: int) -> Artifact:
    writer, data = work.writer, work.inputs["data"]
    finished = writer.finished("drafts")
    drafts = pa.concat_tables([writer.read_finished(finished[index]) for index in range(num_rows)])
    kept, counters = usable(drafts.column("text").to_pylist())
    if not kept:
        raise UserError(
            "the language model wrote no query that can be used",
            where="mine.generate.source",
            got=", ".join(f"{count} {reason}" for reason, count in counters.items()),
            fix="take a larger model, or show it more examples",
        )
    drafts = drafts.take(pa.array(kept))
    # They are asked as those are that they were written after.
    same = next(
        row
        for index in range(data.num_shards("queries"))
        for row in data.read_shard("queries", index, ["dataset", "task", "language"]).slice(0, 1).to_pylist()
    )
    ordinals = np.arange(len(kept))
    shards = range(0, len(kept), _SHARD_ROWS)
    for index, start in enumerate(shards):
        part = slice(start, start + _SHARD_ROWS)
        table = {
            "query": ordinals[part],
            "query_id": [f"{SPLIT}-{ordinal}" for ordinal in ordinals[part].tolist()],
            "text": drafts.column("text")[start : start + _SHARD_ROWS],
        }
        writer.write_shard("queries", index, _told(table, schemas.QUERIES, **same))
    qrels = {"query": ordinals, "doc": drafts.column("doc"), "relevance": np.ones(len(kept), np.float32)}
    writer.write_shard("qrels", 0, _told(qrels, schemas.QRELS, split=SPLIT))
    writer.write_shard("documents", 0, schemas.DOCUMENTS.empty_table())
    summary: dict[str, object] = {
        "documents": len(drafts) + sum(counters.values()),
        "queries": len(kept),
        "write_seconds": round(sum(shard.seconds for shard in finished.values()), 3),
    }
    return work.commit({"queries": len(shards), "qrels": 1, "documents": 1}, summary, counters)


def usable(queries: Sequence[str]) -> tuple[list[int], dict[str, int]]:
    """Return the rows of drafts that are worth a round trip, and why the others are not.

    A language model that knows no more says nothing, or the same words again and again.
    """
    counters = Counter({"empty": 0, "repetitive": 0})
    kept = []
    for row, query in enumerate(queries):
        words = query.lower().split()
        if not words:
            counters["empty"] += 1
        elif 2 * len(set(words)) < len(words):
            counters["repetitive"] += 1
        else:
            kept.append(row)
    return kept, dict(counters)


def _told(columns: dict[str, Any], schema: pa.Schema, **same: str | None) -> pa.Table:
    table = pa.table(columns)
    for name, value in same.items():
        table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    return schemas.conform(table.select(schema.names), schema)
