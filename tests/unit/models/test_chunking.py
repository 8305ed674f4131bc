from itertools import pairwise

import numpy as np
import pytest

from models.chunking import MAX_HEAD_SHARE, Parts, cut_document, tokenize_chunks, windows
from models.errors import ModelError
from models.prompts import Prompts
from models.tokenization import TextTokenizer

CLS, SEP = 2, 3


def load(directory, prompts=Prompts(), document=64):  # noqa: B008
    return TextTokenizer.load(directory, prompts, 16, document)


def rows(tokens):
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def naive_windows(length, size, overlap):
    found, start = [], 0
    while True:
        found.append((start, min(start + size, length)))
        if start + size >= length:
            return found
        start += size - overlap


def test_windows_equal_a_naive_loop():
    for length in range(40):
        for size in range(1, 9):
            for overlap in range(size):
                assert windows(length, size, overlap) == naive_windows(length, size, overlap)


def test_windows_cover_every_token_and_share_the_overlap():
    cut = windows(103, 10, 3)
    assert sorted({t for start, stop in cut for t in range(start, stop)}) == list(range(103))
    assert all(before[1] - after[0] == 3 for before, after in pairwise(cut))


def test_a_document_that_fits_is_what_tokenize_gives(tiny_model, sentences):
    for prompts in (Prompts(), Prompts(document="search: "), Prompts(document="search: ", pooled=True)):
        tokenizer = load(tiny_model, prompts)
        plain = tokenizer.tokenize(sentences, "document")
        chunks, counts = tokenize_chunks(tokenizer, sentences, [None] * len(sentences), 64, 8)
        assert counts.tolist() == [1] * len(sentences)
        assert rows(chunks) == rows(plain)
        assert chunks.pool_starts[:-1].tolist() == plain.pool_starts[:-1].tolist()
        assert (chunks.ids.dtype, chunks.offsets.dtype, chunks.pool_starts.dtype) == (
            plain.ids.dtype, plain.offsets.dtype, plain.pool_starts.dtype,
        )  # fmt: skip


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("title", [None, "deep shaft"])
def test_every_chunk_bears_prompt_and_title(tiny_model, title, pooled):
    prompts = Prompts(document="search: ", pooled=pooled)
    tokenizer = load(tiny_model, prompts)
    words = ["gold", "silver", "ore", "mine", "lamp", "rock", "water"] * 9
    text = " ".join(words)
    rendered = f"{title} {text}" if title else text
    chunks, counts = tokenize_chunks(tokenizer, [rendered, "lamp"], [title, None], 24, 5)

    id_of = tokenizer.uncut.token_to_id
    head = [CLS, id_of("search"), id_of(":")] + [id_of(word) for word in (title or "").split()]
    body = [id_of(word) for word in words]
    size = 24 - len(head) - 1
    expected = [[*head, *body[a:b], SEP] for a, b in naive_windows(len(body), size, 5)]
    expected.append([CLS, id_of("search"), id_of(":"), id_of("lamp"), SEP])
    assert rows(chunks) == expected
    assert counts.tolist() == [len(expected) - 1, 1]
    assert chunks.pool_starts.tolist() == [0 if pooled else 3] * len(expected)
    assert chunks.lengths.max() <= 24


def test_a_long_title_is_cut_and_the_prompt_is_not(tiny_model):
    tokenizer = load(tiny_model, Prompts(document="search: "))
    title, text = "gold " * 29 + "gold", "ore " * 50
    chunks, _ = tokenize_chunks(tokenizer, [f"{title} {text.strip()}"], [title], 42, 4)
    id_of = tokenizer.uncut.token_to_id
    for row in rows(chunks):
        assert row[1:3] == [id_of("search"), id_of(":")]
        assert row.count(id_of("gold")) == 40 // MAX_HEAD_SHARE - 2
    assert sum(row.count(id_of("ore")) for row in rows(chunks)) == 50 + 4 * (len(chunks) - 1)


def test_a_token_merged_across_a_boundary_belongs_to_the_text(tiny_model):
    # Rendered "the mine mine ...": the prompt ends inside the first "mine".
    tokenizer = load(tiny_model, Prompts(document="the mi"))
    chunks, _ = tokenize_chunks(tokenizer, ["ne " + "mine " * 20], [None], 8, 2)
    the, mine = tokenizer.uncut.token_to_id("the"), tokenizer.uncut.token_to_id("mine")
    assert rows(chunks)[0] == [CLS, the, *[mine] * 5, SEP]
    assert chunks.pool_starts.tolist() == [2] * len(chunks)


def test_no_room_for_the_text_is_refused():
    parts = Parts(ids=range(40), lead=1, prompt=6, title=0, trail=1, pool_start=7)
    assert len(cut_document(parts, 12, 3)) == 29
    with pytest.raises(ModelError, match=r"got: 2 tokens(.|\n)*more than the overlap of 3"):
        cut_document(parts, 10, 3)


def test_no_documents(tiny_model):
    chunks, counts = tokenize_chunks(load(tiny_model), [], [], 16, 2)
    assert len(chunks) == 0 and len(counts) == 0 and np.array_equal(chunks.offsets, [0])
