"""From loads to wall time on a cluster definition, and what the user is warned of."""

from dataclasses import replace

import pytest

from cluster.definition import load_definition
from cluster.errors import UserError
from pipelines.cost.accelerators import find_accelerator
from pipelines.cost.estimate import EXACT_BUDGET_PAIRS, estimate
from pipelines.cost.rates import processor_rates
from pipelines.cost.seats import NODE_START_S, Hardware, seat_of
from pipelines.cost.shape import ModelShape
from pipelines.cost.texts import Texts
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import EncodeWork, IngestWork, PlannedStep, SearchWork

SHAPE = ModelShape(6, 384, 384, 12, 1536, 589_824, 1_769_472, 1_769_472, 11_917_056, 30522)
TEXTS = Texts(10_000_000, 150.0, 25_000.0, 600.0)
ENCODE = EncodeWork(SHAPE, "bfloat16", (TEXTS,), 4096, 192, 384, "float16", 1600)
CLUSTER = Hardware(load_definition("h100x8"))
LOCAL = Hardware(load_definition("local"), processor_rates(has_bfloat16=True), storage_bytes_s=1e12)


def step(work, stage="encode", setting=""):
    return PlannedStep("x", stage, "x", work, setting)


def search(num_queries, num_documents, **settings):
    stored = {"group_bytes": 2**38, "embedding_bytes": 1544}
    lists = {"num_lists": round(4 * num_documents**0.5), "num_probes": 32, "training_sample": 131_072}
    return SearchWork(num_queries, num_documents, 768, 100, **stored, **lists, **settings)


def test_actors_share_the_work():
    silent = replace(ENCODE, texts=(replace(TEXTS, mean_bytes=0),))
    cost = estimate([step(silent)], replace(CLUSTER, storage_bytes_s=1e15)).steps[0]
    # Two nodes of eight: sixteen actors, 1,600 shards.
    assert (cost.device, cost.actors) == ("H100", 16)
    assert cost.wall_s - cost.start_s == pytest.approx(cost.device_hours * 3600 / 16)


def test_nodes_read_and_write_side_by_side():
    slow = replace(CLUSTER, storage_bytes_s=1.0)
    cost = estimate([step(replace(ENCODE, texts=(replace(TEXTS, mean_bytes=0),)))], slow).steps[0]
    assert cost.bound == "storage"
    assert cost.wall_s - cost.start_s == pytest.approx(cost.storage_bytes / 2)


def test_a_last_round_that_is_not_full_takes_as_long_as_the_others():
    even, odd = (estimate([step(replace(ENCODE, num_shards=shards))], LOCAL).steps[0] for shards in (1000, 1))
    actors = seat_of(LOCAL, "encode").actors
    computing = even.wall_s - even.start_s
    assert odd.actors == 1
    assert odd.wall_s - odd.start_s == pytest.approx(actors * computing, rel=0.01)


def test_tokenising_can_be_what_takes_the_longest():
    long_texts = replace(TEXTS, mean_bytes=100_000.0)
    cost = estimate([step(replace(ENCODE, texts=(long_texts,)))], CLUSTER).steps[0]
    assert cost.bound == "tokenising"
    assert cost.wall_s - cost.start_s == pytest.approx(long_texts.num_bytes / 2.3e6 / 64, rel=0.01)


def priced(**prices):
    definition = CLUSTER.definition
    workers = [
        each.model_copy(update={"price_per_hour": prices.get(each.name)}) for each in definition.workers
    ]
    head = definition.head.model_copy(update={"price_per_hour": prices.get("head")})
    return replace(CLUSTER, definition=definition.model_copy(update={"workers": workers, "head": head}))


def test_the_price_is_that_of_the_nodes_that_work_and_of_the_head():
    steps = [PlannedStep("data", "ingest", "x", IngestWork((TEXTS,))), step(ENCODE)]
    result = estimate(steps, priced(gpu=50.0, cpu=1.0, head=0.4))
    encode = result.steps[1]
    # Sixteen actors fill two nodes of eight GPUs, three of them one.
    assert encode.price == pytest.approx(2 * 50.0 * encode.wall_s / 3600)
    assert result.price == pytest.approx(encode.price + 0.4 * result.wall_s / 3600)
    few = estimate([step(replace(ENCODE, num_shards=3))], priced(gpu=50.0)).steps[0]
    assert few.actors == 3 and few.price == pytest.approx(50.0 * few.wall_s / 3600)


