"""One shard of texts on its way to a shard of embeddings; plain functions on tables and arrays.

Shapes: N texts of the shard, R of them taken from earlier artifacts, M embeddings, D dimensions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact, ArtifactWriter
from models.chunking import tokenize_chunks
from models.prompts import Kind
from models.tokenization import TextTokenizer, Tokens
from pipelines import schemas
from pipelines.encode.config import ChunkConfig, EncodeConfig
from pipelines.encode.earlier import find_places, take_embeddings, write_keys
from pipelines.keys import hash_keys


def read_and_tokenize(
    row: dict[str, Any],
    data: Artifact,
    splits: tuple[str, ...],
    tokenizer: TextTokenizer,
    config: EncodeConfig,
    earlier: Sequence[Artifact],
) -> dict[str, Any]:
    """Read one shard of texts, queries of ``splits`` only, and tokenise those that nobody has embedded.

    Args:
        row: Which shard: `table`, `index`, `rows`.
        data: The ingest artifact.
        splits: Whose queries are embedded.
        tokenizer: Of the model.
        config: Says how documents are chunked, and the precision.
        earlier: Artifacts whose embeddings are taken, best first.

    Returns:
        Arrays as bytes: the ordinals and keys of all texts, the embeddings found, the tokens of the rest.
    """
    table, index = row["table"], row["index"]
    kind: Kind = "document" if table == "documents" else "query"
    shard = _read_shard(data, table, index, splits)
    texts, prompts = schemas.rendered_texts(shard), tokenizer.prompts
    tasks = shard.column("task").to_pylist() if kind == "query" and prompts.tasks else None
    titles = shard.column("title").to_pylist() if config.chunk is not None and kind == "document" else None
    # A text is embedded once for each prompt that it stands behind.
    prefixes = [f"{prompts.prefix(kind, task)}\0" for task in tasks] if tasks else [""] * len(texts)
    if titles is not None:
        # Every chunk bears the title: the same words are cut otherwise where the title ends elsewhere.
        prefixes = [f"{len(title or '')}\0" for title in titles]
    keys_2N = hash_keys([prefix + text for prefix, text in zip(prefixes, texts, strict=True)], kind)
    counts_N, reused_MD = take_known(earlier, keys_2N, config.float_precision)
    fresh = np.flatnonzero(counts_N == 0)
    fresh_texts = [texts[number] for number in fresh.tolist()]
    if config.chunk is not None and titles is not None:
        fresh_titles = [titles[number] for number in fresh.tolist()]
        tokens, chunks = _chunked(tokenizer, fresh_texts, fresh_titles, config.chunk)
    else:
        fresh_tasks = [tasks[number] for number in fresh.tolist()] if tasks else None
        tokens = tokenizer.tokenize(fresh_texts, kind, fresh_tasks)
        chunks = np.ones(len(fresh), np.int64)
    fresh_N = np.zeros(len(texts), np.int64)
    fresh_N[fresh] = chunks
    return {
        "table": table,
        "index": index,
        "rows_read": row["rows"],
        "ordinals": shard.column("doc" if kind == "document" else "query").to_numpy().tobytes(),
        "keys": keys_2N.tobytes(),
        "reused_counts": counts_N.tobytes(),
        "reused": reused_MD.tobytes(),
        "fresh_counts": fresh_N.tobytes(),
        "ids": tokens.ids.tobytes(),
        "offsets": tokens.offsets.tobytes(),
        "pool_starts": tokens.pool_starts.tobytes(),
    }


def _read_shard(data: Artifact, table: str, index: int, splits: tuple[str, ...]) -> pa.Table:
    if table == "documents":
        return data.read_shard(table, index, columns=["doc", "title", "text"])
    shard = data.read_shard(table, index, columns=["query", "text", "task"])
    qrels = data.read("qrels", columns=["query", "split"])
    wanted = (
        qrels.filter(pc.is_in(qrels.column("split"), pa.array(splits, pa.string()))).column("query").unique()
    )
    return shard.filter(pc.is_in(shard.column("query"), wanted))


def _chunked(
    tokenizer: TextTokenizer, texts: list[str], titles: list[str | None], chunk: ChunkConfig
) -> tuple[Tokens, np.ndarray]:
    return tokenize_chunks(tokenizer, texts, titles, chunk.tokens, chunk.overlap)


def take_known(
    earlier: Sequence[Artifact], keys_2N: np.ndarray, precision: str
) -> tuple[np.ndarray, np.ndarray]:
    """Take the embeddings that earlier artifacts hold.

    Args:
        earlier: The artifacts, best first.
        keys_2N: uint64 [2, N] of the texts.
        precision: Of the embeddings in all of these artifacts.

    Returns:
        How many embeddings each text has, int64 [N], 0 where it is not known; and those embeddings [M, D] in the
        order of the texts.
    """
    num_texts = keys_2N.shape[1]
    counts_N = np.zeros(num_texts, np.int64)
    parts: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for artifact in earlier:
        unknown = np.flatnonzero(counts_N == 0)
        rows_F, codes_F = find_places(artifact, keys_2N[:, unknown])
        read_R, sizes_R, emb_MD = take_embeddings(artifact, codes_F)
        if len(read_R):
            texts_R = unknown[rows_F[read_R]]
            counts_N[texts_R] = sizes_R
            owners.append(np.repeat(texts_R, sizes_R))
            parts.append(emb_MD)
    if not parts:
        return counts_N, np.zeros((0, 0), precision)
    order = np.argsort(np.concatenate(owners), kind="stable")
    return counts_N, np.concatenate(parts)[order]


def write_shard(row: dict[str, Any], writer: ArtifactWriter, precision: str) -> dict[str, Any]:
    """Put the embeddings taken and made in the order of the texts, write keys and shard, return the receipt."""
    dimension = row["dimension"]
    ordinals_N = np.frombuffer(row["ordinals"], np.int64)
    reused_N, fresh_N = (np.frombuffer(row[name], np.int64) for name in ("reused_counts", "fresh_counts"))
    counts_N = reused_N + fresh_N
    emb_MD = np.empty((int(counts_N.sum()), dimension), precision)
    is_reused_M = np.repeat(reused_N > 0, counts_N)
    emb_MD[is_reused_M] = np.frombuffer(row["reused"], precision).reshape(-1, dimension)
    emb_MD[~is_reused_M] = np.frombuffer(row["embeddings"], precision).reshape(-1, dimension)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(emb_MD.reshape(-1)), dimension)
    table = pa.table({"id": np.repeat(ordinals_N, counts_N), "embedding": embedding})
    counters = {
        "tokens": row["tokens"],
        "embedded": int((fresh_N > 0).sum()),
        "reused": int((reused_N > 0).sum()),
    }
    keys_2N = np.frombuffer(row["keys"], np.uint64).reshape(2, -1)
    write_keys(writer, row["table"], row["index"], keys_2N, counts_N)
    shard = writer.write_shard(
        row["table"],
        row["index"],
        schemas.conform(table, schemas.embeddings(dimension, precision)),
        counters=counters,
        seconds=row["seconds"],
    )
    return {"rows": shard.rows, "rows_read": row["rows_read"], "reused": counters["reused"]}
