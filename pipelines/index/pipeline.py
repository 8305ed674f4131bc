"""The index of a release: document embeddings in a faiss file, and the texts that answers show."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.index.config import IndexConfig
from pipelines.index.recall import Recall, read_embeddings
from pipelines.model import Model
from pipelines.steps import Step, Work

if TYPE_CHECKING:
    from models.search.rescored import FaissIndex

STAGE_VERSION = 2
INDEX_FILE, EMBEDDINGS_FILE, DOCUMENTS_FILE = "index.faiss", "embeddings.npy", "documents.parquet"
SHOWN_COLUMNS = ["doc", "doc_id", "title", "text"]
CHUNKS_COLUMN = "chunks"


def index_step(data: Step, embeddings: Step, model: Model, config: IndexConfig) -> Step:
    """Build the index of the documents of ``data`` as ``model`` embeds them.

    Returns:
        A step whose artifact has the files `index.faiss` and `documents.parquet`, rows in the same order, and
        `embeddings.npy`, rows in the order of the index, where candidates are scored with whole embeddings. Where
        documents are chunked the index has a row a chunk, and `documents.parquet` the column `chunks`: how many
        of these rows each document has.

    Raises:
        UserError: The model has fewer dimensions than the index is to hold.
    """
    model.check_dimension(config.dimension, "index.dimension")
    return Step(
        stage="index",
        label=embeddings.label,
        stage_version=STAGE_VERSION,
        identity={"model": model.identity, **config.model_dump(mode="json")},
        libraries=("faiss-cpu", "faiss-gpu"),
        inputs={"data": data, "embeddings": embeddings},
        run=partial(_run, dtype=model.dtype, config=config),
    )


def _run(work: Work, dtype: str, config: IndexConfig) -> Artifact:
    from models.search.index import build_index, write_index

    data, embeddings = work.inputs["data"], work.inputs["embeddings"]
    truncated = work.step.inputs["embeddings"].identity.get("dimension")
    if truncated is not None:
        raise UserError(
            "the index needs whole embeddings: queries are served with all dimensions of the model",
            where="encode.dimension",
            got=str(truncated),
            fix="set encode.dimension to null, and index.dimension to what memory is to hold",
        )
    recall = None if config.is_exact else Recall(embeddings, config.recall_sample)
    with TemporaryDirectory(prefix="stope-index-") as name:
        folder = Path(name)
        row_docs = _gather(work, folder, recall)
        emb_ND = np.load(folder / EMBEDDINGS_FILE, mmap_mode="r")
        index = build_index(emb_ND, config.kind, config.dimension)
        write_index(index, folder / INDEX_FILE)
        facts: dict[str, object] = {"exact_bytes": 4 * emb_ND.size, "num_bytes": 4 * emb_ND.size}
        files = [INDEX_FILE, DOCUMENTS_FILE]
        if recall is not None:
            facts |= _rescore_facts(index, emb_ND, row_docs, recall, config)
            files += [EMBEDDINGS_FILE] if config.rescore_with == "embeddings" else []
        for file in files:
            work.writer.put_file(file, folder / file)
    facts |= {"num_documents": data.num_rows("documents"), "dtype": dtype}
    return work.commit({}, {**facts, "kind": config.kind, "dimension": config.dimension})


def _rescore_facts(
    index: "FaissIndex", emb_ND: np.ndarray, row_docs: np.ndarray | None, recall: Recall, config: IndexConfig
) -> dict[str, object]:
    """Return the bytes of the codes, how their candidates are scored, and what they find of the sample."""
    from models.search.rescored import Codes, RescoredDocuments

    dimension = emb_ND.shape[1]
    codes = Codes(index, config.dimension or dimension)
    scored_with = emb_ND if config.rescore_with == "embeddings" else None
    documents = RescoredDocuments(codes, dimension, config.rescore_multiplier, scored_with, row_docs)
    rescore = {"multiplier": config.rescore_multiplier, "recall": recall.of(documents)}
    return {"num_bytes": codes.num_bytes, "rescore": rescore}


def _gather(work: Work, folder: Path, recall: Recall | None) -> np.ndarray | None:
    """Write embeddings and texts into ``folder``, shard by shard, and search the sample of ``recall`` meanwhile.

    Returns:
        Where documents are chunked, the document of each row of the embeddings, int64; else None.
    """
    data, embeddings = work.inputs["data"], work.inputs["embeddings"]
    first_rows = embeddings.first_rows("documents")
    chunked = int(first_rows[-1]) != data.num_rows("documents")
    work.progress.total(len(first_rows) - 1, "shards")
    summary = embeddings.manifest.summary
    shape = (int(first_rows[-1]), int(summary["dimension"]))  # type: ignore[arg-type]
    emb_ND = np.lib.format.open_memmap(
        folder / EMBEDDINGS_FILE, mode="w+", dtype=np.dtype(str(summary["precision"])), shape=shape
    )
    schema = data.read_shard("documents", 0, columns=SHOWN_COLUMNS).schema.remove_metadata()
    schema = schema.append(pa.field(CHUNKS_COLUMN, pa.int32())) if chunked else schema
    row_docs = []
    with pq.ParquetWriter(folder / DOCUMENTS_FILE, schema, compression="zstd") as documents:
        for shard, first in enumerate(first_rows[:-1].tolist()):
            ids_M, emb_MD = read_embeddings(embeddings, "documents", shard)
            emb_ND[first : first + len(ids_M)] = emb_MD
            rows = data.read_shard("documents", shard, columns=SHOWN_COLUMNS)
            if chunked:
                counts = chunk_counts(rows.column("doc").to_numpy(), ids_M)
                rows = rows.append_column(CHUNKS_COLUMN, pa.array(counts, pa.int32()))
                row_docs.append(ids_M)
            documents.write_table(pa.Table.from_batches(rows.to_batches(), schema=schema))
            if recall is not None:
                recall.add(ids_M, emb_MD)
            work.progress.advance()
    emb_ND.flush()
    return np.concatenate(row_docs) if chunked else None


def chunk_counts(docs_N: np.ndarray, ids_M: np.ndarray) -> np.ndarray:
    """Return int64 [N]: how many embeddings each document has.

    Args:
        docs_N: int64, ordinals of the documents of a shard, ascending.
        ids_M: int64, the document of each embedding, ascending.

    Raises:
        UserError: A document has no embedding, or an embedding no document.
    """
    owners, counts = np.unique(ids_M, return_counts=True)
    if not np.array_equal(owners, docs_N):
        raise UserError(
            "embeddings are not those of these documents",
            got=f"embeddings of {len(owners)} documents",
            expected=f"of {len(docs_N)}, in the same order",
            fix="run the encode stage again",
        )
    return counts
