"""Recall against the exact search: the sample, the truth over shards, and the share."""

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from models.search.index import build_index
from models.search.rescored import Codes, RescoredDocuments
from pipelines import schemas
from pipelines.index.recall import Recall, read_embeddings, sample_embeddings, share_found

D = 12


def emb(count, seed):
    x_ND = np.random.default_rng(seed).standard_normal((count, D))
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def artifact(tmp_path):
    """Return a function that commits embeddings, cut into shards of given sizes."""

    def commit(label, **tables):
        writer = ArtifactStore(str(tmp_path)).open("encode", label, "0" * 20)
        for table, shards in tables.items():
            first = 0
            for index, rows_ND in enumerate(shards):
                column = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.ravel()), D)
                ids = np.arange(first, first + len(rows_ND))
                rows = pa.table({"id": ids, "embedding": column})
                writer.write_shard(table, index, schemas.conform(rows, schemas.embeddings(D, "float16")))
                first += len(rows_ND)
        counts = {table: len(shards) for table, shards in tables.items()}
        return writer.commit(stage_version=1, num_shards=counts, identity={}, inputs={})

    return commit


def test_the_sample_is_spaced_evenly_over_the_shards(artifact):
    shards = [emb(5, 0), emb(0, 1), emb(9, 2), emb(3, 3)]
    whole_ND = np.concatenate(shards)
    made = artifact("x", documents=shards, queries=[emb(0, 4)])
    for count in (1, 4, 17, 99):
        rows = [number * 17 // min(count, 17) for number in range(min(count, 17))]
        sample_ND = sample_embeddings(made, "documents", count)
        assert sample_ND.dtype == np.float32 and np.array_equal(sample_ND, whole_ND[rows])
    assert len(sample_embeddings(made, "documents", 0)) == 0


@pytest.mark.parametrize("kind", ["queries", "documents"])
def test_recall_is_the_share_of_what_a_search_of_everything_finds(artifact, kind):
    shards = [emb(40, 0), emb(25, 1), emb(35, 2)]
    doc_ND = np.concatenate(shards)
    queries = [emb(12, 3), emb(20, 4)] if kind == "queries" else [emb(0, 3)]
    made = artifact("x", documents=shards, queries=queries)
    recall = Recall(made, 8)
    for shard in range(3):
        recall.add(*read_embeddings(made, "documents", shard))
    asked_ND = np.concatenate(queries) if kind == "queries" else doc_ND
    q_QD = asked_ND[[number * len(asked_ND) // 8 for number in range(8)]].astype(np.float32)
    index = RescoredDocuments(Codes(build_index(doc_ND, "binary"), D), D, 2, doc_ND)
    hits = 0
    for query in q_QD:
        scores = (doc_ND.astype(np.float32) @ query).tolist()
        best = sorted(range(100), key=lambda row: -scores[row])[:10]
        hits += len(set(best) & set(index.top_k(query[None], 10)[1][0].tolist()))
    assert recall.of(index) == {"k": 10, "value": round(hits / 80, 4), "num_queries": 8, "asked": kind}
    assert 0 < hits < 80


def test_without_a_sample_nothing_is_measured(artifact):
    made = artifact("x", documents=[emb(4, 0)], queries=[emb(0, 1)])
    recall = Recall(made, 0)
    recall.add(*read_embeddings(made, "documents", 0))
    assert recall.of(RescoredDocuments(Codes(build_index(emb(4, 0), "binary"), D), D, 1)) is None


def test_documents_that_are_not_there_are_not_missed():
    true_QK = np.array([[3, 1, -1], [2, 0, 4]])
    assert share_found(np.array([[1, -1, -1], [4, 2, 0]]), true_QK) == 4 / 5
    assert share_found(np.full((2, 3), -1), true_QK) == 0
