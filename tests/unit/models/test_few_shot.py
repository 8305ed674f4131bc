"""Examples before a query: who is drawn, how they are cut and joined, and that a query keeps its room."""

from collections import Counter

import pytest

from models.errors import ModelError
from models.few_shot import (
    MAX_DOCUMENT_TOKENS,
    MAX_EXAMPLES,
    MAX_QUERY_TOKENS,
    MIN_OWN_TOKENS,
    Example,
    cut_text,
    draw_examples,
    example_prefixes,
    tokenize_batch,
    with_examples,
)
from models.prompts import TEMPLATE, Prompts, instructed
from models.tokenization import TextTokenizer
from tests.tiny_decoders import make_decoder

PROMPTS = Prompts(query="Query: ", **instructed(TEMPLATE, {"sts": "Find the rock", "qa": "Find the answer"}))
TASKS = ["sts", "qa", "sts", "sts", "qa", "sts", "sts", "sts", "sts"]
QUERIES = [0, 1, 2, 3, 4, 5, 0, 7, 8]
POSITIVES = [10, 11, 12, 10, 14, 15, 16, 17, 18]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = make_decoder(tmp_path_factory.mktemp("decoder") / "model")
    return TextTokenizer.load(directory, PROMPTS, 128, 128)


def test_examples_are_other_rows_of_the_task_that_do_not_tell_the_answer():
    counts = Counter()
    for step in range(200):
        drawn = draw_examples(TASKS, QUERIES, POSITIVES, (7, step))
        assert drawn == draw_examples(TASKS, QUERIES, POSITIVES, (7, step))
        for row, chosen in enumerate(drawn):
            assert len(set(chosen)) == len(chosen) <= MAX_EXAMPLES and row not in chosen
            assert all(TASKS[other] == TASKS[row] for other in chosen)
            assert all(
                QUERIES[other] != QUERIES[row] and POSITIVES[other] != POSITIVES[row] for other in chosen
            )
        counts[len(drawn[7])] += 1
        assert len(drawn[1]) <= 1
    # Row 7 has six others: 0 to 5 of them, each number in a sixth of 200 steps.
    assert set(counts) == set(range(MAX_EXAMPLES + 1)) and min(counts.values()) > 15
    assert draw_examples(TASKS, QUERIES, POSITIVES, (7, 0)) != draw_examples(
        TASKS, QUERIES, POSITIVES, (8, 0)
    )


def test_a_row_alone_has_no_example():
    assert draw_examples(["qa"], [0], [1], (0, 0)) == [()]


def test_examples_are_joined_by_blank_lines_before_the_prompt(tokenizer):
    rows = [
        Example("gold", "in the vein", "sts"),
        Example("ore", "in the rock", "sts"),
        Example("lamp", "x", "qa"),
    ]
    prefixes, left_out = example_prefixes(rows, [(1,), (), (1, 0)], PROMPTS, tokenizer.uncut, 500)
    head = "Instruct: Find the rock\nQuery: "
    first, second = f"{head}gold\nin the vein\n\n", f"{head}ore\nin the rock\n\n"
    assert prefixes == [second + head, head, second + first + "Instruct: Find the answer\nQuery: "]
    assert left_out == 0


def test_a_template_that_ends_in_a_suffix_shows_it_before_the_document(tokenizer):
    prompts = Prompts(**instructed("<instruct>{task}\n<query>{query}\n<response>", {"qa": "Find"}))
    rows = [Example("gold", "in the vein", "qa"), Example("ore", "in the rock", "qa")]
    prefixes, _ = example_prefixes(rows, [(1,), ()], prompts, tokenizer.uncut, 500)
    shown = "<instruct>Find\n<query>ore\n<response>in the rock\n\n<instruct>Find\n<query>"
    assert prefixes[0] == shown and prompts.suffix == "\n<response>"


