"""Unique texts, tokenised once and memory-mapped by every worker of a node."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from cluster.errors import UserError
from models.prompts import Kind
from models.tokenization import TextTokenizer, Tokens, concatenate
from pipelines import schemas

TABLES: dict[Kind, tuple[str, str]] = {"query": ("queries", "query"), "document": ("documents", "doc")}
"""Kind of text -> its table in an ingest artifact and the column of its ordinal."""


@dataclass(frozen=True)
class TokenStore:
    """The tokens of some texts, found by ordinal.

    Args:
        ordinals: int64 [N], rising.
        tokens: Of the N texts.
        vectors: A guide's embeddings [N, E] of the texts; None where there is no guide.
    """

    ordinals: np.ndarray
    tokens: Tokens
    vectors: np.ndarray | None = None

    def rows(self, ordinals: np.ndarray) -> np.ndarray:
        """Return the rows (int64) of ``ordinals``, all of which must be here."""
        rows = np.searchsorted(self.ordinals, ordinals)
        assert np.array_equal(self.ordinals[rows], ordinals)
        return rows

    def save(self, directory: Path) -> None:
        """Write four .npy files, and a fifth where there is a guide."""
        directory.mkdir(parents=True)
        for name in ("ids", "offsets", "pool_starts"):
            np.save(directory / f"{name}.npy", getattr(self.tokens, name))
        np.save(directory / "ordinals.npy", self.ordinals)
        if self.vectors is not None:
            np.save(directory / "vectors.npy", self.vectors)

    @classmethod
    def load(cls, directory: Path) -> "TokenStore":
        """Map the files into memory."""
        arrays = {
            name: np.load(directory / f"{name}.npy", mmap_mode="r")
            for name in ("ids", "offsets", "pool_starts", "ordinals")
        }
        guided = (directory / "vectors.npy").is_file()
        vectors = np.load(directory / "vectors.npy", mmap_mode="r") if guided else None
        return cls(arrays.pop("ordinals"), Tokens(**arrays), vectors)


def tokenize_unique(
    data: Artifact, kind: Kind, ordinals: np.ndarray, tokenizer: TextTokenizer
) -> tuple[TokenStore, np.ndarray]:
    """Tokenise every distinct text among ``ordinals``, reading only the shards that hold them.

    Args:
        data: An ingest artifact.
        kind: Which table to read, and which prompt to put before its texts.
        ordinals: int64 [N], rising and distinct.
        tokenizer: Of the model to be trained.

    Returns:
        The tokens of the canonical texts, and int64 [N]: the canonical ordinal of each of ``ordinals``, which
        is the smallest one with the same text.
    """
    first_seen: dict[bytes, int] = {}
    canonical = np.empty(len(ordinals), np.int64)
    parts: list[Tokens] = []
    kept: list[int] = []
    done = 0
    for found, texts in read_texts(data, kind, ordinals):
        fresh: list[str] = []
        for ordinal, text in zip(found.tolist(), texts, strict=True):
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if digest not in first_seen:
                first_seen[digest] = ordinal
                fresh.append(text)
                kept.append(ordinal)
            canonical[done] = first_seen[digest]
            done += 1
        parts.append(tokenizer.tokenize(fresh, kind))
    return TokenStore(np.asarray(kept, np.int64), concatenate(parts)), canonical


def read_texts(data: Artifact, kind: Kind, ordinals: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield (ordinals, rendered texts) shard after shard.

    Raises:
        UserError: An ordinal lies outside the table.
    """
    table, column = TABLES[kind]
    first_rows = data.first_rows(table)
    if len(ordinals) and not 0 <= ordinals[0] <= ordinals[-1] < first_rows[-1]:
        raise UserError(
            f"a {kind} of the groups is not in the data",
            where=data.uri,
            got=f"ordinals {ordinals[0]} to {ordinals[-1]}",
            expected=f"0 to {first_rows[-1] - 1}",
        )
    columns = [column, "title", "text"] if kind == "document" else [column, "text"]
    bounds = np.searchsorted(ordinals, first_rows)
    for index, (low, high) in enumerate(pairwise(bounds.tolist())):
        if low < high:
            wanted = ordinals[low:high]
            shard = data.read_shard(table, index, columns).take(pa.array(wanted - first_rows[index]))
            assert np.array_equal(shard.column(column).to_numpy(), wanted)
            yield wanted, schemas.rendered_texts(shard)
