import faiss
import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from models.errors import ModelError
from models.quantization import quantize, truncate, value_ranges
from models.search import index as files
from models.search import rescored
from models.search.exact import Documents, top_k
from models.search.index import BUILDERS, build_index, read_codes, read_index, write_index
from models.search.rescored import RescoredDocuments

N, D = 500, 44
KINDS = [("flat", 16), ("int8", None), ("int8", 16), ("binary", None), ("binary", 20)]


@pytest.fixture(scope="module")
def embeddings():
    """500 documents near a common direction, some of them copies, as float16; and 25 queries."""
    rng = np.random.default_rng(0)
    doc_ND = rng.standard_normal((N, D)) + 0.5 * rng.standard_normal(D)
    doc_ND[100:140] = doc_ND[7]
    doc_ND[490:] = doc_ND[9]
    doc_ND = (doc_ND / np.linalg.norm(doc_ND, axis=1, keepdims=True)).astype(np.float16)
    q_QD = doc_ND[rng.integers(0, N, 25)] + 0.1 * rng.standard_normal((25, D)).astype(np.float32)
    q_QD[:2] = doc_ND[[7, 9]]
    return q_QD.astype(np.float32), doc_ND


@pytest.fixture
def searcher(embeddings, tmp_path, monkeypatch):
    """Build, write and read an index, in blocks that do not divide the documents."""
    monkeypatch.setattr(files, "_BLOCK_ROWS", 77)
    monkeypatch.setattr(rescored, "_BLOCK_VALUES", 1000)

    def make(kind, dimension, multiplier, keeps_embeddings=True, row_docs=None):
        _, doc_ND = embeddings
        np.save(tmp_path / "embeddings.npy", doc_ND)
        mapped_ND = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
        write_index(build_index(mapped_ND, kind, dimension), tmp_path / "index.faiss")
        codes = read_codes(tmp_path / "index.faiss", kind, dimension or D)
        return RescoredDocuments(codes, D, multiplier, mapped_ND if keeps_embeddings else None, row_docs)

    return make


def held(x_ND, dimension):
    return x_ND.astype(np.float32) if dimension is None else truncate(x_ND, dimension)


def decoded_one_by_one(doc_Nd, kind):
    """What the codes stand for, by the definition of each kind, a component at a time."""
    out_Nd = np.zeros(doc_Nd.shape)
    for component, column in enumerate(doc_Nd.T.astype(np.float32)):
        if kind == "flat":
            out_Nd[:, component] = column
        elif kind == "binary":
            out_Nd[:, component] = [(1 if value > 0 else -1) / doc_Nd.shape[1] ** 0.5 for value in column]
        else:
            low, step = column.min(), (column.max() - column.min()) / np.float32(255)
            # The middle of the step that the value lies in.
            out_Nd[:, component] = [
                low + (min(255, int((value - low) / step)) + 0.5) * step for value in column
            ]
    return out_Nd


@pytest.mark.parametrize(("kind", "dimension"), KINDS)
@pytest.mark.parametrize("k", [1, 12, 60])
def test_equal_to_exact_search_where_all_are_candidates_ties_included(
    embeddings, searcher, kind, dimension, k
):
    q_QD, doc_ND = embeddings
    scores_QK, docs_QK = searcher(kind, dimension, N).top_k(q_QD, k)
    expected = top_k(q_QD, doc_ND, k)
    assert np.array_equal(docs_QK, expected[1]) and np.array_equal(scores_QK, expected[0])


def test_bits_are_compared_by_hamming_distance_and_equal_ones_by_row(embeddings, searcher):
    q_QD, doc_ND = embeddings
    rows_QK = searcher("binary", None, 1).codes.nearest(q_QD, 30)
    bits_ND = (doc_ND > 0).tolist()
    for query, rows in zip((q_QD > 0).tolist(), rows_QK, strict=True):
        distances = [sum(a != b for a, b in zip(query, doc, strict=True)) for doc in bits_ND]
        assert rows.tolist() == sorted(range(N), key=lambda row: (distances[row], row))[:30]


