"""What a language model is asked, and what it writes: each token the likeliest one, whatever stands in the batch."""

import json
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from models.errors import ModelError
from models.generation import TEMPLATE, QueryPrompts, QueryWriter, check_writer, first_line
from tests.tiny_rerankers import make_cross_encoder, make_decoder

DOCUMENTS = ["yes no", "we\n occupy  the house", "", "a " * 40, "a a a a a a", "no yes no yes"]
MAX_NEW = 12


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_decoder(tmp_path_factory.mktemp("decoder"), seed=3, tied=False)


def texts_of(directory, tokens):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    bounds = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    return [tokenizer.decode(tokens.ids[start:stop]) for start, stop in bounds]


def test_a_prompt_is_the_template_behind_its_examples(directory):
    examples = [("what?", "this\nand that"), ("who?", "she")]
    prompts = QueryPrompts(directory, TEMPLATE, examples, 64, MAX_NEW, 4096)
    shown = "Document: this and that\nQuery: what?\n\nDocument: she\nQuery: who?\n\n"
    for made in (prompts, pickle.loads(pickle.dumps(prompts))):
        assert texts_of(directory, made.tokenize(DOCUMENTS[:3])) == [
            f"{shown}Document: {' '.join(document.split())}\nQuery:" for document in DOCUMENTS[:3]
        ]
    assert len(prompts.tokenize([])) == 0


def test_documents_are_cut_those_of_examples_too(directory):
    prompts = QueryPrompts(directory, "{document}|", [("c " * 40, "b " * 40)], 6, 4, 4096)
    (text,) = texts_of(directory, prompts.tokenize([DOCUMENTS[3]]))
    before, _, after = text.partition("| c c \n\n")
    assert before == "b b b " and after == "a a a |"


def test_positions_that_do_not_hold_a_prompt_are_refused(tmp_path):
    directory = make_decoder(tmp_path, positions=64)
    QueryPrompts(directory, TEMPLATE, [], 20, MAX_NEW, 64)
    with pytest.raises(ModelError, match="does not fit the model's positions"):
        QueryPrompts(directory, TEMPLATE, [], 60, MAX_NEW, 4096)
    with pytest.raises(ModelError, match=r"does not fit a batch[\s\S]*set token_budget to \d+ or more"):
        QueryPrompts(directory, TEMPLATE, [], 20, MAX_NEW, 32)


def naive(directory, prompt):
    """Take the likeliest token, one by one, without a cache, to the end of the line; the text, and how it ended."""
    network = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = list(prompt)
    ended = False
    while len(ids) < len(prompt) + MAX_NEW and not ended:
        with torch.inference_mode():
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
        ended = "\n" in tokenizer.decode([ids[-1]])
    written = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    return written.split("\n")[0].strip(), ended


@pytest.mark.parametrize("examples", [[], [("yes yes", "no no no"), ("no", "we")]])
@pytest.mark.parametrize("token_budget", [128, 4096])
def test_what_is_written_is_the_likeliest_whatever_the_batch(directory, token_budget, examples):
    tokens = QueryPrompts(directory, "{document}:", examples, 32, MAX_NEW, 128).tokenize(DOCUMENTS)
    writer = QueryWriter(
        directory, dtype="float32", device="cpu", token_budget=token_budget, max_query_tokens=MAX_NEW
    )
    written = writer.write(tokens)
    rows = [
        tokens.ids[start:stop] for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    ]
    expected, ended = zip(*(naive(directory, row.tolist()) for row in rows), strict=True)
    assert tuple(written) == expected
    # Some end with their line, some are cut.
    assert set(ended) == {True, False}
    assert writer.write(tokens.take(np.array([], np.int64))) == []


def test_what_a_model_says_of_its_own_decoding_is_not_heard(directory, tmp_path):
    tokens = QueryPrompts(directory, "{document}:", [], 32, MAX_NEW, 4096).tokenize(DOCUMENTS)
    plain = writer_of(directory).write(tokens)
    network = AutoModelForCausalLM.from_pretrained(directory)
    network.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path)
    own = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 8, "num_beams": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    assert writer_of(tmp_path).write(tokens) == plain


def writer_of(directory):
    return QueryWriter(directory, dtype="float32", device="cpu", token_budget=4096, max_query_tokens=MAX_NEW)


@pytest.mark.parametrize("examples", [[], [("yes yes", "no no no"), ("no", "we")]])
def test_padding_takes_no_part_of_a_window(directory, tmp_path, examples):
    config = MistralConfig(
        vocab_size=AutoConfig.from_pretrained(directory).vocab_size, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, intermediate_size=64, initializer_range=0.3,
        sliding_window=16, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MistralForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path)
    tokens = QueryPrompts(tmp_path, "{document}:", examples, 32, MAX_NEW, 4096).tokenize(DOCUMENTS)
    rows = [
        tokens.ids[start:stop] for start, stop in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    ]
    assert writer_of(tmp_path).write(tokens) == [naive(tmp_path, row.tolist())[0] for row in rows]


def test_a_model_that_writes_no_text_is_refused(directory, tmp_path):
    check_writer(directory)
    with pytest.raises(ModelError, match=r"writes no text[\s\S]*got: BertForSequenceClassification"):
        check_writer(make_cross_encoder(tmp_path))


@pytest.mark.parametrize(
    ("text", "line"), [(" what is it?\nDocument:", "what is it?"), ("\n", ""), ("  a b ", "a b"), ("", "")]
)
def test_the_first_line_counts(text, line):
    assert first_line(text) == line
