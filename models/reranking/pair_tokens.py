"""Pairs to token ids: the query and the template always survive, the document is cut to what is left.

Shapes: P pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.errors import ModelError
from models.layout import max_positions, read_config
from models.prompts import Kind
from models.reranking.rendering import Rendering
from models.tokenization import Tokens
from models.tokenizer_files import deserialize, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

Pairs = Sequence[tuple[str, str]]
Row = tuple[list[int], int]
"""Token ids of a pair, and how many of them come before its marked part."""


class PairTokenizer:
    """Turn pairs into ids for one reranker; it pickles with the whole tokenizer in it, as TextTokenizer does.

    Args:
        directory: The model's directory.
        rendering: Template and limits.

    Raises:
        ModelError: The directory holds no model.
    """

    def __init__(self, directory: str | Path, rendering: Rendering) -> None:
        self.directory = Path(directory)
        self.rendering = rendering
        self.max_tokens = max_positions(read_config(self.directory))

    def __getstate__(self) -> dict[str, Any]:
        names = ("directory", "rendering", "max_tokens", "_loaded")
        return {name: getattr(self, name) for name in names}

    def tokenize(self, pairs: Pairs) -> Tokens:
        """Return the tokens of P pairs of (query, document), in order.

        ``pool_starts`` is where the second text of a cross-encoder's pair begins (its token types), where the
        query of query_likelihood begins, and 0 for yes_no.
        """
        render = self.rendering
        cut = [(render.cut_query(query), render.cut_document(document)) for query, document in pairs]
        return packed(TOKENIZE[render.method](self, cut))

    def side(self, texts: Sequence[str], kind: Kind) -> list[list[int]]:
        """Return the ids of queries, or of documents, as they stand in a cross-encoder's pair: cut, nothing around."""
        render = self.rendering
        limit = render.max_query_tokens if kind == "query" else render.max_document_tokens
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids[:limit] for encoding in encodings]

    def join(self, query_ids: Sequence[int], document_ids: Sequence[int]) -> Row:
        """Join two sides as the model's own tokenizer joins texts; the document is cut to the room that is left."""
        layout = self.layout
        before, between, after = layout.before, layout.between, layout.after
        taken = len(before) + len(between) + len(after) + len(query_ids)
        kept = document_ids[: self.room(taken)]
        # Where all have one type, the mark lies behind the pair.
        start = taken + len(kept)
        if layout.same_type is not None:
            start = len(before) + len(query_ids) + layout.same_type
        return [*before, *query_ids, *between, *kept, *after], start

    @cached_property
    def backend(self) -> "Tokenizer":
        """The Rust tokenizer, which neither cuts nor pads."""
        return deserialize(self._loaded[0], None)

    @cached_property
    def _loaded(self) -> tuple[str, bool]:
        """The tokenizer as a string, and whether it hands token types to the model: those of some BERTs do not."""
        tokenizer = load_tokenizer(self.directory)
        return str(tokenizer.backend_tokenizer.to_str()), "token_type_ids" in tokenizer.model_input_names

    @property
    def passes_types(self) -> bool:
        """Whether the model is told which of the two texts a token belongs to."""
        return self._loaded[1]

    @cached_property
    def leading(self) -> list[int]:
        """Special tokens that the model expects before any text, such as BOS."""
        encoding = self.backend.encode("a", add_special_tokens=True)
        ids: list[int] = encoding.ids
        mask: list[int] = encoding.special_tokens_mask
        return ids[: mask.index(0)] if 0 in mask else []

    @cached_property
    def layout(self) -> "_Layout":
        """The special tokens of a pair."""
        return _Layout.of(self)

    def answer_ids(self) -> tuple[int, int]:
        """Return the ids of the two answers.

        Raises:
            ModelError: An answer is not one token.
        """
        found = []
        for word in self.rendering.answers:
            ids = self.backend.encode(word, add_special_tokens=False).ids
            if len(ids) != 1:
                raise ModelError(
                    "an answer is not one token of this model",
                    str(self.directory),
                    got=f"{word!r} has {len(ids)} tokens",
                    expected="words of one token each",
                    fix='name others, such as answers: ["Yes", "No"]',
                )
            found.append(ids[0])
        return found[0], found[1]

    def encode(self, texts: Sequence[str]) -> "list[Encoding]":
        """Encode texts without special tokens, with offsets."""
        return self.backend.encode_batch(list(texts), add_special_tokens=False)

    def room(self, taken: int) -> int:
        """Return how many tokens a document may have beside ``taken`` others.

        Raises:
            ModelError: Not one.
        """
        left = self.rendering.max_document_tokens
        if self.max_tokens is not None:
            left = min(left, self.max_tokens - taken)
        if left < 1:
            raise ModelError(
                "query and template leave the document no room",
                str(self.directory),
                got=f"{taken} tokens besides the document",
                expected=f"fewer than {self.max_tokens}",
                fix="lower max_query_tokens, or write a shorter template",
            )
        return left


