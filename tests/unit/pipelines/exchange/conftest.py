import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cluster.artifacts import ArtifactStore
from cluster.runs import Run
from pipelines import schemas
from pipelines.exchange.config import ExportConfig, ImportConfig
from pipelines.exchange.exports import Mined, artifacts_of, export_run
from pipelines.exchange.imports import import_data, source_file
from pipelines.progress import Progress
from pipelines.steps import Work

DOCUMENTS = [
    ("d0", None, "copper conducts"), ("d1", "Tin", "tin melts early"), ("d2", "", "zinc keeps\nsteel"),
    ("d3", None, "lead is heavy"), ("d4", "Iron", "iron rusts"), ("d5", None, "gold stays"), ("d6", None, "silver"),
]  # fmt: skip
QUERIES = [("q0", "what conducts"), ("q1", "what melts"), ("q2", "what protects"), ("q3", "what is heavy")]
QRELS = [
    (0, 0, 1.0, "train"),
    (0, 1, 2.0, "train"),
    (1, 1, 1.0, "train"),
    (2, 2, 1.0, "train"),
    (3, 3, 1.0, "dev"),
]
TEACHERS = ["dense", "words"]
# query -> (positives: doc, scores), (negatives: doc, scores, teacher)
GROUPS = {
    0: ([(0, [0.875, 7.0]), (1, [0.8125, 6.0])], [(2, [0.5, 3.0], 0), (3, [0.25, 2.0], 0)]),
    1: ([(1, [0.75, 5.0])], [(4, [0.5, 4.0], 1), (5, [0.125, None], 0)]),
    2: ([(2, [0.5, 1.0])], [(6, [None, None], -1), (0, [0.25, 0.5], 0)]),
    3: ([(3, [0.5, 1.0])], [(5, [0.375, 0.25], 0)]),
}


def rendered(doc):
    title, text = DOCUMENTS[doc][1:]
    return f"{title} {text}" if title else text


def commit(store, stage, tables, summary=None, inputs=None, label="tiny"):
    writer = store.open(stage, label, "0" * 20)
    for name, shards in tables.items():
        for index, shard in enumerate(shards):
            writer.write_shard(name, index, shard)
    return writer.commit(
        stage_version=1, num_shards={name: len(shards) for name, shards in tables.items()}, identity={},
        inputs=inputs or {}, summary=summary or {}, counters={"file: empty text": 2}, seconds=0.0,
    )  # fmt: skip


def _data_tables(documents, queries):
    docs = [
        {"doc": n, "doc_id": key, "title": title, "text": text, "dataset": "tiny", "language": None}
        for n, (key, title, text) in enumerate(documents)
    ]
    asked = [
        {"query": n, "query_id": key, "text": text, "dataset": "tiny", "task": "retrieval", "language": None}
        for n, (key, text) in enumerate(queries)
    ]
    qrels = [dict(zip(("query", "doc", "relevance", "split"), row, strict=True)) for row in QRELS]
    return {
        "documents": [
            pa.Table.from_pylist(docs[a:b], schema=schemas.DOCUMENTS) for a, b in ((0, 3), (3, 4), (4, 7))
        ],
        "queries": [pa.Table.from_pylist(asked[a:b], schema=schemas.QUERIES) for a, b in ((0, 3), (3, 4))],
        "qrels": [pa.Table.from_pylist(qrels, schema=schemas.QRELS)],
        "quarantine": [schemas.QUARANTINE.empty_table()],
    }


def _group(query, positives, negatives):
    return {
        "query": query, "task": "retrieval", "dataset": "tiny",
        "positives": [{"doc": doc, "scores": scores} for doc, scores in positives],
        "negatives": [
            {"doc": doc, "scores": scores, "teacher": teacher, "rank": rank, "answers": []}
            for rank, (doc, scores, teacher) in enumerate(negatives, start=1)
        ],
    }  # fmt: skip


def make_run(folder, documents=DOCUMENTS, queries=QUERIES):
    """Write a run with data, candidates and groups, and return its store."""
    store = ArtifactStore(str(folder))
    data = commit(store, "ingest", _data_tables(documents, queries))
    ranked = [
        (0, 2, 1, 0.9000001),
        (0, 0, 2, 0.5),
        (0, 1, 0, -0.25),
        (1, 1, 1, 0.75),
        (3, 3, 1, 1.0),
        (3, 6, 2, 1e-5),
    ]
    rows = [
        {"query": q, "doc": d, "rank": rank, "score": score, "is_positive": False}
        for q, d, rank, score in ranked
    ]
    shards = [pa.Table.from_pylist(part, schema=schemas.CANDIDATES) for part in (rows[:3], rows[3:])]
    inputs = {"data": data.key}
    candidates = commit(store, "search", {"candidates": shards}, inputs=inputs)
    groups = [_group(query, *sides) for query, sides in GROUPS.items()]
    shards = [pa.Table.from_pylist(part, schema=schemas.GROUPS) for part in (groups[:1], groups[1:])]
    chosen = commit(store, "select", {"groups": shards}, {"teachers": TEACHERS}, inputs)
    run = Run.create(store.storage, {}, {}, "tiny")
    for artifact in (data, candidates, chosen):
        run.record_stage(artifact.key, artifact.manifest.stage, "done")
    run.record_stage("train/tiny-" + "0" * 20, "train", "failed")
    run.finish("done")
    return store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A run that is only read."""
    return make_run(tmp_path_factory.mktemp("exchange") / "store")


@pytest.fixture
def mined(store) -> Mined:
    return artifacts_of(store, Run.find(store.storage, "latest"))


@pytest.fixture
def export(tmp_path, mined):
    """Export the tiny run and return (path, what was written)."""

    def run(name, file="out", **settings):
        path = tmp_path / file
        return path, export_run(mined, name, ExportConfig(**settings), path, False, lambda _: None)

    return run


@pytest.fixture
def bring(tmp_path):
    """Import files into tmp_path/data and return what was made."""

    def run(name, *files, overwrite=True, **settings):
        config = ImportConfig(files=tuple(source_file(str(file)) for file in files), **settings)
        return import_data(name, config, tmp_path / "data", overwrite, lambda _: None)

    return run


@pytest.fixture
def table(tmp_path):
    """Read one table of tmp_path/data as rows of values."""

    def read(name):
        return [
            tuple(row.values()) for row in pq.read_table(tmp_path / "data" / f"{name}.parquet").to_pylist()
        ]

    return read


@pytest.fixture
def pairs(table):
    """The positives and negatives of tmp_path/data as texts: {(query, document as models read it): number}."""

    def read():
        documents = {key: f"{title} {text}" if title else text for key, title, text in table("corpus")}
        queries = dict(table("queries"))

        def texts(name):
            return {(queries[q], documents[d]): number for q, d, number in table(name)}

        return texts

    return read


@pytest.fixture
def lines(tmp_path):
    """Write JSON lines (bytes stay as they are) and return the file."""

    def write(name, rows):
        path = Path(tmp_path / name)
        path.write_bytes(
            b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows) + b"\n"
        )
        return path

    return write


@pytest.fixture
def ingested(tmp_path):
    """Run an ingest step and return its artifact."""

    def run(step):
        store = ArtifactStore(str(tmp_path / "workspace"))
        writer = store.open(step.stage, step.label, step.fingerprint)
        return step.run(Work(step, {}, writer, None, Progress(Console(quiet=True))))

    return run