@pytest.mark.parametrize(("kind", "dimension"), [("flat", 16), ("int8", None), ("int8", 16)])
def test_bytes_and_parts_are_multiplied_with_the_query(embeddings, searcher, kind, dimension):
    q_QD, doc_ND = embeddings
    q_Qd, codes = held(q_QD, dimension), searcher(kind, dimension, 1).codes
    scores_QN = q_Qd.astype(np.float64) @ decoded_one_by_one(held(doc_ND, dimension), kind).T
    rows_QK = codes.nearest(q_Qd, 30)
    for scores, rows in zip(scores_QN, rows_QK, strict=True):
        assert len(set(rows.tolist())) == 30
        np.testing.assert_allclose(scores[rows], np.sort(scores)[::-1][:30], atol=2e-6)


@pytest.mark.parametrize("multiplier", [1, 4])
def test_bits_scored_again_as_bits_are_the_search_of_sentence_transformers(embeddings, searcher, multiplier):
    q_QD, doc_ND = embeddings
    scores_QK, _ = searcher("binary", None, multiplier, keeps_embeddings=False).top_k(q_QD, 9)
    codes = quantize_embeddings(doc_ND.astype(np.float32), "ubinary")
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    found, _ = semantic_search_faiss(
        q_QD, corpus_index=index, corpus_precision="ubinary", top_k=9, rescore_multiplier=multiplier
    )
    # It multiplies with bits that are 0 or 1, not -1 or 1 at unit length: the order is the same.
    expected = [[hit["score"] for hit in hits] for hits in found]
    sums_Q1 = q_QD.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores_QK, (2 * np.array(expected) - sums_Q1) / D**0.5, atol=2e-6)


