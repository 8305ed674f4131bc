"""Documents longer than the window, cut into overlapping windows of tokens; plain functions on token ids.

A chunk is: leading special tokens, prompt, title, a window of the text, trailing special tokens.

Shapes: N documents, M chunks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.cutting import prompt_end as own_length
from models.errors import ModelError
from models.tokenization import TextTokenizer, Tokens

if TYPE_CHECKING:
    from tokenizers import Encoding

MAX_HEAD_SHARE = 4
"""A title is cut so that prompt and title take at most one part in this many of a chunk: the rest is the text's."""


@dataclass(frozen=True)
class Parts:
    """One rendered document as token ids.

    Args:
        ids: All of its tokens, uncut, special ones included.
        lead: How many of them are leading special tokens.
        prompt: How many tokens of the prompt follow.
        title: How many tokens of the title follow.
        trail: How many special tokens end it.
        pool_start: Tokens of a chunk before this one are attended to but not pooled.
    """

    ids: Sequence[int]
    lead: int
    prompt: int
    title: int
    trail: int
    pool_start: int


def windows(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return half-open windows over ``length`` tokens, in order; each but the last has ``size`` tokens.

    Args:
        length: Tokens to cover; 0 gives one empty window.
        size: Tokens of a window.
        overlap: Tokens that a window shares with the one before it, less than ``size``.
    """
    step = size - overlap
    count = 1 + max(0, -(-(length - size) // step))
    return [(start * step, min(length, start * step + size)) for start in range(count)]


def cut_document(parts: Parts, chunk_tokens: int, overlap: int) -> list[list[int]]:
    """Return the token ids of each chunk of one document.

    A document that fits is one chunk, whole. Of a longer one every chunk bears the special tokens, the prompt
    and the title, the title cut where it is long (MAX_HEAD_SHARE); its windows cover the text.

    Args:
        parts: The document.
        chunk_tokens: Most tokens of a chunk, everything counted.
        overlap: Tokens of text that neighbours share.

    Raises:
        ModelError: Special tokens and prompt leave a window that is no longer than the overlap.
    """
    if len(parts.ids) <= chunk_tokens:
        return [list(parts.ids)]
    ids = list(parts.ids)
    room = chunk_tokens - parts.lead - parts.trail
    kept_title = min(parts.title, max(0, room // MAX_HEAD_SHARE - parts.prompt))
    size = room - parts.prompt - kept_title
    if size <= overlap:
        raise ModelError(
            "no room for the text in a chunk",
            got=f"{size} tokens beside the special tokens and the prompt",
            expected=f"more than the overlap of {overlap}",
            fix="raise encode.chunk.tokens, lower encode.chunk.overlap, or shorten the prompt",
        )
    head = ids[: parts.lead + parts.prompt + kept_title]
    body = ids[parts.lead + parts.prompt + parts.title : len(ids) - parts.trail]
    tail = ids[len(ids) - parts.trail :]
    return [head + body[start:stop] + tail for start, stop in windows(len(body), size, overlap)]


def tokenize_chunks(
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    titles: Sequence[str | None],
    chunk_tokens: int,
    overlap: int,
) -> tuple[Tokens, np.ndarray]:
    """Tokenise documents and cut those that are longer than a chunk.

    Args:
        tokenizer: Of the model.
        texts: N documents as ``tokenize`` takes them: the title, if any, stands before the text.
        titles: N titles, with which ``texts`` begin; None or "" for none.
        chunk_tokens: Most tokens of a chunk: special tokens, prompt and title counted.
        overlap: Tokens of text that neighbouring chunks of a document share.

    Returns:
        Tokens of M chunks, those of a document adjacent and in order, and int64 [N]: chunks of each document.
    """
    ids: list[np.ndarray] = []
    starts: list[int] = []
    counts = np.zeros(len(texts), np.int64)
    for number, parts in enumerate(_parts(tokenizer, texts, titles)):
        for chunk in cut_document(parts, chunk_tokens, overlap):
            ids.append(np.array(chunk, np.int32))
            starts.append(parts.pool_start)
            counts[number] += 1
    lengths = np.array([len(chunk) for chunk in ids], np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Tokens(np.concatenate([np.zeros(0, np.int32), *ids]), offsets, np.array(starts, np.int32)), counts


def _parts(tokenizer: TextTokenizer, texts: Sequence[str], titles: Sequence[str | None]) -> Iterator[Parts]:
    prefix = tokenizer.prompts.prefix("document")
    encodings = tokenizer.uncut.encode_batch([prefix + text for text in texts])
    for encoding, title in zip(encodings, titles, strict=True):
        special = encoding.special_tokens_mask
        lead = next((index for index, mark in enumerate(special) if not mark), len(special))
        trail = next((index for index, mark in enumerate(reversed(special)) if not mark), 0)
        end = len(special) - trail
        prompt_end = _first_beyond(encoding, lead, end, own_length(prefix))
        title_end = _first_beyond(encoding, prompt_end, end, len(prefix) + len(title or ""))
        is_pooled = not prefix or tokenizer.prompts.pooled or prompt_end == end
        yield Parts(
            ids=encoding.ids,
            lead=lead,
            prompt=prompt_end - lead,
            title=title_end - prompt_end,
            trail=trail,
            pool_start=0 if is_pooled else prompt_end,
        )


def _first_beyond(encoding: "Encoding", start: int, end: int, characters: int) -> int:
    # A token merged across the boundary belongs to what follows it, as in tokenize.
    offsets = encoding.offsets
    return next((index for index in range(start, end) if offsets[index][1] > characters), end)
