"""Unique texts, tokenised once and memory-mapped by every worker of a node."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from cluster.errors import UserError
from models.prompts import Kind
from models.tokenization import TextTokenizer, Tokens, concatenate
from pipelines import schemas
from pipelines.texts import TABLES, read_rows
from pipelines.train.cross_encoder import SideTokenizer


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


@dataclass
class Seen:
    """The texts of one kind that were met so far, of all data sets.

    Args:
        prompted: Digest of prompt and text -> the canonical ordinal.
        plain: Digest of the text alone -> the canonical ordinal that was met first.
        twins: Pairs of canonical ordinals that differ in their prompt alone.
    """

    prompted: dict[bytes, int] = field(default_factory=dict)
    plain: dict[bytes, int] = field(default_factory=dict)
    twins: list[tuple[int, int]] = field(default_factory=list)

    def canonical(self, ordinal: int, prompt: str, text: str) -> int:
        """Return the ordinal that stands for a text, which is its own where the text was not met before."""
        found = self.prompted.setdefault(_digest(f"{prompt}\0{text}"), ordinal)
        if found == ordinal:
            first = self.plain.setdefault(_digest(text), ordinal)
            if first != ordinal:
                self.twins.append((first, ordinal))
        return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def tokenize_unique(
    data: Artifact,
    kind: Kind,
    ordinals: np.ndarray,
    tokenizer: TextTokenizer | SideTokenizer,
    seen: Seen | None = None,
    first: int = 0,
) -> tuple[TokenStore, np.ndarray]:
    """Tokenise every distinct text among ``ordinals``, reading only the shards that hold them.

    Args:
        data: An ingest artifact.
        kind: Which table to read, and which prompt to put before its texts.
        ordinals: int64 [N], rising and distinct.
        tokenizer: Of the model to be trained.
        seen: Texts of other data sets, which are not tokenised again; takes those of this one. None: there are none.
        first: What the ordinals of this data set are raised by where they stand beside those of others.

    Returns:
        The tokens of the texts met for the first time, by ordinals of the data set's own, and int64 [N]: the canonical
        ordinal of each of ``ordinals``, raised by its data set's ``first``, which is the smallest one with the same
        prompt and text.
    """
    seen = seen if seen is not None else Seen()
    canonical = np.empty(len(ordinals), np.int64)
    parts: list[Tokens] = []
    kept: list[int] = []
    done = 0
    for shard in read_rows(data, kind, ordinals):
        texts, tasks = schemas.rendered_texts(shard), _tasks(shard)
        fresh: list[int] = []
        for row, ordinal in enumerate(shard.column(TABLES[kind][1]).to_pylist()):
            prompt = tokenizer.prompts.prefix(kind, tasks[row])
            canonical[done] = seen.canonical(ordinal + first, prompt, texts[row])
            if canonical[done] == ordinal + first:
                fresh.append(row)
                kept.append(ordinal)
            done += 1
        parts.append(tokenizer.tokenize([texts[row] for row in fresh], kind, [tasks[row] for row in fresh]))
    return TokenStore(np.asarray(kept, np.int64), concatenate(parts)), canonical


def join_stores(stores: Sequence[TokenStore]) -> TokenStore:
    """Put the texts of several data sets end to end; their ordinals must rise.

    Raises:
        UserError: A guide's embeddings of them differ in size.
    """
    filled = [store for store in stores if len(store.ordinals)]
    vectors = [store.vectors for store in filled if store.vectors is not None]
    widths = sorted({each.shape[1] for each in vectors})
    if len(widths) > 1:
        raise UserError(
            "the guide's embeddings differ from data set to data set",
            where="train.loss.guide",
            got=f"{' and '.join(map(str, widths))} dimensions",
            expected="one model under this name in every data set's mine.teachers",
        )
    return TokenStore(
        np.concatenate([np.zeros(0, np.int64), *(store.ordinals for store in filled)]),
        concatenate([store.tokens for store in filled]),
        np.concatenate(vectors) if vectors else None,
    )


def _tasks(rows: pa.Table) -> list[str]:
    """Return the task of each query; documents have none."""
    return rows.column("task").to_pylist() if "task" in rows.column_names else [""] * len(rows)
