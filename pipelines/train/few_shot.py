"""The queries of a plan behind examples: other rows of their batch, drawn anew for every row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.errors import UserError
from models.checkpoint import resolve_model
from models.few_shot import (
    MAX_DOCUMENT_TOKENS,
    MAX_QUERY_TOKENS,
    Example,
    cut_texts,
    draw_examples,
    render_examples,
    tokenize_behind_examples,
)
from models.layout import max_positions, read_config
from models.prompts import Kind
from models.tokenization import TextTokenizer, Tokens, concatenate
from pipelines.located_model import LocatedModel
from pipelines.texts import TABLES, read_texts
from pipelines.train.config import TrainConfig
from pipelines.train.phases import Batch
from pipelines.train.plan import Row
from pipelines.train.sources import OpenSource
from pipelines.train.tokens import TokenStore

if TYPE_CHECKING:
    from tokenizers import Tokenizer


CHUNK_ROWS = 1024
"""Queries behind examples that are tokenised at once: a text takes 100 bytes a token while it is cut."""


@dataclass(frozen=True)
class RowTexts:
    """The texts that the rows of a plan ask and show.

    Args:
        queries: Query -> its text.
        cut_queries: Query -> its text, as an example shows it.
        cut_positives: Positive -> its text, as an example shows it.
    """

    queries: Mapping[int, str]
    cut_queries: Mapping[int, str]
    cut_positives: Mapping[int, str]

    def example(self, row: Row) -> Example:
        """Return what a row is for the others."""
        return Example(self.cut_queries[row.query], self.cut_positives[row.positive], row.task)


def show_examples(
    batches: Sequence[Batch],
    sources: Sequence[OpenSource],
    firsts: Sequence[Mapping[Kind, int]],
    model: LocatedModel,
    config: TrainConfig,
) -> tuple[TokenStore, dict[str, int]]:
    """Tokenise the query of every row behind rows of its data set and task that are drawn from its batch.

    Args:
        batches: Of the whole training, with `masked` filled in.
        sources: The data sets.
        firsts: What the ordinals of each are raised by.
        model: Whose tokenizer is used.
        config: Says how many examples, and the seed.

    Returns:
        Tokens by the number of the row among those of all batches, and the counters `examples_shown`,
        `examples_without_a_row` (more were drawn than other rows may be shown) and `examples_beyond_positions` (left
        out because the model reads no more tokens).

    Raises:
        UserError: No query can be shown an example.
    """
    directory = resolve_model(model.location)
    # The tokenizers that a process keeps are fewer than the data sets may be.
    tokenizers = {
        source.name: TextTokenizer.load(
            directory, source.prompts or model.prompts, model.max_query_tokens, model.max_document_tokens
        )
        for source in sources
    }
    texts = read_row_texts(batches, sources, firsts, next(iter(tokenizers.values())).uncut)
    positions = max_positions(read_config(directory))
    counters = dict.fromkeys(("examples_shown", "examples_without_a_row", "examples_beyond_positions"), 0)
    parts: list[Tokens] = []
    first_row = 0
    for batch in batches:
        drawn, missing = draw_examples(
            [(row.dataset, row.task) for row in batch],
            [row.positive for row in batch],
            [{row.positive, *row.masked} for row in batch],
            config.seed,
            first_row,
            config.few_shot,
        )
        tokens, num_shown = tokenize_batch(batch, drawn, texts, tokenizers, positions)
        counters["examples_shown"] += num_shown
        counters["examples_without_a_row"] += missing
        counters["examples_beyond_positions"] += sum(map(len, drawn)) - num_shown
        parts.append(tokens)
        first_row += len(batch)
    _check_shown(counters, positions)
    return TokenStore(np.arange(first_row), concatenate(parts)), counters


def tokenize_batch(
    batch: Batch,
    drawn: Sequence[Sequence[int]],
    texts: RowTexts,
    tokenizers: Mapping[str, TextTokenizer],
    max_positions: int | None,
) -> tuple[Tokens, int]:
    """Tokenise the queries of one batch behind their examples, each as its data set wants it.

    Args:
        batch: B rows.
        drawn: Of each row the places of its examples.
        texts: Of the rows.
        tokenizers: Of each data set.
        max_positions: Most tokens that the model reads. None: any number.

    Returns:
        Tokens of B queries, and how many examples stand before all of them together.
    """
    parts: list[Tokens] = []
    order: list[int] = []
    num_shown = 0
    for own in _chunks(batch):
        tokenizer = tokenizers[batch[own[0]].dataset]
        tokens, counts = tokenize_behind_examples(
            tokenizer,
            [
                render_examples([texts.example(batch[other]) for other in drawn[place]], tokenizer.prompts)
                for place in own
            ],
            [texts.queries[batch[place].query] for place in own],
            [batch[place].task for place in own],
            max_positions,
        )
        parts.append(tokens)
        order += own
        num_shown += sum(counts)
    return concatenate(parts).take(np.argsort(order)), num_shown


def _chunks(batch: Batch) -> Iterator[list[int]]:
    """Yield places of rows of one data set each, as many as are tokenised at once."""
    of_set: dict[str, list[int]] = {}
    for place, row in enumerate(batch):
        of_set.setdefault(row.dataset, []).append(place)
    for places in of_set.values():
        for start in range(0, len(places), CHUNK_ROWS):
            yield places[start : start + CHUNK_ROWS]


def read_row_texts(
    batches: Sequence[Batch],
    sources: Sequence[OpenSource],
    firsts: Sequence[Mapping[Kind, int]],
    backend: "Tokenizer",
) -> RowTexts:
    """Read the texts of all queries and positives; of the positives only what an example shows is kept.

    Args:
        batches: Of the whole training.
        sources: The data sets.
        firsts: What the ordinals of each are raised by.
        backend: The model's tokenizer, which neither cuts nor pads.
    """
    queries = np.unique([row.query for batch in batches for row in batch])
    positives = np.unique([row.positive for batch in batches for row in batch])
    whole: dict[int, str] = {}
    cut_queries: dict[int, str] = {}
    cut_positives: dict[int, str] = {}
    for ordinals, texts in _read(queries, "query", sources, firsts):
        whole.update(zip(ordinals, texts, strict=True))
        cut_queries.update(zip(ordinals, cut_texts(backend, texts, MAX_QUERY_TOKENS), strict=True))
    for ordinals, texts in _read(positives, "document", sources, firsts):
        cut_positives.update(zip(ordinals, cut_texts(backend, texts, MAX_DOCUMENT_TOKENS), strict=True))
    return RowTexts(whole, cut_queries, cut_positives)


def _read(
    ordinals: NDArray[np.int64],
    kind: Kind,
    sources: Sequence[OpenSource],
    firsts: Sequence[Mapping[Kind, int]],
) -> Iterator[tuple[list[int], list[str]]]:
    """Yield ordinals of the plan with their texts, a shard at a time."""
    for source, first in zip(sources, firsts, strict=True):
        start = first[kind]
        low, high = np.searchsorted(ordinals, [start, start + source.data.num_rows(TABLES[kind][0])])
        for found, texts in read_texts(source.data, kind, ordinals[low:high] - start):
            yield (found + start).tolist(), texts


def _check_shown(counters: Mapping[str, int], positions: int | None) -> None:
    apart, beyond = counters["examples_without_a_row"], counters["examples_beyond_positions"]
    if counters["examples_shown"] or not apart + beyond:
        return
    if beyond:
        raise UserError(
            "no query can be shown an example",
            where="train.few_shot",
            got=f"{beyond} examples that do not fit {positions} positions beside their query",
            expected="a model that reads up to 170 tokens more an example",
            fix="set train.few_shot to 0, or take another model",
        )
    raise UserError(
        "no query can be shown an example",
        where="train.few_shot",
        got="no batch with two rows of a task that may be shown to each other",
        fix="set train.few_shot to 0, raise train.batch_size, or set train.batches.order to homogeneous",
    )