def test_without_the_price_of_what_works_there_is_none():
    for prices in ({}, {"cpu": 1.0}, {"head": 0.4}):
        assert estimate([step(ENCODE)], priced(**prices)).price is None


def test_totals_add_up_and_name_what_dominates():
    steps = [
        PlannedStep("data", "ingest", "x", IngestWork((TEXTS,))),
        PlannedStep("embeddings", "encode", "x", ENCODE),
    ]
    result = estimate(steps, CLUSTER)
    starting = NODE_START_S * sum(CLUSTER.definition.group(name).min == 0 for name in ("gpu",))
    assert result.wall_s == pytest.approx(sum(cost.wall_s for cost in result.steps) + starting)
    assert result.storage_bytes == pytest.approx(sum(cost.storage_bytes for cost in result.steps))
    assert result.device_hours["H100"] == pytest.approx(result.steps[1].device_hours)
    longest = max(result.steps, key=lambda cost: cost.wall_s)
    assert result.dominant == longest.step


@pytest.mark.parametrize(("factor", "is_warned"), [(0.99, False), (1.01, True)])
def test_ivf_is_recommended_beyond_the_exact_budget(factor, is_warned):
    documents = 10**8
    work = search(int(factor * EXACT_BUDGET_PAIRS / documents), documents)
    result = estimate([step(work, "search", "mine.search.index")], CLUSTER)
    told = [warning for warning in result.warnings if "mine.search.index: ivf" in warning]
    assert bool(told) == is_warned
    assert result.steps[0].exact_budget == pytest.approx(factor, rel=1e-3)


def test_a_processor_is_told_to_search_approximately_after_an_hour():
    seat = seat_of(LOCAL, "search")
    rate = seat.rates.of("float32") * seat.actors * seat.devices
    documents = 10**7
    for hours, is_warned in ((0.9, False), (1.1, True)):
        queries = int(hours * 3600 * rate / (2 * documents * 768))
        result = estimate([step(search(queries, documents), "search", "mine.search.index")], LOCAL)
        assert any("ivf" in warning for warning in result.warnings) == is_warned


def test_ivf_is_not_recommended_where_it_is_chosen():
    result = estimate([step(search(10**7, 10**9, index="ivf"), "search", "mine.search.index")], CLUSTER)
    assert not any("ivf" in warning for warning in result.warnings)


def test_an_actor_that_does_not_fit_is_named_with_its_remedy():
    large = ModelShape(
        80, 8192, 8192, 64, 28672, 150_994_944, 855_000_000, 855_000_000, 1_050_000_000, 128_000
    )
    train = TrainWork(large, "bfloat16", (Texts(1000, 512, 512**2, 2000),), 10, 8, 1, False, 1)
    warnings = estimate([step(train, "train")], CLUSTER).warnings
    assert any("GiB on a H100" in warning and "zero_stage" in warning for warning in warnings)
    encode = replace(ENCODE, shape=large)
    assert any("encode.token_budget" in warning for warning in estimate([step(encode)], CLUSTER).warnings)


def test_a_named_accelerator_stands_in_for_one_of_each_role():
    cost = estimate([step(ENCODE)], replace(LOCAL, accelerator="h200")).steps[0]
    assert (cost.device, cost.actors) == ("h200", 1)


def test_an_unknown_accelerator_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="H100"):
        find_accelerator("H10O".lower(), "--accelerator")


def test_a_definition_without_accelerator_is_refused():
    definition = load_definition("h100x8")
    nameless = [group.model_copy(update={"accelerator": None}) for group in definition.workers]
    with pytest.raises(UserError, match="--accelerator"):
        estimate([step(ENCODE)], Hardware(definition.model_copy(update={"workers": nameless})))