@dataclass(frozen=True)
class _Layout:
    """A pair's special tokens before, between and after its texts.

    Args:
        before: Ids.
        between: Ids.
        after: Ids.
        same_type: How many of those between have token type 0; None where all tokens have one type.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    same_type: int | None

    @classmethod
    def of(cls, tokenizer: PairTokenizer) -> "_Layout":
        joined = tokenizer.backend.encode("a", "a", add_special_tokens=True)
        texts = [text for text in joined.sequence_ids if text is not None]
        if set(texts) != {0, 1} or texts != sorted(texts):
            raise ModelError(
                "the tokenizer joins two texts in an unknown way",
                str(tokenizer.directory),
                got=str(joined.tokens),
                expected="one text behind the other",
            )
        first, second = joined.sequence_ids.index(0), joined.sequence_ids.index(1)
        num_first, num_second = texts.count(0), texts.count(1)
        types = joined.type_ids[first + num_first : second + 1]
        typed = 1 in types and tokenizer.passes_types
        return cls(
            before=joined.ids[:first],
            between=joined.ids[first + num_first : second],
            after=joined.ids[second + num_second :],
            same_type=types.index(1) if typed else None,
        )


def packed(rows: Sequence[Row]) -> Tokens:
    """Put pairs end to end."""
    lengths = np.fromiter((len(ids) for ids, _ in rows), np.int64, len(rows))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids = np.fromiter((token for ids, _ in rows for token in ids), np.int32, int(offsets[-1]))
    return Tokens(ids, offsets, np.fromiter((start for _, start in rows), np.int32, len(rows)))


def _join(tokenizer: PairTokenizer, pairs: Pairs) -> list[Row]:
    """Join two texts as the model's own tokenizer does; each text is tokenised once, however often it occurs."""
    queries, documents = (
        (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    )
    of_query = dict(zip(queries, tokenizer.side(queries, "query"), strict=True))
    of_document = dict(zip(documents, tokenizer.side(documents, "document"), strict=True))
    return [tokenizer.join(of_query[query], of_document[document]) for query, document in pairs]


def _shortened(tokenizer: PairTokenizer, queries: Sequence[str]) -> dict[str, str]:
    """Return each query as the text of its first ``max_query_tokens`` tokens."""
    limit = tokenizer.rendering.max_query_tokens
    unique = list(dict.fromkeys(queries))
    short = {}
    for text, encoding in zip(unique, tokenizer.encode(unique), strict=True):
        short[text] = text[: encoding.offsets[limit - 1][1]] if len(encoding.ids) > limit else text
    return short


def _num_before(encoding: "Encoding", characters: int) -> int:
    """Return how many tokens end within the first ``characters``: a merge across the border lies behind it."""
    return sum(end <= characters for _, end in encoding.offsets)


def _ask(tokenizer: PairTokenizer, pairs: Pairs) -> list[Row]:
    """Render for yes_no: everything up to the document's end is tokenised in one piece, as in training."""
    head, middle, tail = tokenizer.rendering.parts
    queries = _shortened(tokenizer, [query for query, _ in pairs])
    heads = [head + queries[query] + middle for query, _ in pairs]
    tail_ids = tokenizer.backend.encode(tail, add_special_tokens=False).ids
    rows = []
    encodings = tokenizer.encode([text + document for text, (_, document) in zip(heads, pairs, strict=True)])
    for text, encoding in zip(heads, encodings, strict=True):
        kept = _num_before(encoding, len(text))
        room = tokenizer.room(len(tokenizer.leading) + kept + len(tail_ids))
        rows.append(([*tokenizer.leading, *encoding.ids[: kept + room], *tail_ids], 0))
    return rows


def _continue(tokenizer: PairTokenizer, pairs: Pairs) -> list[Row]:
    """Render for query_likelihood: the document's part, cut, and then the query's part."""
    head, middle, _ = tokenizer.rendering.parts
    queries = _shortened(tokenizer, [query for query, _ in pairs])
    documents = list(dict.fromkeys(document for _, document in pairs))
    texts = dict(zip(documents, tokenizer.encode([head + document for document in documents]), strict=True))
    unique = list(dict.fromkeys(queries.values()))
    asked = dict(zip(unique, tokenizer.encode([middle + query for query in unique]), strict=True))
    rows = []
    for query, document in pairs:
        question, text = asked[queries[query]], texts[document]
        kept = _num_before(text, len(head))
        room = tokenizer.room(len(tokenizer.leading) + kept + len(question.ids))
        ids = [*tokenizer.leading, *text.ids[: kept + room]]
        start = len(ids) + _num_before(question, len(middle))
        rows.append(([*ids, *question.ids], start))
    return rows


TOKENIZE: dict[str, Callable[[PairTokenizer, Pairs], list[Row]]] = {
    "cross_encoder": _join,
    "yes_no": _ask,
    "query_likelihood": _continue,
}
"""Method -> how its pairs become tokens."""
