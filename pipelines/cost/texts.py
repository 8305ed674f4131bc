"""Many texts, known by their number and a sample of their lengths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

BYTES_PER_TOKEN = 4
"""Where no tokenizer is at hand: near enough in any script."""
SPECIAL_TOKENS = 2


@dataclass(frozen=True)
class Texts:
    """A number of texts and the moments of their lengths, as a model sees them.

    Args:
        count: How many.
        mean_tokens: Mean length, cut at the model's limit.
        mean_square_tokens: Mean of the squared length: what attention costs.
        mean_bytes: Mean length in UTF-8, uncut: what a tokenizer reads.
    """

    count: int
    mean_tokens: float
    mean_square_tokens: float
    mean_bytes: float

    @property
    def tokens(self) -> float:
        """Of all texts."""
        return self.count * self.mean_tokens

    @property
    def num_bytes(self) -> float:
        """Of all texts."""
        return self.count * self.mean_bytes

    def times(self, count: int) -> "Texts":
        """Return ``count`` texts of the same lengths."""
        return replace(self, count=count)


@dataclass(frozen=True)
class Sample:
    """Texts as they are stored, drawn from all parts of a corpus; empty where only a number is known.

    Args:
        texts: A few hundred.
    """

    texts: tuple[str, ...] = ()

    @property
    def mean_bytes(self) -> float:
        """Mean length in UTF-8; 0 of an empty sample."""
        return float(np.mean([len(text.encode()) for text in self.texts])) if self.texts else 0.0


def measure_texts(count: int, sample: Sample, directory: Path, prefix: str, max_tokens: int) -> Texts:
    """Return ``count`` texts with the lengths that a model's tokenizer gives a sample of them.

    Args:
        count: How many texts there are.
        sample: Some of them; where it is empty every text is taken to fill the limit.
        directory: The model's; without a tokenizer.json a token is BYTES_PER_TOKEN bytes.
        prefix: The prompt put before every text.
        max_tokens: Where texts are cut.
    """
    if not sample.texts:
        return Texts(count, max_tokens, float(max_tokens) ** 2, max_tokens * BYTES_PER_TOKEN)
    lengths = np.minimum(token_lengths(sample.texts, directory, prefix), max_tokens).astype(np.float64)
    return Texts(count, float(lengths.mean()), float((lengths**2).mean()), sample.mean_bytes)


def token_lengths(texts: Sequence[str], directory: Path, prefix: str) -> np.ndarray:
    """Return the number of tokens of each text, int64 [N], special tokens counted, nothing cut.

    The tokenizers library reads tokenizer.json by itself; transformers, which may add a BOS or an EOS to it, takes
    seconds to import.
    """
    path = directory / "tokenizer.json"
    rendered = [prefix + text for text in texts]
    if not path.is_file():
        return np.array([len(text.encode()) // BYTES_PER_TOKEN + SPECIAL_TOKENS for text in rendered])
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return np.array([len(encoding.ids) for encoding in tokenizer.encode_batch_fast(rendered)])


def read_prefix(directory: Path, kind: str) -> str:
    """Return the prompt that a model's directory declares for ``query`` or ``document``; "" for none."""
    from models.prompts import Prompts

    prompts = Prompts.from_directory(directory)
    return prompts.query if kind == "query" else prompts.document
