from itertools import pairwise

import numpy as np
import pytest

from models.errors import ModelError
from models.search import ivf
from models.search.exact import Documents, pair_scores, top_k
from models.search.ivf import ListedDocuments, nearest_lists, train_centroids
from models.search.merge import merge_top_k

D, LISTS, K = 24, 16, 10
backends = pytest.mark.parametrize("backend", ["faiss", "torch"])


@pytest.fixture(scope="module")
def corpus():
    """1,200 documents around 30 centres, and 40 queries near some."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((30, D))
    doc_ND = centre[rng.integers(0, 30, 1200)] + 0.5 * rng.standard_normal((1200, D))
    doc_ND = (doc_ND / np.linalg.norm(doc_ND, axis=1, keepdims=True)).astype(np.float32)
    doc_ND[40:60] = doc_ND[3]
    q_QD = doc_ND[rng.integers(0, 1200, 40)] + 0.1 * rng.standard_normal((40, D)).astype(np.float32)
    centroids_LD = train_centroids(doc_ND[::2], LISTS, 0)
    return doc_ND, q_QD, centroids_LD, nearest_lists(doc_ND, centroids_LD, 1)[:, 0]


def search(documents, list_N, probes, corpus, k=K, backend="faiss"):
    """Search the nearest lists of each query."""
    lists_QP = nearest_lists(corpus[1], corpus[2], probes)
    return ListedDocuments(documents, list_N, backend).top_k(lists_QP, corpus[1], k)


def naive(corpus, probes, k):
    """Score the documents of the probed lists canonically, sort by (score, document)."""
    doc_ND, q_QD, centroids_LD, list_N = corpus
    expected = []
    for query in range(len(q_QD)):
        probed = np.argsort(-(centroids_LD @ q_QD[query]))[:probes]
        docs = np.flatnonzero(np.isin(list_N, probed))
        scores = pair_scores(q_QD, doc_ND, np.full_like(docs, query), docs)
        expected.append([(scores[i], docs[i]) for i in np.argsort(-scores, kind="stable")[:k]])
    return expected


def test_centroids_are_unit_vectors_and_lists_hold_what_is_nearest(corpus):
    doc_ND, _, centroids_LD, list_N = corpus
    assert centroids_LD.shape == (LISTS, D) and centroids_LD.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centroids_LD, axis=1), 1, atol=1e-5)
    scores_NL = doc_ND @ centroids_LD.T
    assert (scores_NL.max(axis=1) - scores_NL[np.arange(1200), list_N] < 1e-5).all()
    assert np.array_equal(train_centroids(doc_ND[::2], LISTS, 0), centroids_LD)


def test_the_nearest_lists_come_first(corpus):
    _, q_QD, centroids_LD, _ = corpus
    lists_QP = nearest_lists(q_QD, centroids_LD, 5)
    assert np.array_equal(lists_QP, np.argsort(-(q_QD @ centroids_LD.T), axis=1)[:, :5])
    assert nearest_lists(q_QD, centroids_LD, 99).shape == (40, LISTS)


@backends
@pytest.mark.parametrize("probes", [1, 3, LISTS, 99])
def test_finds_the_best_of_the_probed_lists(corpus, probes, backend):
    doc_ND, q_QD, _, list_N = corpus
    scores_QK, docs_QK = search(Documents(doc_ND), list_N, probes, corpus, backend=backend)
    for query, expected in enumerate(naive(corpus, probes, K)):
        found = docs_QK[query] >= 0
        pairs = zip(scores_QK[query][found], docs_QK[query][found], strict=True)
        assert list(pairs) == expected
    if probes >= LISTS:
        exact = top_k(q_QD, doc_ND, K)
        assert np.array_equal(docs_QK, exact[1]) and np.array_equal(scores_QK, exact[0])


@backends
@pytest.mark.parametrize("probes", [3, 8, LISTS])
def test_groups_of_documents_are_parts_of_the_same_lists(corpus, probes, backend):
    doc_ND, _, _, list_N = corpus
    whole = search(Documents(doc_ND), list_N, probes, corpus)
    parts = []
    # Of the second group most lists have no document, of the third all but two; the last one is empty.
    for start, stop in ((0, 500), (500, 510), (510, 512), (512, 1200), (1200, 1200)):
        group = Documents(doc_ND[start:stop], start)
        parts.append(search(group, list_N[start:stop], probes, corpus, backend=backend))
    merged = merge_top_k(parts, K)
    assert np.array_equal(merged[0], whole[0]) and np.array_equal(merged[1], whole[1])


@backends
@pytest.mark.parametrize("cuts", [[0, 4000], [0, 1500, 4000], [0, 1000, 2000, 3000, 4000]])
def test_ties_are_cut_by_document_whatever_the_groups(cuts, backend):
    rng = np.random.default_rng(0)
    doc_ND = rng.standard_normal((4000, D)).astype(np.float32)
    doc_ND /= np.linalg.norm(doc_ND, axis=1, keepdims=True)
    same = rng.choice(4000, 300, replace=False)
    doc_ND[same] = doc_ND[same[0]]
    q_QD = doc_ND[same[0]] + 0.3 * rng.standard_normal((40, D)).astype(np.float32)
    centroids_LD = train_centroids(doc_ND, 8, 0)
    parts = []
    for start, stop in pairwise(cuts):
        lists = nearest_lists(doc_ND[start:stop], centroids_LD, 1)[:, 0]
        group = Documents(doc_ND[start:stop], start)
        parts.append(search(group, lists, 8, (doc_ND, q_QD, centroids_LD), 20, backend))
    found, exact = merge_top_k(parts, 20), top_k(q_QD, doc_ND, 20, backend="torch")
    # For most queries some documents come before those 300, and the cut goes through them.
    assert np.isin(exact[1][:, -1], same).mean() > 0.5 > np.isin(exact[1][:, 0], same).mean()
    assert np.array_equal(found[1], exact[1]) and np.array_equal(found[0], exact[0])


@backends
def test_many_queries_are_searched_deeper_in_blocks(corpus, monkeypatch, backend):
    doc_ND, q_QD, centroids_LD, _ = corpus
    doc_ND = doc_ND.copy()
    doc_ND[300:900] = doc_ND[3]
    q_QD = np.concatenate([q_QD, doc_ND[[3] * 9]])
    list_N, lists_QP = nearest_lists(doc_ND, centroids_LD, 1)[:, 0], nearest_lists(q_QD, centroids_LD, 3)
    listed = ListedDocuments(Documents(doc_ND), list_N, backend)
    whole = listed.top_k(lists_QP, q_QD, K)
    monkeypatch.setattr(ivf, "_DEEPER_ROWS", 100)
    monkeypatch.setattr(ivf, "_SCANNED_ROWS", 1500)
    monkeypatch.setattr(ivf, "_SCANNED_VALUES", 5000)
    blocks = listed.top_k(lists_QP, q_QD, K)
    assert np.array_equal(blocks[0], whole[0]) and np.array_equal(blocks[1], whole[1])
    assert whole[1][-1].tolist() == np.flatnonzero((doc_ND == doc_ND[3]).all(axis=1))[:K].tolist()
    assert listed.top_k(lists_QP[:0], q_QD[:0], K)[1].shape == (0, K)


@backends
def test_chunks_count_as_their_document(corpus, backend):
    doc_ND, q_QD, _, list_N = corpus
    row_docs = np.sort(np.random.default_rng(1).integers(0, 200, 1200))
    documents = Documents(doc_ND, row_docs=row_docs)
    found = search(documents, list_N, LISTS, corpus, 150, backend)
    exact = documents.top_k(q_QD, 150)
    assert np.array_equal(found[0], exact[0]) and np.array_equal(found[1], exact[1])


def test_refusals(corpus):
    doc_ND, q_QD, centroids_LD, list_N = corpus
    bad = q_QD.copy()
    bad[0, 0] = np.inf
    listed = ListedDocuments(Documents(doc_ND), list_N)
    lists_QP = nearest_lists(q_QD, centroids_LD, 2)
    for call, message in (
        (lambda: train_centroids(doc_ND[:5], 6, 0), "5 for 6 lists"),
        (lambda: train_centroids(bad, 6, 0), "not finite"),
        (lambda: listed.top_k(lists_QP, bad, 5), "not finite"),
        (lambda: listed.top_k(lists_QP, q_QD[:, :4], 5), "differ in dimension"),
        (lambda: listed.top_k(lists_QP, q_QD, 0), "at least 1"),
    ):
        with pytest.raises(ModelError, match=message):
            call()
