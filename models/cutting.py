"""Where a prompt ends in a tokenised text, and how a text is cut so that what surrounds it stays.

Boundaries are found by character offsets in the whole string. To tokenise a prompt alone would be wrong: with BPE
"Query: " ends in a token of its own, which before "gold" is one token with it. Spaces that end a prompt belong to the
text, whether they are merged with its first word or not ("2" may take none): then a prompt has as many tokens before
one text as before another, which is what sentence-transformers takes for granted.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding

    from models.prompts import Kind
    from models.tokenization import TextTokenizer


def prompt_end(prefix: str) -> int:
    """Return how many characters of a prefix are the prompt's own: all but the spaces that end it."""
    return len(prefix.rstrip(" "))


def pool_start(encoding: "Encoding", prefix: str) -> int:
    """Return the first token that reaches beyond the prompt; 0 where there is no prompt, or nothing behind it.

    A token that was merged across the boundary belongs to the text. Special tokens have the offsets (0, 0) and so
    never count: BOS lies before the text and belongs to the prompt.
    """
    if not prefix:
        return 0
    own = prompt_end(prefix)
    if encoding.offsets and max(end for _, end in encoding.offsets) <= len(prefix):
        # No character of the text itself is left.
        return 0
    return next(
        (index for index, (_, end) in enumerate(encoding.offsets) if end > own),
        0,
    )


def cut_between(encoding: "Encoding", prefix: str, text: str, max_tokens: int) -> tuple[list[int], int]:
    """Cut the end of the text between a prefix and a suffix.

    The suffix and the special tokens always survive; so does the prefix, until nothing is left of the text.

    Args:
        encoding: Of prefix + text + suffix, uncut.
        prefix: As it was tokenised.
        text: Likewise.
        max_tokens: How many tokens may be left.

    Returns:
        The token ids, and the first one that is pooled: 0 where no token of the text is left.
    """
    ids, special = list(encoding.ids), encoding.special_tokens_mask
    lead = next((index for index, mark in enumerate(special) if not mark), len(ids))
    end = len(ids) - next((index for index, mark in enumerate(reversed(special)) if not mark), 0)
    start = _first_beyond(encoding, lead, end, prompt_end(prefix))
    # A token merged across the suffix's boundary is the suffix's.
    stop = _first_beyond(encoding, start, end, len(prefix) + len(text))
    excess = max(0, len(ids) - max_tokens)
    of_text = min(excess, stop - start)
    of_prefix = min(excess - of_text, start - lead)
    kept = ids[: start - of_prefix] + ids[start : stop - of_text] + ids[stop:]
    has_text = stop - of_text > _first_beyond(encoding, start, end, len(prefix))
    return kept, start if has_text else 0


def cut_to_fit(
    tokenizer: "TextTokenizer", texts: Sequence[str], kind: "Kind", task: str, max_tokens: int
) -> list[str]:
    """Return texts of which no token is left to be cut: not of the prompt, the text or the suffix.

    Args:
        tokenizer: Says prompts and suffix.
        texts: Of one kind, without prompt.
        kind: Theirs.
        task: Of queries.
        max_tokens: Of prompt, text and suffix, special tokens counted. A text keeps its first token in any case.
    """
    prefix = tokenizer.prompts.prefix(kind, task)
    fitting = []
    for text in texts:
        encoding = tokenizer.uncut.encode(tokenizer.prompts.render(text, kind, task))
        while (excess := len(encoding.ids) - max_tokens) > 0:
            within = range(len(prefix) + 1, len(prefix) + len(text) + 1)
            ends = [end - len(prefix) for _, end in encoding.offsets if end in within]
            # The tokens of one character, of which there may be several, end together.
            shorter = [end for end in ends if end < ends[-1]]
            if not shorter:
                break
            # The beginning of a word may have more tokens by itself than it had in the word: hence the loop.
            text = text[: min(shorter[-1], ends[max(0, len(ends) - 1 - excess)])]
            encoding = tokenizer.uncut.encode(tokenizer.prompts.render(text, kind, task))
        fitting.append(text)
    return fitting


def _first_beyond(encoding: "Encoding", start: int, end: int, characters: int) -> int:
    offsets = encoding.offsets
    return next((index for index in range(start, end) if offsets[index][1] > characters), end)
