"""Queries that are documents themselves: measured as BEIR measures them."""

import json

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG
from rich.console import Console

from cluster.artifacts import ArtifactStore
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.pipeline import evaluate_step
from pipelines.ingest.config import BeirConfig
from pipelines.ingest.pipeline import ingest_step
from pipelines.own_documents import own_documents
from pipelines.progress import Progress
from pipelines.search.tables import candidates_table
from pipelines.steps import Step, make

NUM_DOCUMENTS, NUM_QUERIES = 40, 20
RELEVANT_ITSELF = 3
"""A query whose own document is labelled relevant: it stays."""


def answer(query):
    return query if query == RELEVANT_ITSELF else query + NUM_QUERIES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Arguments as queries and as documents, two shards of each, and a ranking by noisy scores."""
    folder = tmp_path_factory.mktemp("arguments")
    (folder / "qrels").mkdir()
    texts = [{"_id": f"a{n}", "text": f"argument number {n}"} for n in range(NUM_DOCUMENTS)]
    for name, rows in (("corpus", texts), ("queries", texts[:NUM_QUERIES])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = "".join(f"a{n}\ta{answer(n)}\t1\n" for n in range(NUM_QUERIES))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    generator = np.random.default_rng(0)
    emb_ND = generator.normal(size=(NUM_DOCUMENTS, 8)).astype(np.float32)
    emb_ND[NUM_QUERIES:] = emb_ND[:NUM_QUERIES] + 0.6 * generator.normal(size=(NUM_QUERIES, 8))
    scores_QN = emb_ND[:NUM_QUERIES] @ emb_ND.T
    docs_QN = np.argsort(-scores_QN, axis=1)
    queries = np.arange(NUM_QUERIES)

    def rank(work):
        best = np.take_along_axis(scores_QN, docs_QN, 1), docs_QN
        none = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        work.writer.write_shard("candidates", 0, candidates_table(queries, best, none))
        return work.commit({"candidates": 1})

    storage, quiet = ArtifactStore(str(folder / "store")).storage, Progress(Console(quiet=True))
    config = BeirConfig(
        kind="beir", name="arguments", path=str(folder), shard_tokens=100, query_shard_tokens=50
    )
    step = ingest_step(config)
    data = make(step, {}, storage, None, quiet)
    assert data.num_shards("documents") > 1 < data.num_shards("queries")
    ranking = Step("search", "arguments", 1, {}, (), {"data": step}, rank)
    inputs = {"data": data, "base": make(ranking, {"data": data}, storage, None, quiet)}
    metrics = evaluate_step(step, {"base": ranking}, EvaluateConfig(), differences=())
    return data, make(metrics, inputs, storage, None, quiet).read("metrics").to_pylist(), scores_QN


def test_every_query_has_its_own_document_but_where_it_is_an_answer(made):
    expected = [[n, n] for n in range(NUM_QUERIES) if n != RELEVANT_ITSELF]
    assert sorted(own_documents(made[0], np.arange(NUM_QUERIES)).tolist()) == expected
    assert own_documents(made[0], np.array([5, 7, 7])).tolist() == [[5, 5], [7, 7]]


def test_metrics_are_those_of_beir(made):
    _, metrics, scores_QN = made
    qrels = {str(n): {str(answer(n)): 1} for n in range(NUM_QUERIES)}
    run = {
        str(n): {str(doc): float(score) for doc, score in enumerate(row) if doc != n or n == RELEVANT_ITSELF}
        for n, row in enumerate(scores_QN)
    }
    expected = ir_measures.pytrec_eval.calc_aggregate([nDCG @ 10, RR, R @ 10], qrels, run)
    found = {f"{row['metric']}@{row['k']}": row["value"] for row in metrics}
    assert found["ndcg@10"] == pytest.approx(expected[nDCG @ 10])
    assert found["recall@10"] == pytest.approx(expected[R @ 10])
    assert found["mrr@10"] == pytest.approx(expected[RR], abs=0.01)
