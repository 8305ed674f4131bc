"""What artifacts say that a step took, and which step of a run a planned one stands for."""

import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from pipelines import schemas
from pipelines.cost.measured import matched, measured_of
from pipelines.cost.texts import Texts
from pipelines.cost.works import IngestWork, PlannedStep
from pipelines.steps import Step

WORK = IngestWork((Texts(1, 1, 1, 1),))


def planned(name, stage):
    return PlannedStep(name, stage, name, WORK)


def step(stage, label):
    return Step(stage, label, 1, {}, (), {}, run=lambda work: None)


def test_names_come_first_and_order_stands_in():
    first, second, other = step("search", "a"), step("search", "b"), step("train", "c")
    steps = {"candidates": first, "tuned_ranking": second, "trained": other}
    wanted = [
        planned("x_candidates", "search"),
        planned("tuned_ranking", "search"),
        planned("trained", "train"),
    ]
    assert matched(wanted, steps) == {"x_candidates": first, "tuned_ranking": second, "trained": other}


def test_a_stage_whose_steps_do_not_count_the_same_is_left_out():
    steps = {"a": step("search", "a"), "b": step("search", "b")}
    assert matched([planned("x", "search")], steps) == {}


def test_an_artifact_tells_its_time_rows_bytes_and_tokens(tmp_path):
    store = ArtifactStore(str(tmp_path))
    writer = store.open("encode", "x", "0" * 20)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array([0.0] * 12, pa.float16()), 4)
    table = schemas.conform(
        pa.table({"id": pa.array([0, 1, 2], pa.int64()), "embedding": embedding}),
        schemas.embeddings(4, "float16"),
    )
    shard = writer.write_shard("documents", 0, table)
    artifact = writer.commit(
        stage_version=1,
        num_shards={"documents": 1},
        identity={},
        inputs={},
        summary={"tokens": 30},
        seconds=7.5,
    )
    taken = measured_of(artifact)
    assert (taken.seconds, taken.rows, taken.tokens) == (pytest.approx(7.5), 3, 30)
    assert taken.storage_bytes == shard.num_bytes
    assert measured_of(artifact, 2.0).seconds == 2.0
