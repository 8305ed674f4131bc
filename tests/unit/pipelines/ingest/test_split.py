from collections import Counter

import numpy as np
import pytest

from pipelines.ingest.config import SplitRatios
from pipelines.ingest.split import assign_components, split_queries


def test_ratios_hold_by_queries():
    splits = assign_components(np.arange(1000), SplitRatios(), seed=0)
    assert Counter(splits) == {"train": 700, "dev": 100, "test": 200}
    mixed = np.repeat(np.arange(300), np.random.default_rng(0).integers(1, 6, 300))
    counts = Counter(assign_components(mixed, SplitRatios(), seed=0))
    for split, ratio in (("train", 0.7), ("dev", 0.1), ("test", 0.2)):
        assert counts[split] == pytest.approx(ratio * len(mixed), abs=5)


def test_components_stay_whole_and_the_seed_decides():
    labels = np.repeat(np.arange(50), 4)
    splits = assign_components(labels, SplitRatios(), seed=1)
    assert all(len({splits[i] for i in np.flatnonzero(labels == label)}) == 1 for label in range(50))
    assert splits == assign_components(labels, SplitRatios(), seed=1)
    assert splits != assign_components(labels, SplitRatios(), seed=2)


def test_a_giant_component_goes_to_training():
    labels = np.array([0] * 60 + list(range(1, 41)))
    splits = assign_components(labels, SplitRatios(), seed=0)
    assert Counter(splits) == {"train": 70, "dev": 10, "test": 20}
    assert set(splits[:60]) == {"train"}


def test_a_split_of_ratio_zero_stays_empty():
    splits = assign_components(np.arange(50), SplitRatios(train=0.8, dev=0, test=0.2), seed=0)
    assert Counter(splits) == {"train": 40, "test": 10}


def test_shared_documents_near_twins_and_like_queries_join():
    generator = np.random.default_rng(0)
    body = [" ".join(f"w{n}" for n in generator.integers(0, 10_000, 40)) for _ in range(200)]
    documents = [*body, body[0] + " and a little more"]
    queries = [f"topic{n} explained" for n in range(199)] + ["explained topic5", "new topic", "another theme"]
    edges = np.array([(n, n) for n in range(200)] + [(200, 7), (201, 200)])
    for seed in (0, 1):
        found = split_queries(queries, documents, edges, SplitRatios(), 0.5, seed)
        assert found.of_query[201] == found.of_query[0]
        assert found.of_query[200] == found.of_query[7]
        assert found.of_query[199] == found.of_query[5]
        assert found.num_near_duplicates == 1
        assert found.component_sizes[:4] == [2, 2, 2, 1]
