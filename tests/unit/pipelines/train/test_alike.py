"""Texts that count as one: near-duplicates, and whatever a chain of them connects."""

import numpy as np

from pipelines.train.alike import Alike, near_pairs, stand_ins


def components(pairs, size):
    """Return the smallest member of each ordinal's component, by spreading it until nothing changes."""
    lowest = list(range(size))
    for _ in range(size):
        for first, second in pairs:
            lowest[first] = lowest[second] = min(lowest[first], lowest[second])
    return lowest


def test_chains_are_followed_to_the_smallest_ordinal():
    generator = np.random.default_rng(0)
    for num_pairs in (0, 5, 20, 40):
        pairs = [tuple(pair) for pair in generator.integers(0, 50, (num_pairs, 2)).tolist()]
        found = stand_ins(pairs)
        assert [found.get(ordinal, ordinal) for ordinal in range(50)] == components(pairs, 50)


def test_an_ordinal_in_no_pair_stands_for_itself():
    alike = Alike(stand_ins([(7, 3), (7, 9)]), {})
    assert [alike.query(n) for n in (3, 7, 9, 4)] == [3, 3, 3, 4]
    assert alike.document(7) == 7


def test_pairs_are_of_ordinals():
    words = [f"w{n}" for n in range(40)]
    texts = [" ".join(words), " ".join([*words[:-1], "x"]), " ".join(reversed(words)), "short"]
    assert near_pairs([10, 20, 30, 40], texts, 0.8, 5, 0) == [(10, 20)]
    assert sorted(near_pairs([10, 20, 30, 40], texts, 0.8, 1, 0)) == [(10, 20), (10, 30), (20, 30)]
