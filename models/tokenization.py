"""Texts to token ids, ragged: what is stored is tokens, never padding.

Shapes: N texts, B texts of one batch, T padded tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.cutting import cut_between, pool_start
from models.errors import ModelError
from models.prompts import Kind, Prompts
from models.tokenizer_files import deserialize, load_backend, text_tokens_only

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

PAD_MULTIPLE = 8
MAX_SPARE_EMBEDDINGS = 1024
"""Rows of an embedding table beyond the tokenizer's ids."""


@dataclass(frozen=True)
class Tokens:
    """The token ids of N texts, back to back.

    Args:
        ids: int32 [total].
        offsets: int64 [N + 1]; text i holds ``ids[offsets[i]:offsets[i + 1]]``.
        pool_starts: int32 [N]; the tokens of a text before this one are attended to but not pooled.
    """

    ids: np.ndarray
    offsets: np.ndarray
    pool_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.pool_starts)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]: how many tokens each text has, special tokens included."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Tokens":
        """Return the texts ``rows`` (int [M], any order, repeats allowed)."""
        rows = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Tokens(self.ids[source], offsets, self.pool_starts[rows])

    def pad(
        self, multiple_of: int = PAD_MULTIPLE, max_tokens: int | None = None
    ) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Pad to the right, with id 0, to one length.

        Args:
            multiple_of: The length is rounded up to a multiple of this.
            max_tokens: But never beyond this, which is for models whose positions are no multiple of it.

        Returns:
            input_ids_BT int64, attention_mask_BT int64, pool_mask_BT int64.
        """
        import torch

        lengths = self.lengths
        longest = int(lengths.max(initial=1))
        width = padded_length(longest, multiple_of)
        width = max(longest, min(width, max_tokens)) if max_tokens else width
        attention_mask_BT = np.arange(width) < lengths[:, None]
        input_ids_BT = np.zeros(attention_mask_BT.shape, dtype=np.int64)
        input_ids_BT[attention_mask_BT] = self.ids
        pool_mask_BT = attention_mask_BT & (np.arange(width) >= self.pool_starts[:, None])
        return (
            torch.from_numpy(input_ids_BT),
            torch.from_numpy(attention_mask_BT.astype(np.int64)),
            torch.from_numpy(pool_mask_BT.astype(np.int64)),
        )


def padded_length(length: int, multiple_of: int = PAD_MULTIPLE) -> int:
    """Return ``length`` rounded up to a multiple of ``multiple_of``."""
    return -(-length // multiple_of) * multiple_of


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """Put several Tokens end to end."""
    ids = [np.zeros(0, np.int32), *(part.ids for part in parts)]
    lengths = [np.zeros(1, np.int64), *(part.lengths for part in parts)]
    starts = [np.zeros(0, np.int32), *(part.pool_starts for part in parts)]
    return Tokens(np.concatenate(ids), np.cumsum(np.concatenate(lengths)), np.concatenate(starts))


class TextTokenizer:
    """Renders texts with their prompt and turns them into ids.

    It pickles with the whole tokenizer in it: who is handed one needs neither the model's files nor torch and
    transformers, whose import takes five seconds and more.

    Args:
        directory: The model's directory.
        prompts: What is put before a query or a document.
        max_query_tokens: Longer queries are cut here, special tokens and prompt included.
        max_document_tokens: Likewise for documents.

    Raises:
        ModelError: No model here, a limit beyond the model's positions, or a tokenizer with more ids than the
            model has embeddings.
    """

    def __init__(
        self, directory: str | Path, prompts: Prompts, max_query_tokens: int, max_document_tokens: int
    ) -> None:
        self.directory = Path(directory)
        self.prompts = prompts
        self.max_query_tokens = max_query_tokens
        self.max_document_tokens = max_document_tokens
        self._check()

    @classmethod
    def load(
        cls, directory: str | Path, prompts: Prompts, max_query_tokens: int, max_document_tokens: int
    ) -> "TextTokenizer":
        """Return the tokenizer of a model's directory; see the class."""
        return cls(directory, prompts, max_query_tokens, max_document_tokens)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "directory": self.directory,
            "prompts": self.prompts,
            "max_query_tokens": self.max_query_tokens,
            "max_document_tokens": self.max_document_tokens,
            "_serialized": self._serialized,
        }

    def max_tokens(self, kind: Kind) -> int:
        """Return where texts of ``kind`` are cut."""
        return self.max_query_tokens if kind == "query" else self.max_document_tokens

    def tokenize(self, texts: Sequence[str], kind: Kind, tasks: Sequence[str] | None = None) -> Tokens:
        """Render and tokenise.

        Args:
            texts: N texts without their prompt; an empty one still has its special tokens.
            kind: ``"query"`` or ``"document"``.
            tasks: Of N queries: a task that the prompts name has a prompt of its own. None: no query has one.

        Returns:
            Tokens of N texts, in order. ``pool_starts`` is 0 where there is no prompt, where prompts are
            pooled, and where truncation left no token of the text itself.
        """
        if tasks is None:
            prefixes = [self.prompts.prefix(kind)] * len(texts)
        else:
            prefixes = [self.prompts.prefix(kind, task) for task in tasks]
        return self.tokenize_behind(prefixes, texts, kind)

    def tokenize_behind(self, prefixes: Sequence[str], texts: Sequence[str], kind: Kind) -> Tokens:
        """Tokenise N texts, each behind a prefix of its own; see ``tokenize``.

        A query is cut before the prompts' suffix, which always survives, as special tokens do.
        """
        rendered = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
        by_offsets = any(prefixes) and not self.prompts.pooled
        starts = np.zeros(len(rendered), np.int32)
        if kind == "query" and self.prompts.suffix:
            encodings = self.uncut.encode_batch([text + self.prompts.suffix for text in rendered])
            cut = [
                cut_between(encoding, prefix, text, self.max_query_tokens)
                for encoding, prefix, text in zip(encodings, prefixes, texts, strict=True)
            ]
            rows = [ids for ids, _ in cut]
            starts[:] = [
                start if by_offsets and prefix else 0
                for (_, start), prefix in zip(cut, prefixes, strict=True)
            ]
        elif by_offsets:
            # Offsets cost about a third of the time, so they are made only where a boundary is to be found.
            encodings = self._backends[kind].encode_batch(rendered)
            rows = [encoding.ids for encoding in encodings]
            starts[:] = [
                pool_start(encoding, prefix) for encoding, prefix in zip(encodings, prefixes, strict=True)
            ]
        else:
            rows = [encoding.ids for encoding in self._backends[kind].encode_batch_fast(rendered)]
        # A decoder's tokenizer may make no token of an empty text, and nothing cannot be attended to.
        rows = [row or self._blank for row in rows]
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ids = np.fromiter((token for row in rows for token in row), np.int32, int(offsets[-1]))
        return Tokens(ids, offsets, starts)

    @cached_property
    def _backends(self) -> "dict[Kind, Tokenizer]":
        kinds: tuple[Kind, Kind] = ("query", "document")
        return {kind: self._backend(self.max_tokens(kind)) for kind in kinds}

    @cached_property
    def _blank(self) -> list[int]:
        """What an empty text is read as: the first token of a space."""
        ids: list[int] = self.uncut.encode(" ").ids
        return ids[:1] or [0]

    @cached_property
    def uncut(self) -> "Tokenizer":
        """The Rust tokenizer without truncation, for texts that are cut into chunks afterwards."""
        return self._backend(None)

    def _backend(self, max_tokens: int | None) -> "Tokenizer":
        return deserialize(self._serialized, max_tokens)

    @cached_property
    def _serialized(self) -> str:
        from models.layout import read_config

        serialized = str(load_backend(self.directory).to_str())
        num_embeddings = read_config(self.directory).get("vocab_size")
        return text_tokens_only(serialized, int(num_embeddings)) if num_embeddings else serialized

    def _check(self) -> None:
        from models.layout import max_positions, read_config

        config = read_config(self.directory)
        limit = max_positions(config)
        for kind, tokens in (("query", self.max_query_tokens), ("document", self.max_document_tokens)):
            if tokens < 3 or (limit and tokens > limit):
                raise ModelError(
                    f"max_{kind}_tokens does not fit the model",
                    str(self.directory),
                    got=str(tokens),
                    expected=f"3 to {limit}" if limit else "at least 3",
                    fix=f"set max_{kind}_tokens to {limit if limit and tokens > limit else 3}",
                )
        vocabulary = self._backends["document"].get_vocab_size(with_added_tokens=True)
        embeddings = int(config.get("vocab_size") or vocabulary)
        # Tables are rounded up: by 1.8% at most in public models, and by fewer than 1,024 rows in small ones.
        surplus = embeddings - vocabulary
        if surplus < 0 or surplus > max(MAX_SPARE_EMBEDDINGS, vocabulary // 10):
            what = "more" if surplus < 0 else "far fewer"
            raise ModelError(
                f"the tokenizer has {what} ids than the model has embeddings",
                str(self.directory),
                got=f"{vocabulary} ids",
                expected=f"at most {embeddings}" if surplus < 0 else f"about {embeddings}",
                fix="copy the tokenizer files that belong to this model into its directory",
            )
