import numpy as np
import pytest

from pipelines.search.by_range import random_table
from pipelines.search.random_order import random_documents


@pytest.mark.parametrize("num_documents", [1, 2, 3, 5, 16, 17, 1000])
def test_every_query_sees_every_document_once(num_documents):
    queries = np.arange(40)
    docs_QK = random_documents(0, queries, num_documents, 2000)
    assert docs_QK.shape == (40, num_documents)
    assert (np.sort(docs_QK, axis=1) == np.arange(num_documents)).all()


def test_the_first_candidates_do_not_depend_on_the_depth_nor_on_other_queries():
    deep = random_documents(7, np.array([3, 8, 9]), 5000, 300)
    assert np.array_equal(random_documents(7, np.array([8]), 5000, 20)[0], deep[1, :20])
    assert not np.array_equal(random_documents(8, np.array([8]), 5000, 20)[0], deep[1, :20])


def test_documents_and_pairs_of_neighbours_are_drawn_evenly():
    num_documents, num_queries = 20, 20_000
    docs_QK = random_documents(1, np.arange(num_queries), num_documents, 3)
    for column in range(3):
        counts = np.bincount(docs_QK[:, column], minlength=num_documents)
        expected = num_queries / num_documents
        assert ((counts - expected) ** 2 / expected).sum() < 60  # chi square, 19 degrees: p = 5e-6
    step = (docs_QK[:, 1] - docs_QK[:, 0]) % num_documents
    counts = np.bincount(step, minlength=num_documents)
    assert counts[0] == 0
    expected = num_queries / (num_documents - 1)
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 60


def test_positives_score_one_wherever_they_stand():
    queries = np.array([4, 6])
    drawn = random_documents(0, queries, 30, 5)
    unseen = int(np.setdiff1d(np.arange(30), drawn[1])[0])
    pairs = (np.array([0, 1]), np.array([drawn[0, 2], unseen]))
    rows = random_table(queries, pairs, 30, 5, 0).to_pylist()
    assert [(row["query"], row["doc"], row["rank"]) for row in rows] == [
        *((4, doc, rank) for rank, doc in enumerate(drawn[0].tolist(), 1)),
        *((6, doc, rank) for rank, doc in enumerate(drawn[1].tolist(), 1)),
        (6, unseen, 0),
    ]
    scored = {(row["query"], row["doc"]): row["score"] for row in rows}
    assert [pair for pair, score in scored.items() if score] == [(4, int(drawn[0, 2])), (6, unseen)]
    assert {row["doc"] for row in rows if row["is_positive"]} == {int(drawn[0, 2]), unseen}
