import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from models.search.exact import Documents
from serve.retrieval import DocumentTable


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
