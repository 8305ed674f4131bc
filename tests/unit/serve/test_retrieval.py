import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from models.errors import ModelError
from models.prompts import Prompts
from models.release import EmbeddingsEntry, IndexEntry, ReleaseManifest, RescoreEntry
from models.search.exact import Documents
from models.search.index import build_index, write_index
from serve.retrieval import DocumentTable, Retrieval


def write(folder, count, chunks=None):
    columns = {
        "doc_id": [f"d{n}" for n in range(count)],
        "title": pa.array([None] * count, pa.string()),
        "text": [f"text {n}" for n in range(count)],
    }
    if chunks is not None:
        columns["chunks"] = pa.array(chunks, pa.int32())
    path = folder / "documents.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_chunked_document_is_found_once_by_its_best_chunk(tmp_path):
    generator = np.random.default_rng(0)
    chunks = generator.integers(1, 6, 30)
    table = DocumentTable(write(tmp_path, 30, chunks), int(chunks.sum()))
    doc_ND = generator.standard_normal((int(chunks.sum()), 8)).astype(np.float32)
    q_QD = generator.standard_normal((5, 8)).astype(np.float32)
    index = Documents(doc_ND, row_docs=table.row_docs)
    scores_QK, docs_QK = index.top_k(q_QD, 30)
    for query, docs_K, scores_K in zip(q_QD, docs_QK, scores_QK, strict=True):
        best, row = {}, 0
        for document, count in enumerate(chunks):
            best[f"d{document}"] = max(float(query @ doc_ND[row + n]) for n in range(count))
            row += count
        results = table.results(docs_K, scores_K)
        assert [result.doc_id for result in results] == sorted(best, key=lambda name: -best[name])
        for result in results:
            assert result.score == pytest.approx(best[result.doc_id], abs=1e-5)


def test_without_chunks_row_and_document_are_one(tmp_path):
    table = DocumentTable(write(tmp_path, 3), 3)
    assert table.row_docs is None
    found = table.results(np.array([2, 0, -1]), np.array([0.5, 0.25, -np.inf], np.float32))
    assert [(result.doc_id, result.text, result.score) for result in found] == [
        ("d2", "text 2", 0.5),
        ("d0", "text 0", 0.25),
    ]


@pytest.mark.parametrize(("chunks", "num_rows"), [(None, 4), ([1, 2, 1], 3)])
def test_an_index_of_another_length_is_refused(tmp_path, chunks, num_rows):
    with pytest.raises(UserError, match="documents and index differ in length"):
        DocumentTable(write(tmp_path, 3, chunks), num_rows)


def release_of(
    folder, doc_ND, kind="flat", dimension=None, multiplier=None, keeps_embeddings=True, **documents
):
    """Lay out index and documents and return the manifest that describes them."""
    write(folder, **documents)
    write_index(build_index(doc_ND, kind, dimension), folder / "index.faiss")
    np.save(folder / "embeddings.npy", doc_ND)
    whole = EmbeddingsEntry(path="embeddings.npy", sha256="0") if keeps_embeddings else None
    rescore = RescoreEntry(multiplier=multiplier, embeddings=whole, recall=None) if multiplier else None
    index = IndexEntry(
        path="index.faiss", sha256="0", model_digest="0", num_documents=documents["count"], kind=kind,
        dimension=dimension, rescore=rescore,
    )  # fmt: skip
    return ReleaseManifest(
        name="r", created_at="2026-01-01T00:00:00Z", model_digest="0", tokenizer_digest="0", pooling="mean",
        prompts=Prompts(), dimension=doc_ND.shape[1], dtype="float32", max_query_tokens=9, max_document_tokens=9,
        index=index,
    )  # fmt: skip


def unit_rows(count, dimension, seed=0):
    x_ND = np.random.default_rng(seed).standard_normal((count, dimension))
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize(
    ("kind", "dimension"), [("binary", None), ("int8", None), ("flat", 6), ("binary", 6)]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_release_of_codes_answers_with_the_scores_of_the_exact_one(tmp_path, kind, dimension, chunked):
    chunks = np.random.default_rng(1).integers(1, 4, 20) if chunked else None
    documents = {"count": 20, "chunks": chunks}
    doc_ND = unit_rows(int(chunks.sum()) if chunked else 20, 16)
    q_QD = unit_rows(6, 16, seed=2).astype(np.float32)
    manifest = release_of(tmp_path, doc_ND, **documents)
    exact = Retrieval(manifest, tmp_path, "cpu").find(q_QD, 20)
    manifest = release_of(tmp_path, doc_ND, kind, dimension, multiplier=1, **documents)
    retrieval = Retrieval(ReleaseManifest.model_validate_json(manifest.model_dump_json()), tmp_path, "cpu")
    assert [[result.model_dump() for result in results] for results in retrieval.find(q_QD, 99)] == [
        [result.model_dump() for result in results] for results in exact
    ]
    for results, expected in zip(retrieval.find(q_QD, 4), exact, strict=True):
        scores = {result.doc_id: result.score for result in expected}
        assert [result.score for result in results] == sorted((r.score for r in results), reverse=True)
        assert len(results) == 4 and (chunked or all(r.score == scores[r.doc_id] for r in results))


def test_without_embeddings_the_codes_are_scored(tmp_path):
    doc_ND = unit_rows(40, 16)
    manifest = release_of(tmp_path, doc_ND, "binary", multiplier=40, keeps_embeddings=False, count=40)
    (tmp_path / "embeddings.npy").unlink()
    query = unit_rows(1, 16, seed=3).astype(np.float32)
    (results,) = Retrieval(manifest, tmp_path, "cpu").find(query, 5)
    scores = {f"d{row}": float(query[0] @ np.where(doc > 0, 0.25, -0.25)) for row, doc in enumerate(doc_ND)}
    best = sorted(scores, key=lambda name: -scores[name])[:5]
    assert [result.score for result in results] == pytest.approx([scores[name] for name in best], abs=1e-6)


def test_an_index_of_another_kind_than_the_manifest_says_is_refused(tmp_path):
    doc_ND = unit_rows(10, 16)
    manifest = release_of(tmp_path, doc_ND, "int8", multiplier=4, count=10)
    write_index(build_index(doc_ND), tmp_path / "index.faiss")
    with pytest.raises(ModelError, match=r"another index(.|\n)*IndexScalarQuantizer"):
        Retrieval(manifest, tmp_path, "cpu")
