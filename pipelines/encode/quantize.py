"""Float embeddings to int8, uint8 or bits, shard by shard; plain functions on tables and arrays."""

from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact, ArtifactWriter
from models.quantization import merge_ranges, quantize, value_ranges
from pipelines import schemas

RANGES = pa.schema(
    [
        pa.field("component", pa.int32(), nullable=False),
        pa.field("low", pa.float32(), nullable=False),
        pa.field("high", pa.float32(), nullable=False),
    ],
    metadata={b"stope.table": b"ranges", b"stope.version": b"1"},
)
"""The least and the greatest value of each component over all documents: what int8 and uint8 codes are made by."""


def _embeddings(artifact: Artifact, table: str, index: int) -> tuple[pa.ChunkedArray, np.ndarray]:
    shard = artifact.read_shard(table, index)
    column = shard.column("embedding").combine_chunks()
    emb_ND = column.values.to_numpy().reshape(-1, column.type.list_size)
    return shard.column("id"), emb_ND.astype(np.float32)


def ranges_name(writer: ArtifactWriter, index: int) -> str:
    """Return where the ranges of one shard of documents wait to be merged."""
    return f"{writer.key}/scratch/ranges/{index:05d}.npy"


def measure_shard(row: dict[str, Any], writer: ArtifactWriter, embeddings: Artifact) -> dict[str, Any]:
    """Store the ranges of one shard of documents."""
    _, emb_ND = _embeddings(embeddings, "documents", row["index"])
    content = BytesIO()
    np.save(content, value_ranges(emb_ND))
    writer.storage.write(ranges_name(writer, row["index"]), content.getvalue())
    return {"rows": len(emb_ND)}


def write_ranges(writer: ArtifactWriter, indices: list[int]) -> None:
    """Merge the ranges of all shards into the table `ranges`."""
    names = (ranges_name(writer, index) for index in indices)
    low_D, high_D = merge_ranges(np.load(BytesIO(writer.storage.read(name))) for name in names)
    columns = {"component": np.arange(len(low_D)), "low": low_D, "high": high_D}
    writer.write_shard("ranges", 0, schemas.conform(pa.table(columns), RANGES))


def read_ranges(writer: ArtifactWriter) -> np.ndarray:
    """Return the merged ranges, float32 [2, D], of an artifact in the making."""
    table = writer.read_finished(writer.finished("ranges")[0])
    return np.stack([table.column("low").to_numpy(), table.column("high").to_numpy()])


def quantize_shard(
    row: dict[str, Any],
    writer: ArtifactWriter,
    embeddings: Artifact,
    precision: str,
    ranges_2D: np.ndarray | None,
) -> dict[str, Any]:
    """Write one shard of embeddings in ``precision``."""
    ids, emb_ND = _embeddings(embeddings, row["table"], row["index"])
    codes = quantize(emb_ND, precision, ranges_2D)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1])
    schema = schemas.embeddings(emb_ND.shape[1], precision)
    table = schemas.conform(pa.table({"id": ids, "embedding": embedding}), schema)
    shard = writer.write_shard(row["table"], row["index"], table)
    return {"rows": shard.rows}
