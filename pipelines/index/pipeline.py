"""The index of a release: document embeddings in a faiss file, and the texts that answers show."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.index.config import IndexConfig
from pipelines.model import Model
from pipelines.steps import Step, Work

STAGE_VERSION = 1
SHOWN_COLUMNS = ["doc", "doc_id", "title", "text"]
CHUNKS_COLUMN = "chunks"


def index_step(data: Step, embeddings: Step, model: Model, config: IndexConfig) -> Step:
    """Build the index of the documents of ``data`` as ``model`` embeds them.

    Returns:
        A step whose artifact has the files `index.faiss` and `documents.parquet`, rows in the same order. Where
        documents are chunked the index has a row a chunk, and `documents.parquet` the column `chunks`: how many
        of these rows each document has.
    """
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
    from models.search.index import add_embeddings, build_index, write_index

    data, embeddings = work.inputs["data"], work.inputs["embeddings"]
    truncated = work.step.inputs["embeddings"].identity.get("dimension")
    if truncated is not None:
        raise UserError(
            "the index needs whole embeddings: queries are served with all dimensions of the model",
            where="encode.dimension",
            got=str(truncated),
            fix="set encode.dimension to null",
        )
    chunked = embeddings.num_rows("documents") != data.num_rows("documents")
    num_shards = embeddings.num_shards("documents")
    work.progress.total(num_shards, "shards")
    with TemporaryDirectory(prefix="stope-index-") as folder:
        index_file, documents_file = Path(folder) / "index.faiss", Path(folder) / "documents.parquet"
        dimension = int(embeddings.manifest.summary["dimension"])  # type: ignore[arg-type]
        index = build_index(dimension)
        schema = data.read_shard("documents", 0, columns=SHOWN_COLUMNS).schema.remove_metadata()
        schema = schema.append(pa.field(CHUNKS_COLUMN, pa.int32())) if chunked else schema
        with pq.ParquetWriter(documents_file, schema, compression="zstd") as documents:
            for shard in range(num_shards):
                table = embeddings.read_shard("documents", shard)
                column = table.column("embedding").combine_chunks()
                add_embeddings(index, column.values.to_numpy().reshape(-1, dimension))
                rows = data.read_shard("documents", shard, columns=SHOWN_COLUMNS)
                if chunked:
                    counts = chunk_counts(rows.column("doc").to_numpy(), table.column("id").to_numpy())
                    rows = rows.append_column(CHUNKS_COLUMN, pa.array(counts, pa.int32()))
                documents.write_table(pa.Table.from_batches(rows.to_batches(), schema=schema))
                work.progress.advance()
        write_index(index, index_file)
        for file in (index_file, documents_file):
            work.writer.put_file(file.name, file)
    facts = {"num_documents": data.num_rows("documents"), "kind": config.kind, "dtype": dtype}
    return work.commit({}, facts)


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
