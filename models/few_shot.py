"""Examples before a query: other queries of its task with documents that answer them (bge-en-icl, LG-ANNA).

An example is: prompt of the task, query, suffix, document. Before a query stand its examples, a blank line behind each,
and the prompt of its task.

The same constants hold in training, which draws examples from the batch, and in inference, where they are fixed. A
model reads them as an instruction: attended to, not pooled.
"""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from models.cutting import cut_between, pool_start
from models.errors import ModelError
from models.prompts import Prompts
from models.tokenization import TextTokenizer, Tokens, concatenate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_QUERY_TOKENS = 64
"""An example's query is cut here."""
MAX_DOCUMENT_TOKENS = 96
"""An example's document is cut here."""
SEPARATOR = "\n\n"
ANSWER = "\n"
"""Between an example's query and its document, where the template has no suffix that says so."""
MIN_OWN_TOKENS = 16
"""What fixed examples leave to the query itself, at least."""
_CHUNK_TEXTS = 1024
"""Texts that are tokenised at once where offsets are needed, which take 100 bytes a token."""
_DRAW = 3
"""Tells these draws from the others that hang on the seed of a training."""


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
    tasks: Sequence[Hashable],
    positives: Sequence[int],
    answers: Sequence[Collection[int]],
    seed: int,
    first_row: int,
    most: int,
) -> tuple[list[tuple[int, ...]], int]:
    """Choose, for each row of a global batch, the rows that are shown before its query.

    Their number is uniform in 0..most, or as many as there are. A row of another task is never chosen, nor one whose
    positive answers the query, nor one whose query the row's own positive answers.

    Args:
        tasks: Of B rows.
        positives: Documents of B rows: equal numbers are equal texts.
        answers: Of B rows, the documents of the batch that answer the query, its positive among them.
        seed: Of the training.
        first_row: The number of the batch's first row among those of the whole training.
        most: Examples of a row, at most.

    Returns:
        B tuples of places in the batch, in the order in which the examples are shown, and how many more were drawn
        than there are rows to show. What a row is shown hangs on the seed, its own number and its batch alone: it knows
        nothing of ranks.
    """
    of_task: dict[Hashable, list[int]] = {}
    for row, task in enumerate(tasks):
        of_task.setdefault(task, []).append(row)
    members = {task: np.array(rows) for task, rows in of_task.items()}
    drawn: list[tuple[int, ...]] = []
    missing = 0
    for row, task in enumerate(tasks):
        generator = np.random.default_rng((seed, _DRAW, first_row + row))
        count = int(generator.integers(0, most + 1))
        apart = (
            other
            for other in map(int, generator.permutation(members[task]))
            if positives[other] not in answers[row] and positives[row] not in answers[other]
        )
        drawn.append(tuple(islice(apart, count)))
        missing += count - len(drawn[-1])
    return drawn, missing


def cut_texts(backend: "Tokenizer", texts: Sequence[str], max_tokens: int) -> list[str]:
    """Return the beginning of every text that has at most ``max_tokens`` tokens, special ones not counted.

    Args:
        backend: A tokenizer that neither cuts nor pads.
        texts: N texts.
        max_tokens: At least 1.
    """
    cut: list[str] = []
    for start in range(0, len(texts), _CHUNK_TEXTS):
        some = list(texts[start : start + _CHUNK_TEXTS])
        for text, encoding in zip(some, backend.encode_batch(some, add_special_tokens=False), strict=True):
            offsets = encoding.offsets
            cut.append(text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 1][1]])
    return cut


def render_examples(examples: Sequence[Example], prompts: Prompts) -> list[str]:
    """Return examples, whose texts are cut already, as they stand before a query."""
    answer = prompts.suffix or ANSWER
    return [
        prompts.prefix("query", each.task) + each.query + answer + each.document + SEPARATOR
        for each in examples
    ]


def tokenize_behind_examples(
    tokenizer: TextTokenizer,
    shown: Sequence[Sequence[str]],
    texts: Sequence[str],
    tasks: Sequence[str],
    max_positions: int | None,
) -> tuple[Tokens, list[int]]:
    """Tokenise N queries behind examples; each keeps the tokens that it has without them.

    A query is cut where it would be cut alone, so that examples take nothing from it. Suffix and special tokens stay.

    Args:
        tokenizer: Of the model to be trained.
        shown: Of each query the rendered examples, in order.
        texts: N queries without their prompt.
        tasks: Of N queries.
        max_positions: Most tokens that the model reads; the first examples are left out where there would be more.
            None: any number.

    Returns:
        Tokens of N queries, of which the query alone is pooled (its prompt too where prompts are), and the number of
        examples that stand before each.
    """
    kept = [list(each) for each in shown]
    alone = [place for place, some in enumerate(kept) if not some]
    behind = [place for place, some in enumerate(kept) if some]
    prompts, backend = tokenizer.prompts, tokenizer.uncut
    own = [prompts.prefix("query", tasks[place]) for place in behind]
    tails = [prefix + texts[place] + prompts.suffix for prefix, place in zip(own, behind, strict=True)]
    encodings = backend.encode_batch(
        ["".join(kept[place]) + tail for place, tail in zip(behind, tails, strict=True)]
    )
    lengths = [len(encoding.ids) for encoding in backend.encode_batch_fast(tails)]
    parts: list[Tokens] = []
    for index, place in enumerate(behind):
        encoding, excess = encodings[index], max(0, lengths[index] - tokenizer.max_query_tokens)
        while kept[place] and max_positions is not None and len(encoding.ids) - excess > max_positions:
            kept[place].pop(0)
            encoding = backend.encode("".join(kept[place]) + tails[index])
        if not kept[place]:
            parts.append(tokenizer.tokenize([texts[place]], "query", [tasks[place]]))
            continue
        before = "".join(kept[place])
        ids, start = cut_between(encoding, before + own[index], texts[place], len(encoding.ids) - excess)
        if prompts.pooled:
            start = pool_start(encoding, before)
        parts.append(Tokens(np.asarray(ids, np.int32), np.array([0, len(ids)]), np.array([start], np.int32)))
    whole = tokenizer.tokenize([texts[place] for place in alone], "query", [tasks[place] for place in alone])
    order = np.argsort(np.array([*behind, *alone], np.int64), kind="stable")
    return concatenate([*parts, whole]).take(order), [len(some) for some in kept]


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
    queries = cut_texts(backend, [each.query for each in examples], MAX_QUERY_TOKENS)
    documents = cut_texts(backend, [each.document for each in examples], MAX_DOCUMENT_TOKENS)
    cut = [
        replace(each, query=query, document=document)
        for each, query, document in zip(examples, queries, documents, strict=True)
    ]

    def prefix(task: str) -> str:
        own = [example for example in cut if example.task == task]
        chosen = [replace(example, task=task) for example in own or cut if example.task in (task, "")]
        whole = "".join(render_examples(chosen, prompts)) + prompts.prefix("query", task)
        needed = len(backend.encode(whole + prompts.suffix).ids) + MIN_OWN_TOKENS
        if chosen and needed > max_tokens:
            raise ModelError(
                "the examples leave no room for a query",
                "prompts.few_shot",
                got=f"max_query_tokens: {max_tokens}",
                expected=f"at least {needed} for {len(chosen)} examples",
                fix=f"set max_query_tokens to {needed} or more, or name fewer examples",
            )
        return whole

    tasks = dict.fromkeys([*(name for name, _ in prompts.tasks), *(e.task for e in examples if e.task)])
    return replace(prompts, query=prefix(""), tasks=tuple((task, prefix(task)) for task in tasks))
