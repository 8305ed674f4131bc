"""Instructions by task: what is rendered, where pooling starts, what is exported, what survives a cut."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from models.checkpoint import load_encoder, save_encoder, verify_export
from models.errors import ModelError
from models.inference import embed
from models.prompt_length import count_alone, is_miscounted, read_prompts_alone
from models.prompts import TEMPLATE, Prompts, instructed, split_template
from models.sentence_layout import check_prompts
from models.tokenization import TextTokenizer
from models.tokenizer_files import load_backend
from tests.tiny_decoders import TEXTS, make_decoder

INSTRUCTIONS = {"retrieval": "Given a question, find the passage that answers it", "sts": "Find the rock"}
PROMPTS = Prompts(query="Query: ", document="", **instructed(TEMPLATE, INSTRUCTIONS))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return make_decoder(tmp_path_factory.mktemp("decoder") / "model")


def rows(tokens):
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def test_a_task_decides_the_prompt_of_queries_alone():
    assert PROMPTS.render("gold", "query", "sts") == "Instruct: Find the rock\nQuery: gold"
    assert PROMPTS.render("gold", "query", "nli") == PROMPTS.render("gold", "query") == "Query: gold"
    assert PROMPTS.render("gold", "document", "sts") == "gold"
    short = Prompts(**instructed("{task}: {query}", INSTRUCTIONS))
    assert short.render("gold", "query", "sts") == "Find the rock: gold"


def test_templates_that_do_not_hold_their_parts_are_refused():
    assert split_template("a{task}b{query}c") == ("a", "b", "c")
    for wrong in ("{task}", "{query}", "{query} {task}", "{task}{task}{query}", "{task}{query}{query}"):
        with pytest.raises(ValueError, match="a template holds"):
            split_template(wrong)


def test_pooling_starts_at_the_query_by_offsets_where_bpe_merges_the_last_space(decoder):
    tokenizer = TextTokenizer.load(decoder, PROMPTS, 64, 64)
    tasks = ["sts", "retrieval", "", "nli", "sts"]
    texts = ["gold and silver", "what is a stope?", "rock", "the water", "water"]
    tokens = tokenizer.tokenize(texts, "query", tasks)
    backend = load_backend(decoder)
    for row, start, text, task in zip(rows(tokens), tokens.pool_starts, texts, tasks, strict=True):
        assert row == backend.encode(PROMPTS.render(text, "query", task)).ids
        # Every character of the text is pooled, and of the prompt nothing but the space that was merged.
        assert backend.decode(row[start:]) == f" {text}"
        alone = len(backend.encode(PROMPTS.prefix("query", task)).ids)
        assert start == alone - 1
    assert not tokenizer.tokenize(texts, "document", tasks).pool_starts.any()


def test_one_task_at_a_time_gives_the_same_tokens(decoder):
    tokenizer = TextTokenizer.load(decoder, PROMPTS, 64, 64)
    together = tokenizer.tokenize(TEXTS, "query", ["sts", ""] * (len(TEXTS) // 2) + [""] * (len(TEXTS) % 2))
    for index, text in enumerate(TEXTS):
        alone = tokenizer.tokenize([text], "query", ["" if index % 2 or index == len(TEXTS) - 1 else "sts"])
        one = together.take(np.array([index]))
        assert (
            alone.ids.tolist() == one.ids.tolist() and alone.pool_starts.tolist() == one.pool_starts.tolist()
        )


def test_suffix_and_special_tokens_survive_a_cut(tmp_path):
    directory = make_decoder(tmp_path / "model", eos=True)
    prompts = Prompts(**instructed("{task}\n{query}\nanswer:", {"sts": "Find the rock"}))
    backend = load_backend(directory)
    text = "gold and silver in the vein, copper in the rock " * 3
    whole = backend.encode(prompts.render(text, "query", "sts")).ids
    tail = backend.encode("\nanswer:", add_special_tokens=False).ids
    head = len(backend.encode("Find the rock\n", add_special_tokens=False).ids) + 1
    for limit in (100, 30, 20):
        tokens = TextTokenizer.load(directory, prompts, limit, 64).tokenize([text], "query", ["sts"])
        ids = tokens.ids.tolist()
        assert len(ids) == min(limit, len(whole)) and ids[0] == 1 and ids[-1] == 2
        assert (
            ids[-1 - len(tail) : -1] == tail
            and ids[: len(ids) - len(tail) - 1] == whole[: len(ids) - len(tail) - 1]
        )
        assert tokens.pool_starts.tolist() == [head]
    # Nothing is left of the query: everything is pooled, and the suffix is still there.
    tokens = TextTokenizer.load(directory, prompts, len(tail) + 4, 64).tokenize([text], "query", ["sts"])
    assert tokens.ids.tolist() == [*whole[:3], *tail, 2] and tokens.pool_starts.tolist() == [0]
    assert TextTokenizer.load(directory, prompts, 64, 64).tokenize(["gold"], "document").ids.tolist()[-1] == 2


def test_an_empty_text_has_a_token(tmp_path):
    directory = make_decoder(tmp_path / "model", bos=False)
    tokens = TextTokenizer.load(directory, Prompts(), 16, 16).tokenize(["", "gold"], "document")
    assert tokens.lengths.tolist()[0] == 1
    emb_ND = embed(load_encoder(directory, attention="bidirectional"), tokens)
    np.testing.assert_allclose(np.linalg.norm(emb_ND, axis=1), 1, atol=1e-6)


def test_a_prompt_alone_is_counted_as_before_a_text(decoder):
    backend = load_backend(decoder)
    prompts = [*PROMPTS.named.values()]
    assert all(is_miscounted(backend, prompt) for prompt in prompts)
    mended = Tokenizer.from_str(read_prompts_alone(backend, prompts))
    for prompt in prompts:
        assert not is_miscounted(mended, prompt)
        assert count_alone(mended, prompt) == count_alone(backend, prompt) - 1
    for text in [*TEXTS, *(prompt + text for prompt in prompts for text in TEXTS), "Query:", " Query: "]:
        assert mended.encode(text).ids == backend.encode(text).ids
        assert mended.encode(text).offsets == backend.encode(text).offsets
    assert read_prompts_alone(backend, ["Query:\n", "Find:"]) is None


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("task", ["", "sts"])
def test_sentence_transformers_leaves_the_same_tokens_out(family, task, tmp_path):
    source = make_decoder(tmp_path / "source", family)
    encoder = load_encoder(source, attention="bidirectional")
    save_encoder(encoder, tmp_path / "saved", source, PROMPTS, 64)
    assert Prompts.from_directory(tmp_path / "saved") == PROMPTS
    assert verify_export(tmp_path / "saved", TEXTS, task) > 0.9999
    tasks = [task] * len(TEXTS)
    before, after = (
        TextTokenizer.load(directory, PROMPTS, 64, 64).tokenize(TEXTS, "query", tasks)
        for directory in (source, tmp_path / "saved")
    )
    assert np.array_equal(before.ids, after.ids) and np.array_equal(before.pool_starts, after.pool_starts)


def test_a_family_whose_tokenizer_cannot_be_mended_is_refused_before_training(tmp_path):
    qwen = make_decoder(tmp_path / "qwen", "qwen2")
    with pytest.raises(ModelError, match=r"leave the first word(.|\n)*line break"):
        check_prompts(qwen, PROMPTS, "mean")
    check_prompts(qwen, PROMPTS, "last")
    check_prompts(qwen, Prompts(**instructed("{task}\n{query}", INSTRUCTIONS)), "mean")
    check_prompts(make_decoder(tmp_path / "llama"), PROMPTS, "latent_attention")


def test_without_the_mending_sentence_transformers_would_drop_the_first_word(tmp_path, monkeypatch):
    source = make_decoder(tmp_path / "source")
    monkeypatch.setattr("models.sentence_layout._count_prompts_right", lambda directory, prompts: None)
    save_encoder(load_encoder(source), tmp_path / "saved", source, PROMPTS, 64)
    with pytest.raises(ModelError, match="embeds this model's texts differently"):
        verify_export(tmp_path / "saved", TEXTS, "sts")


def test_a_suffix_is_exported_and_checked(tmp_path):
    source = make_decoder(tmp_path / "source", eos=True)
    prompts = Prompts(**instructed("{task}\n{query}\nanswer:", {"sts": "Find the rock"}))
    save_encoder(load_encoder(source, pooling="last"), tmp_path / "saved", source, prompts, 64)
    assert Prompts.from_directory(tmp_path / "saved") == prompts
    assert verify_export(tmp_path / "saved", TEXTS, "sts") > 0.9999
    # Queries beyond the limit: sentence-transformers alone would cut the suffix off.
    long = [f"{text} {' and '.join(TEXTS)}" for text in TEXTS]
    assert verify_export(tmp_path / "saved", long, "sts") > 0.9999


def test_queries_and_documents_are_each_compared_at_their_own_limit(tmp_path):
    source = make_decoder(tmp_path / "source", eos=True)
    prompts = Prompts(query=f"{TEXTS[0]}\n{TEXTS[1]}\n\nQuery:\n", document="Passage:\n")
    save_encoder(load_encoder(source), tmp_path / "saved", source, prompts, 90)
    long = [f"{text} {' and '.join(TEXTS)}" for text in TEXTS]
    assert verify_export(tmp_path / "saved", long, "", "query", 90) > 0.9999
    assert verify_export(tmp_path / "saved", long, "", "document", 24) > 0.9999
    # Less than the prompt has.
    assert verify_export(tmp_path / "saved", long, "", "query", 24) > 0.9999


def test_instructions_change_the_embedding_and_are_not_pooled(decoder):
    encoder = load_encoder(decoder, attention="bidirectional")
    tokenizer = TextTokenizer.load(decoder, PROMPTS, 64, 64)
    tokens = tokenizer.tokenize(["gold"], "query", ["sts"])
    emb_D = embed(encoder, tokens)[0]
    with torch.no_grad():
        hidden_TD = encoder.backbone(torch.from_numpy(tokens.ids[None].astype(np.int64))).last_hidden_state[0]
    pooled_D = hidden_TD[int(tokens.pool_starts[0]) :].mean(0)
    np.testing.assert_allclose(emb_D, pooled_D / pooled_D.norm(), atol=2e-6)
    assert emb_D @ embed(encoder, tokenizer.tokenize(["gold"], "query"))[0] < 0.999


def test_a_prompt_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "config_sentence_transformers.json"
    for content in ({"prompts": {"sts": ["Find"]}}, {"query_suffix": 3}):
        path.write_text(json.dumps(content))
        with pytest.raises(ModelError, match="is no text"):
            Prompts.from_directory(tmp_path)
