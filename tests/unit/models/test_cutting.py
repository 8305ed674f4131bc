"""Texts cut before they are compared: prompt and suffix stay whole, and of the text as much as there is room for."""

import pytest

from models.cutting import cut_to_fit
from models.prompts import Prompts
from models.tokenization import TextTokenizer
from tests.tiny_decoders import TEXTS, make_decoder

PROMPTS = Prompts(query="Query: ", document="", suffix="\nanswer:")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = make_decoder(tmp_path_factory.mktemp("cutting") / "model", eos=True)
    return TextTokenizer.load(directory, PROMPTS, 64, 64)


@pytest.mark.parametrize(("kind", "max_tokens"), [("query", 30), ("query", 64), ("document", 9)])
def test_a_cut_text_fits_with_all_that_is_around_it(tokenizer, kind, max_tokens):
    texts = [*TEXTS, " and ".join(TEXTS), "gold " * 40, "\U0001f600\u00e9" * 20, ""]
    cut = cut_to_fit(tokenizer, texts, kind, "", max_tokens)
    for text, kept in zip(texts, cut, strict=True):
        tokens, kept_tokens = (
            len(tokenizer.uncut.encode(PROMPTS.render(each, kind)).ids) for each in (text, kept)
        )
        assert text.startswith(kept) and kept_tokens <= max_tokens
        if tokens <= max_tokens:
            assert kept == text
        else:
            # A character may have four tokens.
            assert kept_tokens > max_tokens - 4


def test_where_there_is_no_room_a_text_keeps_a_token(tokenizer):
    (kept,) = cut_to_fit(tokenizer, ["gold and silver"], "query", "", 3)
    assert kept and kept != "gold and silver" and "gold and silver".startswith(kept)