def test_an_example_is_cut_by_tokens(tokenizer):
    long = "gold and silver in the vein " * 60
    prefixes, _ = example_prefixes(
        [Example(long, long, "sts"), Example("ore", "rock", "sts")],
        [(), (0,)],
        PROMPTS,
        tokenizer.uncut,
        2000,
    )
    shown = prefixes[1].split("\n\n")[0].removeprefix("Instruct: Find the rock\nQuery: ")
    query, document = shown.split("\n")
    for text, limit in ((query, MAX_QUERY_TOKENS), (document, MAX_DOCUMENT_TOKENS)):
        assert (
            long.startswith(text) and len(tokenizer.uncut.encode(text, add_special_tokens=False).ids) == limit
        )
    assert cut_text(tokenizer.uncut, "gold", 64) == "gold"


def test_too_many_examples_leave_the_query_its_room_and_are_counted(tokenizer):
    rows = [Example(f"gold {number}", "in the vein " * 10, "sts") for number in range(5)]
    drawn = [(), (), (), (), (0, 1, 2, 3)]
    whole, _ = example_prefixes(rows, drawn, PROMPTS, tokenizer.uncut, 2000)
    room = 120
    prefixes, left_out = example_prefixes(rows, drawn, PROMPTS, tokenizer.uncut, room)
    # The first ones go.
    assert whole[4].endswith(prefixes[4]) and 0 < left_out < 4
    assert prefixes[4].count("\n\n") == 4 - left_out
    assert len(tokenizer.uncut.encode(prefixes[4]).ids) + MIN_OWN_TOKENS <= room


def test_the_query_alone_is_pooled(tokenizer):
    rows = [Example("gold", "in the vein", "sts"), Example("ore", "in the rock", "sts")]
    prefixes, _ = example_prefixes(rows, [(1,), (0,)], PROMPTS, tokenizer.uncut, 128)
    tokens = tokenizer.tokenize_behind(prefixes, [row.query for row in rows], "query")
    for index, row in enumerate(rows):
        ids = tokens.ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()
        assert ids == tokenizer.uncut.encode(prefixes[index] + row.query).ids
        assert tokenizer.uncut.decode(ids[tokens.pool_starts[index] :]) == f" {row.query}"


def test_a_batch_is_a_function_of_its_rows_and_seed(tokenizer):
    rows = [Example(f"gold {number}", f"vein {number}", task) for number, task in enumerate(TASKS)]
    tokens, left_out = tokenize_batch(tokenizer, rows, QUERIES, POSITIVES, (3, 5))
    drawn = draw_examples(TASKS, QUERIES, POSITIVES, (3, 5))
    prefixes, expected = example_prefixes(rows, drawn, PROMPTS, tokenizer.uncut, 128)
    assert left_out == expected and len(tokens) == len(rows) and tokens.lengths.max() <= 128
    for index, row in enumerate(rows):
        ids = tokens.ids[tokens.offsets[index] : tokens.offsets[index + 1]].tolist()
        assert ids == tokenizer.uncut.encode(prefixes[index] + row.query).ids


def test_fixed_examples_become_part_of_the_prompts(tokenizer):
    examples = [Example("gold", "in the vein"), Example("ore", "in the rock", "sts")]
    shown = with_examples(PROMPTS, examples, tokenizer.uncut, 128)
    assert shown.query == "Query: gold\nin the vein\n\nQuery: "
    assert shown.prefix("query", "sts") == (
        "Instruct: Find the rock\nQuery: ore\nin the rock\n\nInstruct: Find the rock\nQuery: "
    )
    assert shown.prefix("query", "qa").startswith("Instruct: Find the answer\nQuery: gold\nin the vein\n\n")
    assert shown.document == "" and shown.suffix == PROMPTS.suffix
    with pytest.raises(
        ModelError, match=r"leave no room for a query(.|\n)*set max_query_tokens to \d+"
    ) as caught:
        with_examples(PROMPTS, examples, tokenizer.uncut, 40)
    needed = int(str(caught.value).rpartition("max_query_tokens to ")[2].split()[0])
    with_examples(PROMPTS, examples, tokenizer.uncut, 128)
    assert 40 < needed <= 128
