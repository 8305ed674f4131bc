import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from models.errors import ModelError
from models.prompts import Prompts
from models.tokenization import TextTokenizer, Tokens, concatenate

CLS, SEP = 2, 3


def load(directory, prompts=Prompts(), query=16, document=32):  # noqa: B008
    return TextTokenizer.load(directory, prompts, query, document)


def rows(tokens):
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def test_ids_equal_those_of_transformers(tiny_model, sentences):
    from transformers import AutoTokenizer

    expected = AutoTokenizer.from_pretrained(str(tiny_model))(sentences, truncation=True, max_length=32)[
        "input_ids"
    ]
    tokens = load(tiny_model).tokenize(sentences, "document")
    assert rows(tokens) == expected
    assert (
        tokens.ids.dtype == np.int32
        and tokens.offsets.dtype == np.int64
        and tokens.pool_starts.dtype == np.int32
    )
    assert not tokens.pool_starts.any()


def test_empty_text_has_special_tokens_and_no_texts_is_no_error(tiny_model):
    assert rows(load(tiny_model).tokenize([""], "query")) == [[CLS, SEP]]
    assert len(load(tiny_model).tokenize([], "query")) == 0


def test_truncation_keeps_the_special_tokens(tiny_model):
    tokens = load(tiny_model, query=8).tokenize(["gold " * 50], "query")
    assert len(tokens.ids) == 8 and tokens.ids[0] == CLS and tokens.ids[-1] == SEP


def test_pooling_starts_behind_the_prompt(tiny_model):
    tokenizer = load(tiny_model, Prompts(query="query: "))
    tokens = tokenizer.tokenize(["gold", "silver ore"], "query")
    assert tokens.pool_starts.tolist() == [3, 3]  # [CLS] query :
    assert tokenizer.tokenize(["gold"], "document").pool_starts.tolist() == [0]


def test_a_token_merged_across_the_boundary_is_pooled(tiny_model):
    # Rendered, it is "the mine": [CLS] the mine [SEP].
    tokens = load(tiny_model, Prompts(query="the mi")).tokenize(["ne"], "query")
    assert len(tokens.ids) == 4 and tokens.pool_starts.tolist() == [2]


def test_everything_is_pooled_where_no_token_of_the_text_is_left(tiny_model):
    prompts = Prompts(query="instruct : the name of the mine . ")
    tokens = load(tiny_model, prompts, query=6).tokenize(["gold", ""], "query")
    assert tokens.pool_starts.tolist() == [0, 0]


def test_pooled_prompts_are_pooled(tiny_model):
    tokens = load(tiny_model, Prompts(query="query: ", pooled=True)).tokenize(["gold"], "query")
    assert tokens.pool_starts.tolist() == [0] and len(tokens.ids) == 5


def test_take_pad_and_concatenate(tiny_model, sentences):
    tokens = load(tiny_model, Prompts(document="document: ")).tokenize(sentences, "document")
    back = concatenate([tokens.take(np.array([i])) for i in range(len(tokens))])
    assert np.array_equal(back.ids, tokens.ids) and np.array_equal(back.offsets, tokens.offsets)
    picked = tokens.take(np.array([4, 0, 4]))
    assert rows(picked) == [rows(tokens)[i] for i in (4, 0, 4)]
    ids_BT, attention_BT, pool_BT = picked.pad(8)
    assert ids_BT.shape[1] % 8 == 0 and ids_BT.shape[1] - picked.lengths.max() < 8
    assert attention_BT.sum(1).tolist() == picked.lengths.tolist()
    assert (attention_BT.sum(1) - pool_BT.sum(1)).tolist() == picked.pool_starts.tolist()
    assert ids_BT[attention_BT.bool()].tolist() == picked.ids.tolist()
    assert picked.pad(64, max_tokens=20)[0].shape[1] == 20
    assert len(concatenate([])) == 0


def test_travels_whole(tiny_model, sentences, tmp_path):
    directory = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = load(directory, Prompts(query="query: "))
    wanted = rows(tokenizer.tokenize(sentences, "query"))
    pickled = pickle.dumps(tokenizer)
    shutil.rmtree(directory)
    assert rows(pickle.loads(pickled).tokenize(sentences, "query")) == wanted


def test_who_is_handed_a_tokenizer_imports_no_model_library(tiny_model, tmp_path):
    pickled = tmp_path / "tokenizer.pickle"
    pickled.write_bytes(pickle.dumps(load(tiny_model)))
    code = """
import pathlib, pickle, sys
tokenizer = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
assert len(tokenizer.tokenize(["w1"], "document").ids) == 3
print(*sorted({"torch", "transformers"} & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", code, str(pickled)], text=True).split() == []


def test_refuses_what_does_not_fit_the_model(tiny_model, tmp_path):
    with pytest.raises(
        ModelError, match=r"max_document_tokens does not fit(.|\n)*set max_document_tokens to 64"
    ):
        load(tiny_model, document=65)
    with pytest.raises(ModelError, match="holds no model"):
        load(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": ', '"vocab_size": 10, "was": '))
    with pytest.raises(ModelError, match="more ids than the model has embeddings"):
        load(tmp_path / "m")


def test_tokens_of_nothing_pad_to_nothing():
    empty = Tokens(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32))
    assert empty.pad()[0].shape[0] == 0
