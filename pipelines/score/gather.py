"""Pairs with their texts, sorted out by bucket: no task reads more of the corpus than its own shards.

Shapes: N pairs, U unique documents or queries.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact, ArtifactWriter, Shard
from models.reranking.rendering import Rendering
from pipelines import schemas
from pipelines.score.keys import buckets, from_arrow, pair_keys, text_keys, to_arrow
from pipelines.score.layout import Layout
from pipelines.score.tables import ASKED, JOINED


@dataclass(frozen=True)
class Gathering:
    """What the tasks that gather pairs have in common.

    Args:
        writer: Where the pieces go.
        data: The ingest artifact.
        over: The artifact whose candidates are scored.
        rendering: Says where texts are cut.
        layout: The portions.
        depth: Candidates of each query.
    """

    writer: ArtifactWriter
    data: Artifact
    over: Artifact
    rendering: Rendering
    layout: Layout
    depth: int


def kept_candidates(candidates: pa.Table, depth: int) -> pa.Table:
    """Return the first ``depth`` candidates of each query, and all its positives."""
    rank = candidates.column("rank").to_numpy()
    positive = candidates.column("is_positive").to_numpy(zero_copy_only=False)
    return candidates.filter(pa.array(((rank > 0) & (rank <= depth)) | positive))


def ask(work: Gathering, index: int) -> int:
    """Read one range of candidate shards and write its pairs, with their queries, by group of documents.

    Returns:
        How many pairs there are.
    """
    tables = [
        kept_candidates(work.over.read_shard("candidates", shard), work.depth).select(["query", "doc"])
        for shard in range(*work.layout.ranges[index])
    ]
    pairs = pa.concat_tables(tables)
    query, doc = (pairs.column(name).to_numpy() for name in ("query", "doc"))
    unique, code_N = np.unique(query, return_inverse=True)
    texts = [work.rendering.cut_query(text) for text in _texts(work.data, "queries", unique)]
    keys = text_keys(texts)
    starts = work.data.first_rows("documents")
    for group, (first, stop) in enumerate(work.layout.groups):
        rows = np.flatnonzero((doc >= starts[first]) & (doc < starts[stop]))
        columns = {
            "query": query[rows],
            "doc": doc[rows],
            "query_key": to_arrow(keys[code_N[rows]]),
            "query_text": _once(texts, code_N[rows]),
        }
        table = schemas.conform(pa.table(columns), ASKED)
        work.writer.write_shard("asked", work.layout.asked(index, group), table)
    return len(doc)


def join(work: Gathering, group: int, pieces: list[Shard]) -> int:
    """Join one group's documents to the pairs that ask for them, and write them by range of buckets.

    Returns:
        How many pairs there are.
    """
    asked = pa.concat_tables([work.writer.read_finished(piece) for piece in pieces])
    query, doc = (asked.column(name).to_numpy() for name in ("query", "doc"))
    query_keys, query_code_N, query_texts = _with_texts(asked, from_arrow(asked.column("query_key")))
    unique, code_N = np.unique(doc, return_inverse=True)
    shards = range(*work.layout.groups[group])
    texts = [work.rendering.cut_document(text) for text in _texts(work.data, "documents", unique, shards)]
    document_keys = text_keys(texts)
    pair_N = pair_keys(document_keys[code_N], query_keys[query_code_N])
    tokens_N = _tokens(texts, work.rendering.max_document_tokens)[code_N]
    tokens_N += _tokens(query_texts, work.rendering.max_query_tokens)[query_code_N]
    tokens_N += len(work.rendering.template) // 4 + 4
    partition_N = work.layout.partitions(buckets(pair_N))
    for partition in range(work.layout.num_partitions):
        rows = np.flatnonzero(partition_N == partition)
        columns = {
            "query": query[rows],
            "doc": doc[rows],
            "pair": to_arrow(pair_N[rows]),
            "query_text": _once(query_texts, query_code_N[rows]),
            "document_text": _once(texts, code_N[rows]),
        }
        table = schemas.conform(pa.table(columns), JOINED)
        counters = {"tokens": int(tokens_N[rows].sum())}
        work.writer.write_shard("joined", work.layout.joined(group, partition), table, counters=counters)
    return len(doc)


def _with_texts(asked: pa.Table, key_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the unique query keys, ``S16`` [U], the code of each row, int64 [N], and the U texts."""
    keys, code_N = np.unique(key_N, return_inverse=True)
    text_N = asked.column("query_text").combine_chunks()
    told = np.flatnonzero(text_N.is_valid().to_numpy(zero_copy_only=False))
    first_U = np.zeros(len(keys), np.int64)
    first_U[code_N[told]] = told
    return keys, code_N, text_N.take(pa.array(first_U)).to_pylist()


def _once(texts: list[str], code_N: np.ndarray) -> pa.Array:
    """Return a column that holds each row's text where it occurs first, else null."""
    column = np.full(len(code_N), None, dtype=object)
    codes, first = np.unique(code_N, return_index=True)
    column[first] = [texts[code] for code in codes.tolist()]
    return pa.array(column, pa.string())


def _tokens(texts: list[str], most: int) -> np.ndarray:
    """Return the estimated tokens of each text, int64 [U]: a quarter of its bytes, as ingest estimates."""
    sizes = np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))
    return np.minimum(sizes // 4 + 1, most)


def _texts(data: Artifact, table: str, ordinals: np.ndarray, shards: range | None = None) -> list[str]:
    """Return the texts of ordinals, ascending and unique, reading the shards that hold one, one at a time."""
    starts = data.first_rows(table)
    columns = ["title", "text"] if table == "documents" else ["text"]
    texts: list[str] = []
    for shard in range(data.num_shards(table)) if shards is None else shards:
        begin, end = np.searchsorted(ordinals, starts[shard : shard + 2])
        if begin < end:
            rows = pa.array(ordinals[begin:end] - starts[shard])
            texts += schemas.rendered_texts(data.read_shard(table, shard, columns=columns).take(rows))
    assert len(texts) == len(ordinals), f"{table} ordinals are not dense"
    return texts
