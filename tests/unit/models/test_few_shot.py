"""Examples before a query: who is drawn, how they are cut and joined, and that a query keeps its tokens."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from models.errors import ModelError
from models.few_shot import (
    MAX_DOCUMENT_TOKENS,
    MAX_QUERY_TOKENS,
    Example,
    cut_texts,
    draw_examples,
    render_examples,
    tokenize_behind_examples,
    with_examples,
)
from models.prompts import TEMPLATE, Prompts, instructed
from models.tokenization import TextTokenizer
from tests.tiny_decoders import make_decoder

PROMPTS = Prompts(query="Query: ", **instructed(TEMPLATE, {"sts": "Find the rock", "qa": "Find the answer"}))
HEAD = "Instruct: Find the rock\nQuery: "
TASKS = ["sts", "qa", "sts", "sts", "qa", "sts", "sts", "sts", "sts"]
POSITIVES = [10, 11, 12, 10, 14, 15, 16, 17, 18]
# Row 5's positive answers row 2 too.
ANSWERS = [{10}, {11}, {12, 15}, {10}, {14}, {15}, {16}, {17}, {18}]
MOST = 5


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    directory = make_decoder(tmp_path_factory.mktemp("decoder") / "model", eos=True)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    return directory


@pytest.fixture(scope="module")
def tokenizer(decoder):
    return TextTokenizer.load(decoder, PROMPTS, 128, 128)


def rows_of(tokens):
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def test_examples_are_other_rows_of_the_task_that_do_not_tell_the_answer():
    counts, companions, missing = Counter(), Counter(), 0
    for step in range(200):
        drawn, short = draw_examples(TASKS, POSITIVES, ANSWERS, 7, 9 * step, MOST)
        assert (drawn, short) == draw_examples(TASKS, POSITIVES, ANSWERS, 7, 9 * step, MOST)
        for row, chosen in enumerate(drawn):
            assert len(set(chosen)) == len(chosen) <= MOST and row not in chosen
            for other in chosen:
                assert TASKS[other] == TASKS[row] and POSITIVES[other] != POSITIVES[row]
                assert {row, other} != {2, 5}
        counts[len(drawn[7])] += 1
        companions.update(drawn[7])
        missing += short
        assert len(drawn[1]) <= 1
    # Row 7 has six others: 0 to 5 of them, each number in a sixth of 200 steps, and each row as often.
    assert set(counts) == set(range(MOST + 1)) and min(counts.values()) > 15
    assert set(companions) == {0, 2, 3, 5, 6, 8} and min(companions.values()) > 55
    # Rows 1 and 4 have one other, so 0 + 0 + 1 + 2 + 3 + 4 of 6 draws are short; rows 0, 2, 3 and 5 have five.
    assert missing == pytest.approx(200 * 2 * 10 / 6, rel=0.15)
    assert draw_examples(TASKS, POSITIVES, ANSWERS, 7, 0, MOST) != draw_examples(
        TASKS, POSITIVES, ANSWERS, 8, 0, MOST
    )


def test_a_draw_hangs_on_the_number_of_the_row():
    """A loop over the numbers of rows draws the same, wherever a batch begins."""
    for first in (0, 1000):
        drawn, _ = draw_examples(["qa"] * 12, range(12), [{n} for n in range(12)], 3, first, MOST)
        for row, chosen in enumerate(drawn):
            generator = np.random.default_rng((3, 3, first + row))
            count = int(generator.integers(0, MOST + 1))
            expected = [other for other in generator.permutation(12).tolist() if other != row][:count]
            assert list(chosen) == expected


def test_a_row_alone_has_no_example():
    assert draw_examples(["qa"], [1], [{1}], 0, 0, 0) == ([()], 0)
    short = [draw_examples(["qa"], [1], [{1}], 0, row, 1) for row in range(20)]
    assert {drawn[0] for drawn, _ in short} == {()} and {missing for _, missing in short} == {0, 1}


def test_examples_are_joined_by_blank_lines_before_the_prompt():
    examples = [Example("gold", "in the vein", "sts"), Example("lamp", "x", "qa")]
    assert render_examples(examples, PROMPTS) == [
        f"{HEAD}gold\nin the vein\n\n",
        "Instruct: Find the answer\nQuery: lamp\nx\n\n",
    ]


def test_a_template_that_ends_in_a_suffix_shows_it_before_the_document():
    prompts = Prompts(**instructed("<instruct>{task}\n<query>{query}\n<response>", {"qa": "Find"}))
    assert render_examples([Example("ore", "in the rock", "qa")], prompts) == [
        "<instruct>Find\n<query>ore\n<response>in the rock\n\n"
    ]


def test_an_example_is_cut_by_tokens(tokenizer):
    long = "gold and silver in the vein " * 60
    for limit in (MAX_QUERY_TOKENS, MAX_DOCUMENT_TOKENS):
        whole, short = cut_texts(tokenizer.uncut, [long, "gold"], limit)
        assert long.startswith(whole) and short == "gold"
        assert len(tokenizer.uncut.encode(whole, add_special_tokens=False).ids) == limit


EXAMPLES = [Example("gold", "in the vein", "sts"), Example("ore", "in the rock, deep", "sts")]
TEXT = "gold and silver in the vein, copper in the rock " * 6


@pytest.mark.parametrize("suffix", ["", "\nanswer:"])
def test_a_query_keeps_the_tokens_that_it_has_alone(decoder, suffix):
    prompts = replace(PROMPTS, suffix=suffix)
    tokenizer = TextTokenizer.load(decoder, prompts, 40, 40)
    shown = render_examples(EXAMPLES, prompts)
    texts, tasks = [TEXT, "lamp", TEXT, "ore"], ["sts", "qa", "sts", "sts"]
    tokens, counts = tokenize_behind_examples(tokenizer, [shown, [], [], shown[1:]], texts, tasks, None)
    assert counts == [2, 0, 0, 1]
    rows, backend = rows_of(tokens), tokenizer.uncut
    alone = rows_of(tokenizer.tokenize(texts, "query", tasks))
    assert rows[1:3] == alone[1:3] and len(alone[2]) == 40
    tail = backend.encode(suffix, add_special_tokens=False).ids
    for index, before in ((0, "".join(shown)), (3, shown[1])):
        row, start = rows[index], int(tokens.pool_starts[index])
        cut = backend.decode(alone[index]).removeprefix(HEAD).removesuffix(suffix)
        assert backend.decode(row) == before + HEAD + cut + suffix
        # Pooled is what would be pooled of the query alone, its suffix and the last special token too.
        assert (
            row[start:] == alone[index][int(tokenizer.tokenize(texts, "query", tasks).pool_starts[index]) :]
        )
        assert row[0] == 1 and row[-1] == 2 and row[len(row) - 1 - len(tail) : -1] == tail
    assert len(rows[0]) == len(backend.encode("".join(shown) + HEAD + TEXT + suffix).ids) - (
        len(backend.encode(HEAD + TEXT + suffix).ids) - 40
    )


def test_the_first_examples_go_where_the_model_reads_no_more(decoder, tokenizer):
    shown = [f"{HEAD}gold {number}\n{'in the vein ' * 10}\n\n" for number in range(4)]
    whole, counts = tokenize_behind_examples(tokenizer, [shown], ["gold"], ["sts"], None)
    assert counts == [4]
    for positions in range(len(whole.ids) + 1, 20, -7):
        tokens, (count,) = tokenize_behind_examples(tokenizer, [shown], ["gold"], ["sts"], positions)
        lengths = [
            len(tokenizer.uncut.encode("".join(shown[4 - kept :]) + HEAD + "gold").ids) for kept in range(5)
        ]
        assert count == max(kept for kept in range(5) if kept == 0 or lengths[kept] <= positions)
        assert len(tokens.ids) == lengths[count]
        assert tokenizer.uncut.decode(tokens.ids.tolist()) == "".join(shown[4 - count :]) + HEAD + "gold"


def test_a_model_that_pools_its_prompts_pools_no_example(decoder):
    tokenizer = TextTokenizer.load(decoder, replace(PROMPTS, pooled=True), 40, 40)
    tokens, _ = tokenize_behind_examples(
        tokenizer, [render_examples(EXAMPLES, PROMPTS), []], [TEXT, TEXT], ["sts", "sts"], None
    )
    (row, plain), (start, own) = rows_of(tokens), tokens.pool_starts.tolist()
    assert own == 0 and row[start:] == plain[1:]


def test_training_reads_examples_as_inference_does(decoder, tokenizer):
    shown = render_examples(EXAMPLES, PROMPTS)
    fixed = TextTokenizer.load(decoder, with_examples(PROMPTS, EXAMPLES, tokenizer.uncut, 200), 200, 128)
    for text in ("gold", "what is a stope?", ""):
        tokens, _ = tokenize_behind_examples(tokenizer, [shown], [text], ["sts"], None)
        expected = fixed.tokenize([text], "query", ["sts"])
        assert tokens.ids.tolist() == expected.ids.tolist()
        assert tokens.pool_starts.tolist() == expected.pool_starts.tolist()


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
