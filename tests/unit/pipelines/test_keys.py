import numpy as np

from pipelines.keys import find_keys, hash_keys, sort_keys


def test_keys_are_found_where_a_dict_finds_them():
    generator = np.random.default_rng(0)
    # Few high halves, so that many keys share one.
    keys_3N = np.stack(
        [generator.integers(0, 40, 500), generator.integers(0, 12, 500), np.arange(500)]
    ).astype(np.uint64)
    sorted_3N = sort_keys(keys_3N)
    first = {}
    for high, low, number in keys_3N.T.tolist():
        first.setdefault((high, low), number)
    wanted_2M = np.stack([generator.integers(0, 45, 700), generator.integers(0, 14, 700)]).astype(np.uint64)
    found = find_keys(sorted_3N, wanted_2M)
    payload = [int(sorted_3N[2, place]) if place >= 0 else None for place in found]
    assert payload == [first.get((high, low)) for high, low in wanted_2M.T.tolist()]
    assert None in payload


def test_a_memory_map_is_searched_in_place(tmp_path):
    sorted_2N = sort_keys(hash_keys([f"text {n}" for n in range(1000)], "document"))
    np.save(tmp_path / "keys.npy", sorted_2N)
    mapped = np.load(tmp_path / "keys.npy", mmap_mode="r")
    wanted = hash_keys([f"text {n}" for n in range(500, 1500)], "document")
    assert (find_keys(mapped, wanted) >= 0).tolist() == [True] * 500 + [False] * 500


def test_texts_of_two_kinds_have_different_keys():
    documents, queries = (hash_keys(["gold", "ore", ""], kind) for kind in ("document", "query"))
    assert documents.shape == (2, 3) and documents.dtype == np.uint64
    assert len({tuple(key) for key in np.concatenate([documents, queries], axis=1).T.tolist()}) == 6
    assert np.array_equal(hash_keys(["gold"], "document"), documents[:, :1])


def test_nothing():
    empty = hash_keys([], "document")
    assert empty.shape == (2, 0) and sort_keys(empty).shape == (2, 0)
    assert find_keys(empty, hash_keys(["a"], "document")).tolist() == [-1]
    assert find_keys(hash_keys(["a"], "document"), empty).tolist() == []
