"""The score store against a dict."""

import json
import time

import numpy as np
import pytest

from cluster.errors import UserError
from cluster.storage import open_storage
from pipelines.score.keys import pair_keys, text_keys
from pipelines.score.store import ScoreStore


@pytest.fixture
def store(tmp_path):
    return ScoreStore(open_storage(str(tmp_path)), "teacher", "f" * 20)


def keys(numbers) -> np.ndarray:
    documents = text_keys([f"d{number}" for number in numbers])
    return pair_keys(documents, text_keys([f"q{number}" for number in numbers]))


def put(store, numbers, offset=0.0):
    time.sleep(0.002)  # deltas are ordered by the millisecond
    made = keys(numbers)
    order = np.argsort(made)
    return store.write(made[order], np.asarray(numbers, np.float32)[order] + np.float32(offset))


def test_every_score_is_found_and_the_first_one_counts(store):
    generator = np.random.default_rng(0)
    expected: dict[int, float] = {}
    paths = []
    for round_ in range(6):
        numbers = generator.permutation(300)[:60].tolist()
        paths.append(put(store, numbers, offset=round_ * 1000).path)
        for number in numbers:
            expected.setdefault(number, number + round_ * 1000)
    wanted = np.sort(keys(range(300)))
    deltas = store.deltas()
    scores, origins = store.look_up(wanted, deltas)
    number_of = dict(zip(keys(range(300)).tolist(), range(300), strict=True))
    for key, score, origin in zip(wanted.tolist(), scores.tolist(), origins.tolist(), strict=True):
        known = expected.get(number_of[key])
        assert (np.isnan(score) and origin == -1) if known is None else score == known
        if known is not None:
            assert deltas[origin].path == paths[int(known // 1000)]
    again, _ = store.look_up(wanted, deltas[::-1])
    np.testing.assert_array_equal(again, scores)


def test_a_delta_lies_in_a_folder_of_its_buckets_and_others_are_not_opened(store):
    delta = put(store, range(40))
    firsts = sorted(int(key[:2].hex()[:3], 16) for key in keys(range(40)).tolist())
    assert (delta.first, delta.last) == (firsts[0], firsts[-1])
    path = store.storage.get_file(f"{store.key}/{delta.path}")
    path.write_bytes(b"")
    missing = np.sort(text_keys([str(i) for i in range(5000)]))
    below = missing[[int(key[:2].hex()[:3], 16) < firsts[0] for key in missing.tolist()]]
    assert len(below)
    _, origins = store.look_up(pair_keys(below, below), store.deltas())
    assert (origins == -1).all()


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), lambda path: path.unlink()]
)
def test_a_damaged_delta_is_refused(store, damage):
    delta = put(store, range(5))
    damage(store.storage.get_file(f"{store.key}/{delta.path}"))
    with pytest.raises(UserError, match=r"score store is (damaged|gone)(.|\n)*run again"):
        store.look_up(np.sort(keys(range(5))), [delta])


def test_two_runs_at_once_leave_one_answer(store):
    wanted = np.sort(keys(range(20)))
    first, second = put(store, range(20)), put(store, range(20), offset=1e-3)
    scores, origins = store.look_up(wanted, store.deltas())
    older = min((first, second), key=lambda delta: delta.age)
    assert {store.deltas()[origin].path for origin in origins.tolist()} == {older.path}
    np.testing.assert_array_equal(scores, store.look_up(wanted, [older])[0])


def test_other_files_are_no_deltas(store):
    put(store, [1])
    for digest in ("1", "2"):
        store.describe({"digest": digest})
    assert json.loads(store.storage.read(f"{store.key}/teacher.json")) == {"digest": "1"}
    assert len(store.deltas()) == 1


def test_what_is_not_finite_is_not_stored(store):
    with pytest.raises(AssertionError):
        store.write(keys([1]), np.array([np.nan], np.float32))
    assert store.deltas() == []
