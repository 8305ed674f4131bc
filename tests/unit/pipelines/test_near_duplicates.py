import numpy as np

from pipelines.near_duplicates import Shingles, near_duplicates


def words(generator, count):
    return [f"w{number}" for number in generator.integers(0, 5000, count)]


def naive(texts, threshold, width):
    def shingles(text):
        parts = text.lower().split()
        return {tuple(parts[i : i + width]) for i in range(max(1, len(parts) - width + 1))}

    sets = [shingles(text) for text in texts]
    return [
        [i, j]
        for i in range(len(sets))
        for j in range(i + 1, len(sets))
        if len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j])
    ]


def test_pairs_equal_brute_force():
    generator = np.random.default_rng(0)
    texts = []
    for _ in range(30):
        original = words(generator, int(generator.integers(40, 120)))
        texts.append(" ".join(original))
        for changes in (1, 2, 3):
            twin = list(original)
            for place in generator.integers(0, len(twin), changes):
                twin[place] = "changed"
            texts.append(" ".join(twin))
    for threshold in (0.3, 0.5, 0.8):
        expected = naive(texts, threshold, 5)
        assert len(expected) > 20
        assert near_duplicates(texts, threshold).tolist() == expected


def test_word_order_does_not_matter_at_width_one():
    texts = ["merge two frames", "Frames: two, merge!", "merge two files"]
    assert near_duplicates(texts, 0.8, width=1).tolist() == [[0, 1]]


def test_short_and_wordless_texts():
    assert near_duplicates(["a b", "a b", "a c", "...", "!"], 0.9).tolist() == [[0, 1], [3, 4]]
    assert near_duplicates(["one"], 0.5).shape == (0, 2)
    assert near_duplicates([], 0.5).shape == (0, 2)


def test_combining_marks_stay_in_words_and_han_is_read_by_character():
    assert Shingles(["\u0939\u093f\u0928\u094d\u0926\u0940"], 1).jaccard(0, 0) == 1.0
    assert len(Shingles(["\u0939\u093f\u0928\u094d\u0926\u0940"], 1).of(0)) == 1
    assert len(Shingles(["\u4e2d\u6587\u5b57"], 1).of(0)) == 3


def test_a_large_group_is_connected_with_few_pairs():
    texts = ["the same boilerplate text for everybody"] * 300 + ["something else entirely, said once"]
    pairs = near_duplicates(texts, 0.5)
    assert len(pairs) < 600
    assert set(pairs.ravel().tolist()) == set(range(300))
