import json
import math

import numpy as np
import pytest

from models.errors import ModelError
from models.lexical import K1, B, Bm25, words

TEXTS = ["the mine is deep", "a deep, deep shaft", "gold", "", "the gold mine", "gold", "Deep mine mine mine"]


def naive(query, text):
    documents = [words(t) for t in TEXTS]
    mean = sum(map(len, documents)) / len(documents)
    total = 0.0
    for word in words(query):
        holding = sum(word in d for d in documents)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        count = words(text).count(word)
        total += idf * count / (count + K1 * (1 - B + B * len(words(text)) / mean))
    return total


def test_scores_equal_the_formula():
    scores_QK, docs_QK = Bm25(TEXTS).search(["deep mine", "gold gold"], 7)
    for query, scores, docs in zip(["deep mine", "gold gold"], scores_QK, docs_QK, strict=True):
        expected = {i: naive(query, text) for i, text in enumerate(TEXTS) if naive(query, text) > 0}
        found = dict(zip(docs[docs >= 0].tolist(), scores[docs >= 0].tolist(), strict=True))
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([found[i] for i in found], [expected[i] for i in found], rtol=1e-5)
        assert (np.diff(scores[docs >= 0]) <= 0).all()


def test_ties_break_by_document_and_short_lists_are_padded():
    scores_QK, docs_QK = Bm25(TEXTS, first_document=100).search(["gold", "unknown words", ""], 2)
    assert docs_QK.tolist() == [[102, 105], [-1, -1], [-1, -1]]
    assert np.isneginf(scores_QK[1:]).all()
    assert Bm25(TEXTS).search(["gold"], 9)[1][0].tolist() == [2, 5, 4, -1, -1, -1, -1, -1, -1]


def test_combining_marks_belong_to_words():
    assert words("हिन्दी की किताब, 42!") == ["हिन्दी", "की", "किताब", "42"]
    assert words("Don't STOP") == ["don", "t", "stop"]


def test_texts_without_words():
    assert Bm25(["", "..."]).search(["gold"], 1)[1].tolist() == [[-1]]


QUESTIONS = ["deep mine", "gold gold", "unknown", "the gold shaft"]


def test_given_pairs_are_scored_as_retrieved_ones():
    index = Bm25(TEXTS, first_document=100)
    pairs = np.array([3, 0, 0, 2, 3]), np.array([104, 106, 102, 100, 101])
    _, _, scores = index.search_and_score(QUESTIONS, 2, *pairs)
    every_score, every_doc = index.search(QUESTIONS, 7)
    for query, doc, score in zip(*pairs, scores, strict=True):
        place = np.flatnonzero(every_doc[query] == doc)
        assert score == (every_score[query, place[0]] if len(place) else 0.0)
    assert (scores > 0).tolist() == [True, True, False, False, True]
    with pytest.raises(ModelError, match="not in the lexical index"):
        index.search_and_score(QUESTIONS, 2, np.array([0]), np.array([107]))


def test_a_saved_index_is_mapped_and_gives_the_same_to_the_bit(tmp_path):
    index = Bm25(TEXTS, first_document=3)
    index.save(tmp_path / "index")
    mapped = Bm25.load(tmp_path / "index")
    assert len(mapped) == len(TEXTS)
    for ours, theirs in zip(index.search(QUESTIONS, 5), mapped.search(QUESTIONS, 5), strict=True):
        assert np.array_equal(ours, theirs)
    with pytest.raises(ModelError, match="no such lexical index"):
        Bm25.load(tmp_path / "elsewhere")
    Bm25([""]).save(tmp_path / "empty")
    assert Bm25.load(tmp_path / "empty").search(["gold"], 1)[1].tolist() == [[-1]]


def test_words_are_numbered_as_they_first_occur(tmp_path):
    Bm25(TEXTS).save(tmp_path)
    numbers = json.loads((tmp_path / "vocab.index.json").read_text())
    # An order by hash would differ between processes, and so would the bytes of the index.
    assert [word for word in numbers if word] == ["the", "mine", "is", "deep", "a", "shaft", "gold"]
    assert list(numbers.values()) == list(range(len(numbers)))


def test_words_of_other_scripts():
    assert words("한국어 검색은 어렵다.") == ["한국어", "검색은", "어렵다"]
    assert words("\u06a9\u062a\u0627\u0628 \u0641\u0627\u0631\u0633\u06cc\u060c \u06f4\u06f2") == [
        "\u06a9\u062a\u0627\u0628",
        "\u0641\u0627\u0631\u0633\u06cc",
        "\u06f4\u06f2",
    ]
