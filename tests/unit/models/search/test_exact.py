import gc
import itertools
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.errors import ModelError
from models.search import exact
from models.search.canonical import rounding_bound, score_pairs, tensor_of
from models.search.exact import SEARCHERS, Documents, pair_scores, top_k
from models.search.merge import merge_top_k

D = 48


@pytest.fixture(scope="module")
def embeddings():
    """700 documents near a common direction, a third of them copies of a few, and 30 queries."""
    rng = np.random.default_rng(0)
    doc_ND = rng.standard_normal((700, D)) + 2 * rng.standard_normal(D)
    doc_ND[100:250] = doc_ND[7]
    doc_ND[300:340] = doc_ND[8]
    doc_ND[690:] = doc_ND[9]
    doc_ND /= np.linalg.norm(doc_ND, axis=1, keepdims=True)
    doc_ND = doc_ND.astype(np.float32)
    q_QD = doc_ND[rng.integers(0, 700, 30)] + 0.1 * rng.standard_normal((30, D)).astype(np.float32)
    q_QD[:3] = doc_ND[[7, 8, 9]]
    return q_QD, doc_ND


def brute_force(q_QD, doc_ND, k):
    """Score every pair canonically, sort by (score, document)."""
    rows, columns = np.divmod(np.arange(len(q_QD) * len(doc_ND)), len(doc_ND))
    scores_QN = pair_scores(q_QD, doc_ND, rows, columns).reshape(len(q_QD), -1)
    docs_QK = np.argsort(-scores_QN, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores_QN, docs_QK, 1), docs_QK


def test_canonical_scores_are_near_float64_and_independent_of_company(embeddings):
    q_QD, doc_ND = embeddings
    rng = np.random.default_rng(1)
    query, document = rng.integers(0, 30, 500), rng.integers(0, 700, 500)
    scores = pair_scores(q_QD, doc_ND, query, document)
    exact_scores = (q_QD[query].astype(np.float64) * doc_ND[document]).sum(1)
    norms = np.linalg.norm(q_QD, axis=1).max() * np.linalg.norm(doc_ND, axis=1).max()
    assert np.abs(scores - exact_scores).max() < rounding_bound(D, norms, 1) / 2
    for count in (1, 2, 3, 17, 100):
        assert np.array_equal(pair_scores(q_QD, doc_ND, query[-count:], document[-count:]), scores[-count:])


@pytest.mark.parametrize("dimension", [1, 2, 3, 31, 33, 48, 100, 384])
def test_canonical_sum_of_any_dimension(dimension):
    x_ND = np.random.default_rng(dimension).standard_normal((5, dimension)).astype(np.float32)
    every = torch.arange(5)
    scores = score_pairs(torch.from_numpy(x_ND), torch.from_numpy(x_ND), every, every).numpy()
    np.testing.assert_allclose(scores, (x_ND.astype(np.float64) ** 2).sum(1), rtol=1e-6)


@pytest.mark.parametrize("backend", SEARCHERS)
@pytest.mark.parametrize("k", [1, 5, 20, 160, 700])
def test_equal_to_brute_force_to_the_bit(embeddings, backend, k):
    scores_QK, docs_QK = top_k(*embeddings, k, backend=backend)
    expected_scores, expected_docs = brute_force(*embeddings, k)
    assert np.array_equal(docs_QK, expected_docs) and np.array_equal(scores_QK, expected_scores)
    assert scores_QK.dtype == np.float32 and docs_QK.dtype == np.int64


def test_no_grid_and_no_backend_changes_a_bit(embeddings, monkeypatch):
    q_QD, doc_ND = embeddings[0][:10], embeddings[1]
    k = 20
    expected = brute_force(q_QD, doc_ND, k)
    for shard, query_block, document_block in itertools.product(
        (45, 111, 700), (1, 7, 1024), (13, 64, 16_384)
    ):
        monkeypatch.setattr(exact, "_QUERY_BLOCK", query_block)
        parts = []
        for number, start in enumerate(range(0, len(doc_ND), shard)):
            documents = Documents(doc_ND[start : start + shard], start, document_block=document_block)
            parts.append(documents.top_k(q_QD, k, list(SEARCHERS)[number % 2]))
        scores_QK, docs_QK = merge_top_k(parts[::-1], k)
        assert np.array_equal(docs_QK, expected[1]) and np.array_equal(scores_QK, expected[0])


@pytest.mark.parametrize("backend", SEARCHERS)
def test_mass_ties_are_rescanned(backend):
    doc_ND = np.tile(np.eye(1, D, dtype=np.float32), (400, 1))
    doc_ND[5] = -doc_ND[5]
    assert top_k(doc_ND[:1], doc_ND, 10, backend=backend)[1].tolist() == [[0, 1, 2, 3, 4, 6, 7, 8, 9, 10]]
    zero = np.zeros((1, D), np.float32)
    assert top_k(zero, doc_ND, 3, backend=backend)[1].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("backend", SEARCHERS)
