"""Costs of single steps: linear where the work is, and bytes as they are written."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from pipelines import schemas
from pipelines.cost.accelerators import ACCELERATORS
from pipelines.cost.model import CANDIDATE_BYTES, COSTS, SCAN_PASSES, cost_of, search_grid
from pipelines.cost.rates import PROCESSOR_FLOPS, accelerator_rates, processor_rates
from pipelines.cost.shape import ModelShape
from pipelines.cost.texts import Texts
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import EncodeWork, IndexWork, ScoreWork, SearchWork, Work

CORE = processor_rates(has_bfloat16=True)
H100 = accelerator_rates("H100", ACCELERATORS["H100"])
SHAPE = ModelShape(6, 384, 384, 12, 1536, 589_824, 1_769_472, 1_769_472, 11_917_056, 30522)
TEXTS = Texts(10_000, 150.0, 25_000.0, 600.0)
ENCODE = EncodeWork(SHAPE, "bfloat16", (TEXTS,), 4096, 192, 384, "float16", 8)
SEARCH = SearchWork(20_000, 1_000_000, 384, 100, embedding_bytes=776)
TRAIN = TrainWork(SHAPE, "bfloat16", (TEXTS,), 100, 2, 1, False, 2)
SCORE = ScoreWork(SHAPE, "bfloat16", TEXTS, 0.0, 4096, 192, 4)


def test_every_kind_of_work_has_a_cost():
    assert set(COSTS) == set(get_args(Work))


@pytest.mark.parametrize("rates", [CORE, H100], ids=["core", "H100"])
@pytest.mark.parametrize("work", [ENCODE, TRAIN], ids=["encode", "train"])
def test_twice_the_texts_take_twice_the_time(work, rates):
    once, twice = cost_of(work, rates), cost_of(replace(work, texts=(TEXTS, TEXTS)), rates)
    assert twice.flops == pytest.approx(2 * once.flops)
    assert twice.device_seconds == pytest.approx(2 * once.device_seconds)


@pytest.mark.parametrize("field", ["num_queries", "num_documents", "dimension"])
def test_exact_search_is_linear_in_queries_documents_and_dimension(field):
    more = replace(SEARCH, **{field: 4 * getattr(SEARCH, field)})
    assert cost_of(more, CORE).flops == pytest.approx(4 * cost_of(SEARCH, CORE).flops)
    assert cost_of(more, CORE).device_seconds == pytest.approx(4 * cost_of(SEARCH, CORE).device_seconds)


def test_device_seconds_are_flops_over_the_rate_that_the_stage_achieves():
    load = cost_of(ENCODE, H100)
    assert load.device_seconds == pytest.approx(load.flops / (989e12 * 0.5))
    assert cost_of(replace(ENCODE, dtype="float32"), H100).device_seconds == pytest.approx(
        load.flops / (67e12 * 0.5)
    )


def test_checkpointing_runs_the_forward_pass_once_more():
    assert cost_of(replace(TRAIN, is_checkpointed=True), CORE).flops == pytest.approx(
        4 / 3 * cost_of(TRAIN, CORE).flops
    )


def test_the_head_of_a_language_model_is_paid_for_every_pair():
    head = 2.0 * SHAPE.hidden * SHAPE.vocabulary
    more = cost_of(replace(SCORE, head_flops=head), CORE).flops - cost_of(SCORE, CORE).flops
    assert more == pytest.approx(head * TEXTS.count)


def test_unfused_scores_are_bound_by_memory_and_fused_ones_by_products():
    unfused = cost_of(replace(SEARCH, dtype="bfloat16"), H100)
    fused = cost_of(replace(SEARCH, dtype="bfloat16", is_fused=True), H100)
    scores = SEARCH.num_queries * SEARCH.num_documents
    assert (unfused.bound, fused.bound) == ("memory", "matmul")
    assert unfused.device_seconds > 8 * scores / 3350e9
    assert fused.device_seconds == pytest.approx(fused.flops / (989e12 * 0.7))


def test_the_grid_holds_every_document_and_query():
    work = replace(SEARCH, group_bytes=4 * 384 * 1000, range_queries=3000)
    assert search_grid(work) == (1000, 7)
    assert cost_of(work, CORE).num_tasks == 7000


def inverted(queries, documents, **settings):
    lists = {"num_lists": 4096, "num_probes": 32, "training_sample": 131_072}
    return SearchWork(queries, documents, 384, 100, index="ivf", **lists | settings)


def test_inverted_lists_are_trained_on_processors_assigned_by_products_and_scanned_by_reading():
    queries, documents, dimension = 10**6, 10**8, 384
    gpu, core = (cost_of(inverted(queries, documents), rates) for rates in (H100, CORE))
    scanned = queries * documents * 32 / 4096
    assigned = 2.0 * dimension * 4096 * (queries + documents) / (H100.of("float32") * H100.shares.search)
    read = SCAN_PASSES * 4.0 * dimension * scanned / H100.memory_bytes_s
    assert gpu.device_seconds == pytest.approx(assigned + read)
    assert core.device_seconds > 10 * gpu.device_seconds
    trained = 2.0 * dimension * 4096 * 10 * 131_072 / PROCESSOR_FLOPS["float32"]
    merged = cost_of(replace(inverted(queries, documents), index="exact"), H100).core_seconds
    assert gpu.core_seconds == core.core_seconds == pytest.approx(trained + merged)


def test_more_probes_cost_more_and_more_lists_are_scanned_less():
    few, more = (cost_of(inverted(10**6, 10**8, num_probes=count), CORE) for count in (8, 64))
    assert few.device_seconds < more.device_seconds
    wide, narrow = (cost_of(inverted(10**9, 10**8, num_lists=count), CORE) for count in (1024, 8192))
    assert narrow.device_seconds < wide.device_seconds


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_embeddings_take_the_bytes_that_are_written(tmp_path, precision):
    rows, dimension = 1000, 384
    rng = np.random.default_rng(0)
    emb_ND = rng.standard_normal((rows, dimension))
    emb_ND = (emb_ND / np.linalg.norm(emb_ND, axis=1, keepdims=True)).astype(precision)
    table = schemas.conform(
        pa.table(
            {
                "id": np.arange(rows),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(emb_ND.ravel()), dimension),
            }
        ),
        schemas.embeddings(dimension, precision),
    )
    shard = ArtifactStore(str(tmp_path)).open("encode", "x", "0" * 20).write_shard("documents", 0, table)
    texts = Texts(rows, 10.0, 100.0, 40.0)
    work = replace(ENCODE, texts=(texts,), dimension=dimension, precision=precision)
    assert cost_of(work, CORE).storage_bytes == pytest.approx(shard.num_bytes, rel=0.05)


def test_candidates_take_the_bytes_that_are_written(tmp_path):
    queries, depth, documents = 300, 100, 20_000
    rng = np.random.default_rng(0)
    scores_QK = -np.sort(-rng.uniform(0.2, 0.9, (queries, depth)).astype(np.float32))
    table = schemas.conform(
        pa.table(
            {
                "query": np.repeat(np.arange(queries), depth),
                "doc": rng.integers(0, documents, queries * depth),
                "rank": np.tile(np.arange(1, depth + 1, dtype=np.int32), queries),
                "score": scores_QK.ravel(),
                "is_positive": np.zeros(queries * depth, bool),
            }
        ),
        schemas.CANDIDATES,
    )
    shard = ArtifactStore(str(tmp_path)).open("search", "x", "0" * 20).write_shard("candidates", 0, table)
    assert CANDIDATE_BYTES * queries * depth == pytest.approx(shard.num_bytes, rel=0.25)


def test_zero_stages_share_ever_more_of_the_state():
    many = replace(TRAIN, num_ranks=4)
    needs = [cost_of(replace(many, zero_stage=stage), H100).device_memory for stage in (1, 2, 3)]
    parameters = SHAPE.num_parameters
    assert needs[0] - needs[1] == pytest.approx(4 * parameters * 3 / 4)
    assert needs[1] - needs[2] == pytest.approx(4 * parameters * 3 / 4)
    crowd = replace(TRAIN, num_ranks=10_000, zero_stage=3)
    assert cost_of(crowd, H100).device_memory >= 4 * parameters, "each reads the whole model first"


def test_adapters_offloading_and_passes_take_less_memory_and_their_own_time():
    whole, adapted = cost_of(TRAIN, H100), cost_of(replace(TRAIN, adapter_parameters=100_000), H100)
    trained = SHAPE.num_parameters - 100_000
    # Adapters beside the weights, in place of gradient and optimizer state of all.
    assert whole.device_memory - adapted.device_memory == pytest.approx(10 * trained - 4 * 100_000)
    assert adapted.flops == pytest.approx(2 / 3 * whole.flops)
    assert adapted.temporary_bytes == pytest.approx(whole.temporary_bytes * 100_000 / SHAPE.num_parameters)
    assert adapted.storage_bytes == whole.storage_bytes
    offloaded = cost_of(replace(TRAIN, is_offloaded=True), H100)
    moved = 12 * SHAPE.num_parameters / TRAIN.num_ranks
    assert whole.device_memory - offloaded.device_memory == pytest.approx(moved)
    assert offloaded.host_memory - whole.host_memory == pytest.approx(moved)
    large = replace(TRAIN, texts=(TEXTS.times(100 * TEXTS.count),))
    cached = cost_of(replace(large, chunk=8), H100)
    assert cached.flops == pytest.approx(4 / 3 * cost_of(large, H100).flops)
    assert cached.device_memory < cost_of(large, H100).device_memory


def test_an_index_takes_the_bytes_that_its_documents_hold_in_memory_and_keep_beside():
    flat = IndexWork(TEXTS, 4 * 384)
    binary = IndexWork(TEXTS, 384 / 8, mapped_bytes=2 * 384, recall_flops=1e9)
    whole, small = cost_of(flat, CORE), cost_of(binary, CORE)
    assert whole.host_memory == 32 * small.host_memory == TEXTS.count * 4 * 384
    assert whole.storage_bytes - small.storage_bytes == pytest.approx(TEXTS.count * 384 * (4 - 1 / 8 - 2))
    exact = replace(binary, recall_flops=0.0)
    more = small.core_seconds - cost_of(exact, CORE).core_seconds
    assert more == pytest.approx(1e9 / (CORE.of("float32") * CORE.shares.search))
