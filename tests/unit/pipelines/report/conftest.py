"""A small mined data set whose every decision a test can recount: 3 shards, 3 teachers, 3 methods."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cluster.artifacts import ArtifactStore
from cluster.runs import Run
from pipelines import schemas
from pipelines.execute import execute
from pipelines.progress import Progress
from pipelines.report.config import AuditConfig, KnownConfig
from pipelines.report.pipeline import audit_step
from pipelines.report.tables import Audit
from pipelines.steps import Step

NUM_DOCS, NUM_QUERIES, DEPTH, ASKED = 60, 48, 16, 4
CUTS = (0, 20, 33, NUM_QUERIES)
TEACHERS = ("dense", "words", "chance")
METHODS = ("naive", "strict", "repeats")
WORDS = [f"w{number}" for number in range(200)]
ATTACK = "<script>alert('x')</script> & \"quoted\""


@dataclass
class World:
    """Everything that the audit reads, as plain rows, and where it is stored."""

    folder: object
    texts: list = field(default_factory=list)
    candidates: dict = field(default_factory=dict)
    groups: dict = field(default_factory=dict)
    positives: dict = field(default_factory=dict)
    listed: list = field(default_factory=list)
    answers: dict = field(default_factory=dict)
    asked: int = ASKED
    cuts: tuple = CUTS
    teachers: tuple = TEACHERS
    methods: tuple = METHODS

    def step(self, stage, label, inputs, tables, identity=None, summary=None):
        def run(work):
            for name, shards in tables.items():
                for index, rows in enumerate(shards):
                    schema = getattr(schemas, name.upper())
                    table = schemas.conform(pa.Table.from_pylist(rows, schema=schema), schema)
                    counters = {"labelled_positive": 2} if name == "groups" else {}
                    work.writer.write_shard(name, index, table, counters=counters)
            return work.commit({name: len(shards) for name, shards in tables.items()}, summary or {})

        sizes = {name: [len(rows) for rows in shards] for name, shards in tables.items()}
        return Step(stage, label, 1, {**(identity or {}), "sizes": sizes}, (), inputs, run)

    def steps(self, config):
        documents = [
            {
                "doc": doc,
                "doc_id": f"d{doc}",
                "title": None,
                "text": text,
                "dataset": "tiny",
                "language": None,
            }
            for doc, text in enumerate(self.texts)
        ]
        queries = [
            {"query": query, "query_id": f"q{query}", "text": f"query {query} {ATTACK}", "dataset": "tiny"}
            | {"task": "retrieval", "language": None}
            for query in range(NUM_QUERIES)
        ]
        tables = {"documents": [documents[:25], documents[25:]], "queries": [queries]}
        steps = {"data": self.step("ingest", "tiny", {}, tables)}
        for name, shards in self.candidates.items():
            steps[name] = self.step("search", name, {"data": steps["data"]}, {"candidates": shards})
        for name, shards in self.groups.items():
            identity, summary = {"num_negatives": ASKED}, {"teachers": list(TEACHERS)}
            steps[name] = self.step("select", name, {}, {"groups": shards}, identity, summary)
        teachers = {name: steps[name] for name in self.candidates}
        methods = {name: steps[name] for name in self.groups}
        steps["audit"] = audit_step(steps["data"], teachers, methods, config)
        return steps

    def rows(self, method):
        return [row for shard in self.groups[method] for row in shard]

    def run(self, config):
        store = ArtifactStore(str(self.folder / "store"))
        run = Run.create(store.storage, {"name": "tiny"}, {}, "tiny")
        done = execute(self.steps(config), ["audit"], store, None, Progress(Console(quiet=True)), run)
        return store, run, done["audit"].artifact


def make_texts(rng):
    texts = [" ".join(rng.choice(WORDS, 30)) for _ in range(NUM_DOCS)]
    for doc in range(0, 10, 2):
        texts[doc + 1] = texts[doc].replace(" ", "  ")  # identical but for white space
    for doc in range(10, 20, 2):
        texts[doc + 1] = f"{texts[doc]} tail of {doc}"  # a near-duplicate
    texts[20] = "The  Golden\nGate bridge"
    texts[21] = ATTACK
    return texts


def make_candidates(rng, scores_QN, positives):
    shards = []
    for start, end in pairwise(CUTS):
        rows = []
        for query in range(start, end):
            order = np.argsort(-scores_QN[query], kind="stable")[:DEPTH].tolist()
            ranks = {doc: rank for rank, doc in enumerate(order, 1)} | {
                doc: 0 for doc in positives[query] if doc not in order
            }
            rows += [
                {"query": query, "doc": doc, "rank": rank, "score": float(scores_QN[query, doc])}
                | {"is_positive": doc in positives[query]}
                for doc, rank in ranks.items()
            ]
        shards.append(rows)
    return shards


def make_groups(rng, scores, positives, method):
    shards = []
    for start, end in pairwise(CUTS):
        rows = []
        for query in range(start, end):
            if method == "strict" and query % 11 == 0:
                continue  # dropped as starved
            size = ASKED if method != "strict" else int(rng.integers(0, ASKED + 1))
            drawn = rng.choice(NUM_DOCS, size, replace=method == "repeats").tolist()
            negatives = [
                {"doc": doc, "scores": [float(scores[name][query, doc]) for name in TEACHERS]}
                | {"teacher": 0, "rank": int(rng.integers(0, 30)), "answers": []}
                for doc in drawn
            ]
            for negative in negatives:
                if rng.uniform() < 0.1:
                    negative["scores"][0] = None
            own = [
                {"doc": doc, "scores": [float(scores[name][query, doc]) for name in TEACHERS]}
                for doc in positives[query]
            ]
            rows.append(
                {"query": query, "task": "t", "dataset": "tiny", "positives": own, "negatives": negatives}
            )
        shards.append(rows)
    return shards


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    rng = np.random.default_rng(7)
    made = World(tmp_path_factory.mktemp("audit"))
    made.texts = make_texts(rng)
    made.positives = {
        query: rng.choice(24, int(rng.integers(1, 4)), replace=False).tolist() for query in range(NUM_QUERIES)
    }
    scores = {name: rng.uniform(-1, 1, (NUM_QUERIES, NUM_DOCS)).astype(np.float32) for name in TEACHERS}
    scores["words"] = scores["words"] * 0.2 + scores["dense"]
    made.candidates = {name: make_candidates(rng, scores[name], made.positives) for name in TEACHERS}
    made.groups = {name: make_groups(rng, scores, made.positives, name) for name in METHODS}
    made.listed = [
        (int(query), int(doc), int(rng.integers(1, 4)))
        for query in range(0, NUM_QUERIES, 2)
        for doc in rng.choice(NUM_DOCS, 12, replace=False)
    ]
    made.answers = {
        query: ["12,345", "w1", "golden gate", WORDS[150] + " "] for query in range(NUM_QUERIES - 5)
    }
    made.answers[0] = ["2008"]
    pairs = [{"query-id": f"q{q}", "corpus-id": f"d{d}", "level": level} for q, d, level in made.listed]
    pairs += [
        {"query-id": "nobody", "corpus-id": "d1", "level": 3},
        {"query-id": "q1", "corpus-id": "x", "level": 3},
    ]
    pq.write_table(pa.Table.from_pylist(pairs), made.folder / "pairs.parquet")
    answers = [{"query-id": f"q{query}", "answers": strings} for query, strings in made.answers.items()]
    pq.write_table(pa.Table.from_pylist(answers), made.folder / "answers.parquet")
    return made


@pytest.fixture(scope="session")
def config(world):
    known = KnownConfig(
        pairs=str(world.folder / "pairs.parquet"), min_level=3, answers=str(world.folder / "answers.parquet")
    )
    return AuditConfig(known=known, temperature=0.1, num_examples=6, bootstrap_samples=200)


@pytest.fixture(scope="session")
def audited(world, config):
    return world.run(config)


@pytest.fixture(scope="session")
def audit(audited):
    return Audit.read(audited[2])