@pytest.mark.parametrize(("kind", "dimension"), KINDS)
def test_codes_are_those_of_quantisation_and_decode_to_what_they_stand_for(
    embeddings, searcher, kind, dimension
):
    _, doc_ND = embeddings
    codes, rows = searcher(kind, dimension, 1).codes, np.array([3, 3, 0, 499, 77, 76])
    doc_Nd = held(doc_ND, dimension)
    np.testing.assert_allclose(codes.decoded(rows), decoded_one_by_one(doc_Nd, kind)[rows], atol=2e-6)
    size = {"flat": 4 * 16, "int8": dimension or D, "binary": -(-(dimension or D) // 8)}[kind]
    assert codes.num_bytes == N * size
    if kind == "int8":
        step_d = np.diff(value_ranges(doc_Nd), axis=0)[0] / 255
        numbers_Nd = (codes.decoded(np.arange(N)) - doc_Nd.min(axis=0)) / step_d - 0.5
        np.testing.assert_array_equal(numbers_Nd.round(), quantize(doc_Nd, "uint8", value_ranges(doc_Nd)))


@pytest.mark.parametrize(("kind", "dimension"), KINDS)
@pytest.mark.parametrize("keeps_embeddings", [True, False])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_candidates_are_scored_again_and_the_best_returned(
    embeddings, searcher, kind, dimension, keeps_embeddings, multiplier
):
    q_QD, doc_ND = embeddings
    documents = searcher(kind, dimension, multiplier, keeps_embeddings)
    scores_QK, docs_QK = documents.top_k(q_QD, 8)
    q_Qd, doc_Nd = held(q_QD, dimension), held(doc_ND, dimension)
    whole_QN = q_QD.astype(np.float64) @ doc_ND.T.astype(np.float64)
    coded_QN = q_Qd.astype(np.float64) @ decoded_one_by_one(doc_Nd, kind).T
    rows_QK = documents.codes.nearest(q_Qd, 8 * multiplier)
    for query, scores_N in enumerate(whole_QN if keeps_embeddings else coded_QN):
        best = np.sort(scores_N[rows_QK[query]])[::-1][:8]
        np.testing.assert_allclose(scores_QK[query], best, atol=2e-6)
        np.testing.assert_allclose(scores_N[docs_QK[query]], best, atol=2e-6)
        ties = [tuple(pair) for pair in zip(-scores_QK[query], docs_QK[query], strict=True)]
        assert ties == sorted(ties) and len(set(docs_QK[query].tolist())) == 8


def test_more_candidates_find_more_of_what_exact_search_finds(embeddings, searcher):
    q_QD, doc_ND = embeddings
    truth = top_k(q_QD, doc_ND, 10)[1]
    found = [searcher("binary", None, multiplier).top_k(q_QD, 10)[1] for multiplier in (1, 4, 16)]
    shares = [np.mean([np.isin(t, f).mean() for t, f in zip(truth, docs, strict=True)]) for docs in found]
    assert shares[0] < shares[1] < shares[2] and shares[2] > 0.9


@pytest.mark.parametrize("chunks", ["even", "one long"])
@pytest.mark.parametrize("k", [1, 9, 120])
def test_chunks_count_as_their_document(embeddings, searcher, chunks, k):
    q_QD, doc_ND = embeddings
    rng = np.random.default_rng(1)
    row_docs = np.sort(rng.integers(0, 150, N))
    if chunks == "one long":
        row_docs = np.sort(np.where(rng.random(N) < 0.7, 20, row_docs))
    exact = Documents(doc_ND, row_docs=row_docs).top_k(q_QD, k)
    whole = searcher("binary", None, N, row_docs=row_docs).top_k(q_QD, k)
    assert np.array_equal(whole[0], exact[0]) and np.array_equal(whole[1], exact[1])
    _, docs_QK = searcher("binary", None, 1, row_docs=row_docs).top_k(q_QD, k)
    num_documents = len(np.unique(row_docs))
    for docs in docs_QK:
        found = docs[docs >= 0].tolist()
        assert len(found) == len(set(found)) == min(k, num_documents), "as many as there are, each once"


@pytest.mark.parametrize(("kind", "dimension"), KINDS)
def test_more_asked_than_there_is(embeddings, searcher, kind, dimension):
    q_QD, _ = embeddings
    scores_QK, docs_QK = searcher(kind, dimension, 2).top_k(q_QD[:3], N + 4)
    assert (docs_QK[:, N:] == -1).all() and np.isneginf(scores_QK[:, N:]).all()
    assert np.array_equal(np.sort(docs_QK[:, :N]), np.tile(np.arange(N), (3, 1)))
    assert searcher(kind, dimension, 2).top_k(q_QD[:0], 5)[1].shape == (0, 5)


def test_an_index_of_whole_embeddings_is_searched_exactly(embeddings, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK_ROWS", 77)
    q_QD, doc_ND = embeddings
    write_index(build_index(doc_ND), tmp_path / "index.faiss")
    documents = read_index(tmp_path / "index.faiss")
    expected = top_k(q_QD, doc_ND, 20)
    assert len(documents) == N
    for found, wanted in zip(documents.top_k(q_QD, 20), expected, strict=True):
        assert np.array_equal(found, wanted)


def test_refusals(embeddings, searcher, tmp_path):
    q_QD, doc_ND = embeddings
    bad = doc_ND.astype(np.float32)
    bad[300, 2] = np.nan
    documents = searcher("binary", None, 4)
    path = tmp_path / "index.faiss"
    for call, message in (
        (lambda: documents.top_k(q_QD, 0), "at least 1"),
        (lambda: documents.top_k(q_QD[:, :8], 3), "differ in dimension"),
        (lambda: documents.top_k(bad[298:303], 3), "row 2: queries hold values that are not finite"),
        (lambda: build_index(doc_ND, "int4"), f"unknown kind of index(.|\n)*{', '.join(BUILDERS)}"),
        (lambda: build_index(doc_ND, "binary", D + 1), f"1 to {D}"),
        *((lambda kind=kind: build_index(bad, kind), "row 300: documents hold") for kind in BUILDERS),
        (lambda: read_codes(path, "binary", 16), "another dimension"),
        (lambda: read_codes(path, "flat", D), "cannot read"),
        (lambda: read_index(tmp_path / "other.faiss"), "no such index file"),
    ):
        with pytest.raises(ModelError, match=message):
            call()
    faiss.write_index(faiss.IndexFlatL2(4), str(path))
    for call in (lambda: read_index(path), lambda: read_codes(path, "int8", 4)):
        with pytest.raises(ModelError, match="the file holds another index"):
            call()
