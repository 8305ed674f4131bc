"""A guide's embeddings of the texts that a plan uses: they say which in-batch negatives are false."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from cluster.errors import UserError
from models.prompts import Kind
from pipelines.texts import TABLES
from pipelines.train.tokens import TokenStore


def guided(store: TokenStore, guide: Artifact, data: Artifact, kind: Kind) -> TokenStore:
    """Return the store with the guide's embeddings of its texts; see guide_vectors."""
    return replace(store, vectors=guide_vectors(guide, data, kind, store.ordinals))


def guide_vectors(guide: Artifact, data: Artifact, kind: Kind, ordinals: np.ndarray) -> np.ndarray:
    """Return the guide's embeddings of some texts.

    Args:
        guide: An artifact of the stage encode, of ``data``.
        data: An ingest artifact.
        kind: Of the texts.
        ordinals: int64 [n], rising and distinct.

    Returns:
        float16 or float32 [n, E], of unit length.

    Raises:
        UserError: The guide embedded documents in chunks, or did not embed one of the texts.
    """
    table, _ = TABLES[kind]
    parts: list[np.ndarray] = []
    bounds = np.searchsorted(ordinals, data.first_rows(table))
    for index, (low, high) in enumerate(pairwise(bounds.tolist())):
        if low < high:
            shard = guide.read_shard(table, index, ["id", "embedding"])
            ids = shard.column("id").to_numpy()
            _check_rows(guide, kind, ids, ordinals[low:high])
            rows = shard.take(pa.array(np.searchsorted(ids, ordinals[low:high]))).column("embedding")
            values = rows.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            parts.append(values.reshape(high - low, -1))
    return np.concatenate(parts)


def _check_rows(guide: Artifact, kind: Kind, ids: np.ndarray, wanted: np.ndarray) -> None:
    if len(np.unique(ids)) < len(ids):
        raise UserError(
            "a guide needs one embedding a document",
            where=guide.uri,
            got="documents in chunks",
            fix="set encode.chunk to null, or take another guide",
        )
    missing = wanted[~np.isin(wanted, ids)]
    if len(missing):
        raise UserError(
            f"the guide has not embedded a {kind} of the groups",
            where=guide.uri,
            got=f"no embedding of ordinal {missing[0]}",
            fix="embed the split that is mined with the guide",
        )
