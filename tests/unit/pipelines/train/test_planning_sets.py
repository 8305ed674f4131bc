"""A plan of several data sets: one store of texts, ordinals that do not clash, labels that hold across sets."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from models.prompts import Prompts
from pipelines import schemas
from pipelines.located_model import LocatedModel
from pipelines.steps import Step
from pipelines.train.config import TrainConfig
from pipelines.train.naming import query_name
from pipelines.train.order import Order
from pipelines.train.plan import Group
from pipelines.train.planning import with_teachers, write_plan
from pipelines.train.sources import OpenSource, Source, check_guides, input_name
from pipelines.train.stages import SetSettings
from pipelines.train.tokens import TokenStore
from tests.tiny_sets import SIZE, set_step, text
from tests.tiny_training import WORDS, Silent, compute, make_model


def embeddings_step(data, centers):
    """Return a step that embeds query n near the `n % centers`-th axis."""

    def write(work):
        q_NE = np.eye(4)[np.arange(SIZE) % centers] + np.random.default_rng(0).normal(0, 0.01, (SIZE, 4))
        q_NE /= np.linalg.norm(q_NE, axis=1, keepdims=True)
        table = {"id": np.arange(SIZE), "embedding": q_NE.astype(np.float32).tolist()}
        work.writer.write_shard("queries", 0, pa.table(table, schema=schemas.embeddings(4, "float32")))
        return work.commit({"queries": 1})

    return Step("encode", f"{data.label}-axes", 1, {"model": {"digest": "d"}}, (), {"data": data}, write)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    make_model(folder / "model")
    model = LocatedModel(str(folder / "model"), "mean", Prompts(), 24, 48, "float32", "cpu")
    return ArtifactStore(str(folder / "store")), model


def opened(made, name, steps, centers=None, **settings):
    store, _ = made
    data, groups = (compute(step, store, None, Silent()) for step in steps)
    clusters = compute(embeddings_step(steps[0], centers), store, None, Silent()) if centers else None
    return OpenSource(name, data, groups, clusters=clusters, **settings)


def plan(made, sources, label, **settings):
    store, model = made
    config = TrainConfig(**{"batch_size": 8, "num_negatives": 2, **settings})
    writer = store.open("plan", label, "0" * 20)
    summary, counters = write_plan(writer, sources, model, config)
    inputs = {input_name(source.name, "data"): source.data.key for source in sources}
    writer.commit(
        stage_version=1, num_shards={"order": 1}, identity={}, inputs=inputs, summary=summary,
        counters=counters, seconds=0,
    )  # fmt: skip
    return store.find("plan", label, "0" * 20)


def tokens_of(artifact, kind):
    store = TokenStore.load(artifact.directory(kind))
    return {
        ordinal: store.tokens.ids[store.tokens.offsets[row] : store.tokens.offsets[row + 1]].tolist()
        for row, ordinal in enumerate(store.ordinals.tolist())
    }


def encoded(rendered):
    return [2, *(4 + WORDS.index(word) if word in WORDS else 1 for word in rendered.split()), 3]


def test_every_text_is_tokenised_once_under_an_ordinal_of_its_own(made):
    # Document 5 of the second set is document 7 of the first.
    one, two = set_step("one", 0), set_step("two", 100, documents={5: text(7, 12)})
    sources = [
        opened(made, "main", one),
        opened(made, "two", two, prompts=Prompts(query="w1 w2 "), settings=SetSettings(num_negatives=1)),
    ]
    artifact = plan(made, sources, "apart")
    documents = {n: text(n, 12) for n in range(2 * SIZE)}
    documents |= {2 * SIZE + n: text(100 + n, 12) for n in range(2 * SIZE) if n != 5}
    assert tokens_of(artifact, "documents") == {n: encoded(each) for n, each in documents.items()}
    queries = {n: text(500 + n, 4) for n in range(SIZE)}
    queries |= {SIZE + n: f"w1 w2 {text(600 + n, 4)}" for n in range(SIZE)}
    assert tokens_of(artifact, "queries") == {n: encoded(each) for n, each in queries.items()}
    rows = artifact.read("order").to_pylist()
    assert Counter(row["dataset"] for row in rows) == {"main": SIZE, "two": SIZE}
    for row in rows:
        first, last = (0, 0) if row["dataset"] == "main" else (SIZE, 2 * SIZE)
        own = row["query"] - first
        assert row["positive"] == (7 if (row["dataset"], own) == ("two", 5) else last + own)
        mined = [last + SIZE + (own + k) % SIZE for k in range(3)]
        assert set(row["negatives"]) <= set(mined)
        assert len(row["negatives"]) == (2 if row["dataset"] == "main" else 1)
    summary = artifact.manifest.summary
    assert summary["rows_of"] == {"main.retrieval": SIZE, "two.retrieval": SIZE}
    assert summary["first_ordinals"]["two"] == {"query": SIZE, "document": 2 * SIZE}


def test_a_document_that_two_sets_share_is_nobodys_negative_there(made):
    # The positive of the first set's query 3 is a negative of the second set's query 0, whose text is that of query 3.
    one = set_step("one", 0)
    shared = {"documents": {SIZE: text(3, 12)}, "queries": {0: text(503, 4)}}
    sources = [opened(made, "main", one), opened(made, "two", set_step("shared", 100, **shared))]
    for prompt in (None, Prompts(query="w1 ")):
        artifact = plan(made, [sources[0], replace(sources[1], prompts=prompt)], f"shared{prompt is None}")
        assert artifact.manifest.counters["negatives_known_positive"] == 1
        rows = artifact.read("order").to_pylist()
        # Query 0 of the second set goes by the first's ordinal, or by its own where its prompt differs.
        same = 3 if prompt is None else SIZE
        (row,) = [row for row in rows if row["dataset"] == "two" and row["query"] == same]
        assert 3 not in row["negatives"]
        (twin,) = [row for row in rows if row["dataset"] == "main" and row["query"] == 3]
        assert twin["step"] != row["step"]


def test_teachers_scores_stand_in_one_order(made):
    sources = [opened(made, "main", set_step("one", 0)), opened(made, "two", set_step("two", 100))]
    artifact = plan(made, sources, "scores")
    assert artifact.manifest.summary["teachers"] == ["one_teacher", "two_teacher"]
    for row in artifact.read("order").to_pylist():
        place = 0 if row["dataset"] == "main" else 1
        assert row["scores"][0][place] == 1.0
        assert all(scores[1 - place] is None for scores in row["scores"])


def test_scores_of_one_order_are_left_alone():
    group = Group(1, (2,), (3,), {2: (1.0, 2.0)})
    assert with_teachers(group, ["a", "b"], ["a", "b"]) is group
    assert with_teachers(group, ["a", "b"], ["b", "c", "a"]).scores == {2: (2.0, None, 1.0)}


def test_near_duplicates_of_a_positive_never_meet_it(made):
    # Document SIZE + 1, a negative of queries 0, 1 and 23, is nearly document 1, the positive of query 1.
    words = text(1, 12).split()
    near = {SIZE + 1: " ".join([*words[:-1], WORDS[0]])}
    source = opened(made, "main", set_step("near", 0, documents=near))
    free = plan(made, [source], "near-free", num_negatives=3)
    kept = plan(made, [source], "near-kept", num_negatives=3, batches={"near_duplicate_jaccard": 0.7})
    assert free.manifest.counters["negatives_known_positive"] == 0
    assert kept.manifest.counters["negatives_known_positive"] == 1
    rows = kept.read("order").to_pylist()
    (own,) = [row for row in rows if row["query"] == 1]
    assert SIZE + 1 not in own["negatives"]
    holders = {row["query"] for row in rows if row["step"] == own["step"] and SIZE + 1 in row["negatives"]}
    assert not holders or SIZE + 1 in own["masked"]
    assert {row["query"] for row in rows if SIZE + 1 in row["negatives"]} == {0, 23}


def test_queries_of_the_same_words_never_meet_but_at_the_end(made):
    words = text(500, 4).split()
    queries = {n: " ".join(np.random.default_rng(n).permutation(words)) for n in range(3)}
    source = opened(made, "main", set_step("words", 0, queries=queries))
    for seed in range(4):
        settings = {"seed": seed, "batches": {"near_duplicate_jaccard": 0.9}}
        rows = plan(made, [source], f"words-{seed}", **settings).read("order").to_pylist()
        of_step = {
            step: [row for row in rows if row["step"] == step and row["query"] < 3] for step in range(3)
        }
        assert max(len(of_step[0]), len(of_step[1])) <= 1
        # What is left for the last batch may be two of them, whose positives are no negatives of each other.
        for row in of_step[2]:
            assert {other["positive"] for other in of_step[2]} <= {row["positive"], *row["masked"]}


def test_pairs_judged_low_stay_negatives(made):
    # Relevance 2 is a positive, and each query's first negative is labelled with 1.
    source = opened(made, "main", set_step("graded", 0, task="sts", relevance=2.0))
    artifact = plan(made, [source], "graded", num_negatives=3)
    assert artifact.manifest.counters["negatives_known_positive"] == 0
    rows = artifact.read("order").to_pylist()
    assert all(len(row["negatives"]) == 3 and row["scope"] == "group" for row in rows)


def test_clusters_are_those_of_the_embeddings(made):
    sources = [
        opened(made, "main", set_step("one", 0), centers=3),
        opened(made, "two", set_step("two", 100), centers=2),
    ]
    batches = {"order": "homogeneous", "clusters": {"count": 3}}
    rows = plan(made, sources, "clusters", batch_size=4, batches=batches).read("order").to_pylist()
    of_step = {}
    for row in rows:
        of_step.setdefault(row["step"], []).append(row)
    assert len(of_step) == 12
    of_main = [step for step in of_step.values() if step[0]["dataset"] == "main"]
    assert len(of_main) == 6 and all({row["dataset"] for row in step} == {"main"} for step in of_main)
    assert all(len({row["query"] % 3 for row in step}) == 1 for step in of_main)


def test_refuses_more_clusters_than_queries(made):
    source = opened(made, "main", set_step("one", 0), centers=3)
    with pytest.raises(UserError, match=f"at most {SIZE}"):
        plan(made, [source], "refused", batches={"order": "homogeneous", "clusters": {"count": SIZE + 1}})


def source(name, **teachers):
    data, groups = set_step(name, 0)
    steps = {
        teacher: Step(
            "encode", f"{name}-{teacher}", 1, {"model": {"digest": digest}}, (), {"data": data}, print
        )
        for teacher, digest in teachers.items()
    }
    return Source(name, data, groups, Prompts(), steps)


def test_a_plan_reads_what_its_settings_need():
    main, two = source("main", a="1", b="2"), source("two", a="1")
    assert set(main.inputs(TrainConfig())) == {"data", "groups"}
    assert set(two.inputs(TrainConfig())) == {"two.data", "two.groups"}
    config = TrainConfig(
        loss={"guide": "a"}, batches={"order": "phased", "clusters": {"count": 2, "teacher": "b"}}
    )
    read = main.inputs(config)
    assert read["guide"] is main.guides["a"] and read["clusters"] is main.guides["b"]
    with pytest.raises(UserError, match=r"also\.two"):
        two.inputs(config)
    unnamed = TrainConfig(batches={"order": "phased", "clusters": {"count": 2}})
    assert two.inputs(unnamed)["two.clusters"] is two.guides["a"]
    with pytest.raises(UserError, match="write teacher: a"):
        main.inputs(unnamed)
    with pytest.raises(UserError, match=r"also\.three\.mine\.teachers"):
        source("three").inputs(unnamed)


def test_a_guide_is_one_model_in_all_sets():
    config = TrainConfig(loss={"guide": "a"})
    check_guides([source("main", a="1"), source("two", a="1")], config)
    check_guides([source("main", a="1"), source("two", a="2")], TrainConfig())
    with pytest.raises(UserError, match=r"also\.two\.mine\.teachers\.a"):
        check_guides([source("main", a="1"), source("two", a="2")], config)


def test_a_query_stands_behind_the_prompt_of_its_task(made):
    tasks = Prompts(query="w9 ", tasks=(("sts", "w1 w2 "),))
    sources = [
        opened(made, "main", set_step("one", 0), prompts=tasks),
        opened(made, "two", set_step("graded", 100, task="sts", relevance=2.0), prompts=tasks),
    ]
    found = tokens_of(plan(made, sources, "tasks"), "queries")
    assert found[3] == encoded(f"w9 {text(503, 4)}")
    assert found[SIZE + 3] == encoded(f"w1 w2 {text(603, 4)}")


def test_a_query_is_called_as_in_its_set(made):
    sources = [opened(made, "main", set_step("one", 0)), opened(made, "two", set_step("two", 100))]
    artifact = plan(made, sources, "named")
    assert [query_name(artifact, query) for query in (0, 23, 24, 47)] == [
        "one-0", "one-23", "two-0 (two)", "two-23 (two)",
    ]  # fmt: skip


def test_steps_know_their_stage(made):
    sources = [opened(made, "main", set_step("one", 0)), opened(made, "two", set_step("two", 100))]
    stages = [{"data": ["main"], "epochs": 2}, {"batch_size": 16, "num_negatives": {"two": 3}}]
    artifact = plan(made, sources, "stages", stages=stages)
    order = Order.from_table(artifact.read("order"))
    assert order.stages.tolist() == [0] * 6 + [1] * 3
    assert artifact.manifest.summary["stage_steps"] == [6, 3]
    assert [len(order.rows(step)) for step in range(9)] == [8] * 6 + [16] * 3
