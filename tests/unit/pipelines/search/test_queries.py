"""Which queries are searched: those of a split that the data has."""

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from pipelines import schemas
from pipelines.search.queries import find_targets

LABELS = [(0, 0, 1.0, "train"), (2, 1, 1.0, "train"), (1, 1, 2.0, "test"), (1, 2, 0.0, "dev")]


@pytest.fixture
def data(tmp_path):
    writer = ArtifactStore(str(tmp_path)).open("ingest", "tiny", "0" * 20)
    for shard, numbers in enumerate(([0, 1], [2])):
        rows = [{"query": q, "query_id": f"q{q}", "text": "", "dataset": "tiny", "task": ""} for q in numbers]
        writer.write_shard("queries", shard, pa.Table.from_pylist(rows, schema=schemas.QUERIES))
    names = schemas.QRELS.names
    rows = [dict(zip(names, label, strict=True)) for label in LABELS]
    writer.write_shard("qrels", 0, pa.Table.from_pylist(rows, schema=schemas.QRELS))
    return writer.commit(stage_version=1, num_shards={"queries": 2, "qrels": 1}, identity={}, inputs={})


def test_targets_are_the_labelled_queries_of_the_split(data):
    targets = find_targets(data, "train", 2, None)
    assert targets.queries.tolist() == [0, 2] and targets.ranges == ((0, 1), (1, 2))
    assert [targets.of_range(index).tolist() for index in (0, 1)] == [[0], [2]]
    assert np.array_equal(find_targets(data, "test", 2, None).queries, [1])


@pytest.mark.parametrize("split", ["dev", "validation"])
def test_a_split_without_a_relevant_document_is_refused(data, split):
    with pytest.raises(UserError, match=rf"= {split}: the data has no labelled query(.|\n)*test, train"):
        find_targets(data, split, 2, None)
