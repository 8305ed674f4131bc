"""Examples before a query: other queries of its task with documents that answer them (bge-en-icl, LG-ANNA).

An example is: prompt of the task, query, suffix, document. Before a query stand its examples, a blank line behind each,
and the prompt of its task.

The same constants hold in training and in inference. A model reads them as an instruction: attended to, not pooled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from models.errors import ModelError
from models.prompts import Prompts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from models.tokenization import TextTokenizer, Tokens

MAX_EXAMPLES = 5
"""Examples before a query in training, drawn from 0 to this."""
MAX_QUERY_TOKENS = 64
"""An example's query is cut here."""
MAX_DOCUMENT_TOKENS = 96
"""An example's document is cut here."""
SEPARATOR = "\n\n"
ANSWER = "\n"
"""Between an example's query and its document, where the template has no suffix that says so."""
MIN_OWN_TOKENS = 16
"""What examples leave to the query itself, at least; examples that would take it are left out."""


@dataclass(frozen=True)
class Example:
    """A query and a document that answers it.

    Args:
        query: Without prompt.
        document: Without prompt.
        task: Of the query.
    """

    query: str
    document: str
    task: str = ""


def draw_examples(
    tasks: Sequence[str],
    queries: Sequence[int],
    positives: Sequence[int],
    seed: Sequence[int],
    most: int = MAX_EXAMPLES,
) -> list[tuple[int, ...]]:
    """Choose, for each row of a global batch, the rows that are shown before its query.

    Their number is uniform in 0..most, or as many as there are. A row of another task is never chosen, nor one with
    the same query or the same positive, which would tell the answer.

    Args:
        tasks: Of B rows.
        queries: Canonical ordinals of B rows: equal ones are equal texts.
        positives: Likewise.
        seed: Of the training, and of the step.
        most: Examples of a row, at most.

    Returns:
        B tuples of row numbers, in the order in which the examples are shown. A function of its arguments alone:
        it knows nothing of ranks.
    """
    generator = np.random.default_rng(list(seed))
    drawn: list[tuple[int, ...]] = []
    for own, (task, query, positive) in enumerate(zip(tasks, queries, positives, strict=True)):
        others = [
            row
            for row, task_of_row in enumerate(tasks)
            if row != own and task_of_row == task and queries[row] != query and positives[row] != positive
        ]
        count = int(generator.integers(0, most + 1))
        drawn.append(tuple(generator.permutation(np.asarray(others, np.int64))[:count].tolist()))
    return drawn


def example_prefixes(
    rows: Sequence[Example],
    drawn: Sequence[Sequence[int]],
    prompts: Prompts,
    backend: "Tokenizer",
    max_tokens: int,
) -> tuple[list[str], int]:
    """Return what is put before the query of each row of a batch.

    Args:
        rows: B rows, each as an example for the others.
        drawn: Of ``draw_examples``.
        prompts: Of the model.
        backend: The model's tokenizer, which neither cuts nor pads.
        max_tokens: Most tokens of a query, everything counted.

    Returns:
        B prefixes for ``TextTokenizer.tokenize_behind``, and how many examples were left out because they do not
        fit: the first ones of a row.
    """
    shown = [_render(row, prompts, backend) for row in rows]
    lengths = [
        len(encoding.ids) for encoding in backend.encode_batch_fast([text + SEPARATOR for text in shown])
    ]
    prefixes: list[str] = []
    left_out = 0
    for row, chosen in zip(rows, drawn, strict=True):
        own = prompts.prefix("query", row.task)
        room = max_tokens - MIN_OWN_TOKENS - len(backend.encode(own + prompts.suffix).ids)
        kept: list[int] = []
        for number in reversed(chosen):
            room -= lengths[number]
            if room < 0:
                break
            kept.insert(0, number)
        prefixes.append("".join(shown[number] + SEPARATOR for number in kept) + own)
        left_out += len(chosen) - len(kept)
    return prefixes, left_out


def tokenize_batch(
    tokenizer: "TextTokenizer",
    rows: Sequence[Example],
    queries: Sequence[int],
    positives: Sequence[int],
    seed: Sequence[int],
) -> tuple["Tokens", int]:
    """Tokenise the queries of one global batch, each behind examples drawn from its other rows.

    Args:
        tokenizer: Of the model to be trained; its prompts and its limit of queries hold.
        rows: B rows: query, positive, task.
        queries: Canonical ordinals of B rows.
        positives: Likewise.
        seed: Of the training, and of the step.

    Returns:
        Tokens of B queries, of which the query alone is pooled, and how many examples did not fit.
    """
    drawn = draw_examples([row.task for row in rows], queries, positives, seed)
    prefixes, left_out = example_prefixes(
        rows, drawn, tokenizer.prompts, tokenizer.uncut, tokenizer.max_query_tokens
    )
    return tokenizer.tokenize_behind(prefixes, [row.query for row in rows], "query"), left_out


def with_examples(
    prompts: Prompts, examples: Sequence[Example], backend: "Tokenizer", max_tokens: int
) -> Prompts:
    """Return prompts with fixed examples before every query: a task's own where there are some, else those of none.

    Args:
        prompts: Of the model.
        examples: For inference; an example without a task belongs to queries whose task has no prompt of its own,
            and to tasks that have no example.
        backend: The model's tokenizer, which neither cuts nor pads.
        max_tokens: Most tokens of a query, everything counted.

    Raises:
        ModelError: The examples leave less than MIN_OWN_TOKENS tokens to a query.
    """

    def prefix(task: str) -> str:
        own = [example for example in examples if example.task == task]
        chosen = [replace(example, task=task) for example in own or examples if example.task in (task, "")]
        rows = [*chosen, Example("", "", task)]
        drawn = [()] * len(chosen) + [tuple(range(len(chosen)))]
        prefixes, left_out = example_prefixes(rows, drawn, prompts, backend, max_tokens)
        if left_out:
            whole, _ = example_prefixes(rows, drawn, prompts, backend, 2**31)
            needed = len(backend.encode(whole[-1] + prompts.suffix).ids) + MIN_OWN_TOKENS
            raise ModelError(
                "the examples leave no room for a query",
                "prompts.few_shot",
                got=f"max_query_tokens: {max_tokens}",
                expected=f"at least {needed} for {len(chosen)} examples",
                fix=f"set max_query_tokens to {needed} or more, or name fewer examples",
            )
        return prefixes[-1]

    tasks = dict.fromkeys([*(name for name, _ in prompts.tasks), *(e.task for e in examples if e.task)])
    return replace(prompts, query=prefix(""), tasks=tuple((task, prefix(task)) for task in tasks))


def _render(example: Example, prompts: Prompts, backend: "Tokenizer") -> str:
    query = cut_text(backend, example.query, MAX_QUERY_TOKENS)
    document = cut_text(backend, example.document, MAX_DOCUMENT_TOKENS)
    return prompts.prefix("query", example.task) + query + (prompts.suffix or ANSWER) + document


def cut_text(backend: "Tokenizer", text: str, max_tokens: int) -> str:
    """Return the beginning of a text that has at most ``max_tokens`` tokens, special ones not counted."""
    offsets = backend.encode(text, add_special_tokens=False).offsets
    return text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 1][1]]
