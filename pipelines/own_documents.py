"""Queries that are documents themselves, as in ArguAna and Quora: their own document is no answer.

Shapes: Q queries, P pairs.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.artifacts import Artifact


def own_documents(data: Artifact, queries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the pairs of a query and the document of the same id that labels do not call relevant.

    Evaluations of BEIR leave such a document out of a ranking. The ids of all documents are read, a shard at a time.

    Args:
        data: Ingest artifact.
        queries: int64 [Q], ordinals.

    Returns:
        int64 [P, 2], query and document.
    """
    wanted = np.unique(queries)
    parts = [
        data.read_shard("queries", shard, ["query", "query_id"])
        for shard in range(data.num_shards("queries"))
    ]
    asked = pa.concat_tables(parts)
    asked = asked.filter(pc.is_in(asked.column("query"), value_set=pa.array(wanted)))
    ids = asked.column("query_id").combine_chunks()
    found = [np.zeros((0, 2), np.int64)]
    for shard in range(data.num_shards("documents")):
        table = data.read_shard("documents", shard, ["doc", "doc_id"])
        place = pc.index_in(table.column("doc_id"), value_set=ids)
        own = table.append_column("place", place).filter(pc.is_valid(place))
        query = asked.column("query").take(own.column("place"))
        found.append(np.stack([query.to_numpy(), own.column("doc").to_numpy()], axis=1))
    qrels = data.read("qrels", ["query", "doc", "relevance"])
    judged = qrels.filter(pc.greater(qrels.column("relevance"), 0))
    return without(np.concatenate(found), *(judged.column(name).to_numpy() for name in ("query", "doc")))


def without(
    pairs_P2: NDArray[np.int64], query: NDArray[np.int64], doc: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the pairs (query, document) that are not among those of ``query`` and ``doc``."""
    width = 1 + int(max(pairs_P2[:, 1].max(initial=0), doc.max(initial=0)))
    return pairs_P2[~np.isin(pairs_P2[:, 0] * width + pairs_P2[:, 1], query * width + doc)]