def test_more_asked_than_there_is(backend):
    doc_ND = np.eye(3, D, dtype=np.float32)
    scores_QK, docs_QK = top_k(doc_ND[1:2], doc_ND, 5, first_document=10, backend=backend)
    assert docs_QK.tolist() == [[11, 10, 12, -1, -1]] and np.isneginf(scores_QK[0, 3:]).all()
    assert top_k(doc_ND, doc_ND[:0], 2, backend=backend)[1].tolist() == [[-1, -1]] * 3
    assert top_k(doc_ND[:0], doc_ND, 2, backend=backend)[1].shape == (0, 2)


def by_document(q_QD, doc_ND, row_docs, k):
    """Score every row canonically, keep the best of each document, sort by (score, document)."""
    rows, columns = np.divmod(np.arange(len(q_QD) * len(doc_ND)), len(doc_ND))
    scores_QN = pair_scores(q_QD, doc_ND, rows, columns).reshape(len(q_QD), -1)
    ordinals = np.unique(row_docs)
    best = np.stack([scores_QN[:, row_docs == doc].max(axis=1) for doc in ordinals], axis=1)
    columns = np.argsort(-best, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(best, columns, 1), ordinals[columns]


@pytest.mark.parametrize("backend", SEARCHERS)
@pytest.mark.parametrize("k", [1, 4, 60, 250])
@pytest.mark.parametrize("chunks", ["even", "one long"])
def test_chunks_count_as_their_document_by_the_best_of_them(embeddings, backend, k, chunks):
    q_QD, doc_ND = embeddings
    rng = np.random.default_rng(2)
    row_docs = np.sort(rng.choice(np.arange(50, 900, 3), 700))
    if chunks == "one long":
        row_docs = np.sort(np.where(rng.random(700) < 0.6, 200, row_docs))
    documents = Documents(doc_ND, row_docs=row_docs)
    scores_QK, docs_QK = documents.top_k(q_QD, k, backend)
    expected_scores, expected_docs = by_document(q_QD, doc_ND, row_docs, k)
    found = expected_docs.shape[1]
    assert np.array_equal(docs_QK[:, :found], expected_docs)
    assert np.array_equal(scores_QK[:, :found], expected_scores)
    assert (docs_QK[:, found:] == -1).all() and np.isneginf(scores_QK[:, found:]).all()
    query, column = np.divmod(np.arange(len(q_QD) * found), found)
    pairs = documents.pair_scores(q_QD, query, expected_docs[query, column])
    assert np.array_equal(pairs, expected_scores[query, column])


def test_documents_of_parts_merge_to_those_of_the_whole(embeddings):
    q_QD, doc_ND = embeddings
    row_docs = np.repeat(np.arange(350), 2)
    parts = [Documents(doc_ND[rows], row_docs=row_docs[rows]) for rows in (slice(0, 64), slice(64, 700))]
    merged = merge_top_k([part.top_k(q_QD, 15, "torch") for part in parts], 15)
    expected = by_document(q_QD, doc_ND, row_docs, 15)
    assert np.array_equal(merged[0], expected[0]) and np.array_equal(merged[1], expected[1])


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
def test_the_running_threshold_misses_nothing_in_any_order(order):
    rng = np.random.default_rng(4)
    doc_ND = rng.standard_normal((3000, D)).astype(np.float32)
    q_QD = rng.standard_normal((9, D)).astype(np.float32)
    if order != "shuffled":
        doc_ND = doc_ND[np.argsort(doc_ND @ q_QD[0])][:: 1 if order == "rising" else -1]
    for block in (64, 100, 1000):
        found = Documents(doc_ND, document_block=block).top_k(q_QD, 30, "torch")
        expected = brute_force(q_QD, doc_ND, 30)
        assert np.array_equal(found[1], expected[1]) and np.array_equal(found[0], expected[0])


def test_float16_embeddings_are_searched_as_float32(embeddings):
    q_QD, doc_ND = (x.astype(np.float16) for x in embeddings)
    expected = brute_force(q_QD.astype(np.float32), doc_ND.astype(np.float32), 5)
    doc_ND.flags.writeable = False
    assert np.array_equal(top_k(q_QD, doc_ND, 5)[1], expected[1])


def test_read_only_memory_is_taken_as_it_is_and_kept_alive():
    column = pa.array(np.arange(12, dtype=np.float16)).to_numpy()
    assert not column.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = tensor_of(column.reshape(3, 4))
    assert tensor.data_ptr() == column.__array_interface__["data"][0]
    del column
    gc.collect()
    assert tensor.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_refusals(embeddings):
    q_QD, doc_ND = embeddings
    bad = doc_ND.copy()
    bad[3, 4] = np.nan
    for call, message in (
        (lambda: top_k(q_QD, bad, 5, first_document=100), "row 103"),
        (lambda: top_k(bad, doc_ND, 5), "queries hold values that are not finite"),
        (lambda: top_k(q_QD[:, :5], doc_ND, 5), "differ in dimension"),
        (lambda: top_k(q_QD, doc_ND, 0), "at least 1"),
        (lambda: top_k(q_QD, doc_ND, 5, backend="guess"), "unknown search backend"),
        (lambda: merge_top_k([], 5), "no partial results"),
        (lambda: Documents(doc_ND, row_docs=np.arange(700)[::-1]), "chunks of a document side by side"),
        (lambda: Documents(doc_ND, row_docs=np.arange(699)), "699 ordinals for 700 rows"),
    ):
        with pytest.raises(ModelError, match=message):
            call()
