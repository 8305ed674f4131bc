"""Every difference between two miners gets the reason that made it, and none that has no reason is hidden."""

import pytest

from tests.bench.mining import Chosen, differences

WINDOW, NEGATIVES = 10, 2


def side(negatives, positive=0.8, candidates=None):
    """One query `q` with its negatives, candidates in order of rank."""
    ranked = {text: (rank, score) for rank, (text, score) in enumerate((candidates or negatives).items(), 1)}
    return Chosen({"q": dict(negatives)}, {"q": positive}, {"q": ranked})


def reasons_of(peer, ours, cut_elsewhere=frozenset()):
    _, reasons, without = differences(peer, ours, WINDOW, NEGATIVES, set(cut_elsewhere))
    return dict(reasons), without


def test_equal_sides_differ_in_nothing():
    same = {"a": 0.7, "b": 0.6}
    sizes, reasons, without = differences(side(same), side(same), WINDOW, NEGATIVES, set())
    assert sizes == {"peer": 2, "stope": 2, "equal": 2, "rounding": pytest.approx(5e-8)}
    assert not reasons and not without


def test_a_tie_for_the_last_place():
    peer = side({"a": 0.7, "b": 0.6})
    ours = side({"a": 0.7, "c": 0.6}, candidates={"a": 0.7, "c": 0.6, "b": 0.6})
    tie = "tie with the last one chosen"
    assert reasons_of(peer, ours) == ({f"peer: {tie}": 1, f"Stope: {tie}": 1}, [])


def test_a_tie_with_the_bound_and_what_gives_way_to_it():
    # The bound is .76: one side takes the candidate on it, the other takes the next one in its place.
    peer = side({"edge": 0.76, "a": 0.7})
    ours = side({"a": 0.7, "b": 0.6}, candidates={"edge": 0.76, "a": 0.7, "b": 0.6})
    expected = {
        "peer: tie with the margin's bound": 1,
        "Stope: gives way to another difference of the query": 1,
    }
    assert reasons_of(peer, ours) == (expected, [])


def test_what_the_peer_does_not_look_at():
    candidates = {f"d{rank}": 0.9 - rank / 100 for rank in range(1, 31)}
    ours = side({"d20": 0.7, "d21": 0.69}, candidates=candidates)
    reason = f"Stope: beyond the {WINDOW} ranks that the peer looks at"
    assert reasons_of(side({}), ours) == ({reason: 2}, [])


def test_a_query_that_is_cut_elsewhere_says_nothing_of_rounding():
    peer, ours = side({"a": 0.7, "b": 0.6}), side({"a": 0.5, "c": 0.4})
    sizes, reasons, _ = differences(peer, ours, WINDOW, NEGATIVES, {"q"})
    assert sizes["rounding"] < 1e-6
    assert sum(reasons.values()) == 2 and all("cut at another length" in reason for reason in reasons)


def test_a_difference_without_a_reason_is_shown():
    peer = side({"a": 0.7, "b": 0.6})
    ours = side({"a": 0.7}, candidates={"a": 0.7, "b": 0.6})
    assert reasons_of(peer, ours) == ({"peer: NOT EXPLAINED": 1}, [("q", "b")])
