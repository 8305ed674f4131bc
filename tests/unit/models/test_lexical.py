import math

import numpy as np

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
