"""An exported tokenizer made to count a prompt's tokens as they are counted in front of a text.

sentence-transformers leaves out of the mean as many tokens as a prompt has when it is tokenised on its own. With BPE
a prompt that ends in a space has one token more there than in front of a text, whose first word takes the space: that
word would be left out as well. So the exported tokenizer is told to read such a prompt, where it stands alone, without
the spaces that end it. It changes the tokens of no other text.
"""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from models.cutting import pool_start

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROBES = ("gold", "What is a mine?", "2 shafts")


def count_alone(backend: "Tokenizer", prompt: str) -> int:
    """Return how many tokens sentence-transformers leaves out for a prompt: without a trailing special token."""
    encoding = backend.encode(prompt)
    return len(encoding.ids) - bool(encoding.special_tokens_mask and encoding.special_tokens_mask[-1])


def is_miscounted(backend: "Tokenizer", prompt: str) -> bool:
    """Return whether a prompt alone has another number of tokens than in front of a text."""
    alone = count_alone(backend, prompt)
    return any(pool_start(backend.encode(prompt + probe), prompt) != alone for probe in PROBES)


def read_prompts_alone(backend: "Tokenizer", prompts: Iterable[str]) -> str | None:
    """Return the tokenizer as JSON, made to count these prompts right.

    Args:
        backend: Not changed.
        prompts: Those that are put before texts.

    Returns:
        Content of ``tokenizer.json``; None where it counts all of them right as it is.
    """
    from tokenizers import Tokenizer

    told: dict[str, object] = json.loads(backend.to_str())
    added: list[dict[str, object]] = []
    for prompt in dict.fromkeys(prompts):
        if prompt.endswith(" ") and is_miscounted(backend, prompt):
            added.append(
                {
                    "type": "Replace",
                    "pattern": {"Regex": rf"\A{_escaped(prompt)}\z"},
                    "content": prompt.rstrip(" "),
                }
            )
    if not added:
        return None
    before = told.get("normalizer")
    told["normalizer"] = {"type": "Sequence", "normalizers": [*added, *([before] if before else [])]}
    told["truncation"] = told["padding"] = None
    content = json.dumps(told, ensure_ascii=False)
    return Tokenizer.from_str(content).to_str()


def _escaped(text: str) -> str:
    # Oniguruma escapes as Python does, but for line breaks, which it takes as they are.
    return re.escape(text).replace("\\\n", "\n")
