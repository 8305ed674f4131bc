"""Queries of a plan behind examples: what a person would read of them, and who is never shown to whom."""

import json
from collections import Counter

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from models.prompts import Prompts, instructed
from pipelines.located_model import LocatedModel
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.steps import Step
from pipelines.train.config import TrainConfig
from pipelines.train.pipeline import plan_step, train_step
from pipelines.train.planning import write_plan
from pipelines.train.sources import OpenSource, Source
from pipelines.train.tokens import TokenStore
from tests.tiny_decoders import make_decoder
from tests.tiny_sets import SIZE, set_step, text
from tests.tiny_training import Silent, compute, make_model

PROMPTS = Prompts(
    **instructed("<task>{task}\n<query>{query}\n<answer>", {"retrieval": "Find", "sts": "Match"})
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    config = make_decoder(folder / "model", eos=True) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 2048}))
    model = LocatedModel(str(folder / "model"), "last", PROMPTS, 80, 48, "float32", "cpu")
    return ArtifactStore(str(folder / "store")), model


def opened(made, name, steps, **settings):
    return OpenSource(name, *(compute(step, made[0], None, Silent()) for step in steps), **settings)


def plan(made, sources, label, **settings):
    """Return the rows of the plan with the tokens of each, and the plan's counters."""
    store, model = made
    config = TrainConfig(**{"batch_size": 8, "num_negatives": 2, "few_shot": 5, **settings})
    writer = store.open("plan", label, "0" * 20)
    _, counters = write_plan(writer, sources, model, config)
    writer.commit(
        stage_version=1, num_shards={"order": 1}, identity={}, inputs={}, summary={}, counters=counters, seconds=0
    )  # fmt: skip
    artifact = store.find("plan", label, "0" * 20)
    shown = TokenStore.load(artifact.directory("shown_queries")) if config.few_shot else None
    rows = artifact.read("order").to_pylist()
    for number, row in enumerate(rows if shown else ()):
        place = shown.rows(np.array([number]))
        row["ids"] = shown.tokens.take(place).ids.tolist()
        row["pool_start"] = int(shown.tokens.pool_starts[place[0]])
    return rows, counters


def read(made, row, instruction="Find"):
    """Return the examples, as (query, document), and the query that a row's tokens say."""
    backend = made[1].tokenizer().uncut
    assert (row["ids"][0], row["ids"][-1]) == (1, 2)
    *examples, own = backend.decode(row["ids"]).split("\n\n")
    pairs = []
    for example in [*examples, own]:
        head, query, answer = (
            example.partition("\n<query>")[0],
            *example.split("<query>")[1].split("\n<answer>"),
        )
        assert head == f"<task>{instruction}"
        pairs.append((query, answer))
    assert (
        pairs[-1][1] == "" and backend.decode(row["ids"][row["pool_start"] :]) == f"{pairs[-1][0]}\n<answer>"
    )
    return pairs[:-1], pairs[-1][0]


def test_a_query_stands_behind_rows_of_its_batch_in_words(made):
    rows, counters = plan(made, [opened(made, "main", set_step("one", 0))], "words", epochs=4)
    counts = Counter()
    for row in rows:
        examples, own = read(made, row)
        assert own == text(500 + row["query"], 4)
        others = [other for other in rows if other["step"] == row["step"] and other["query"] != row["query"]]
        pairs = {(text(500 + other["query"], 4), text(other["positive"], 12)) for other in others}
        assert len(set(examples)) == len(examples) and set(examples) <= pairs
        counts[len(examples)] += 1
    # 96 rows, each number of examples in a sixth of them.
    assert set(counts) == set(range(6)) and min(counts.values()) >= 6
    assert counters["examples_shown"] == sum(count * times for count, times in counts.items())
    assert (counters["examples_without_a_row"], counters["examples_beyond_positions"]) == (0, 0)
    # A query is shown something else in every epoch.
    assert len({tuple(row["ids"]) for row in rows if row["query"] == 3}) > 1


def test_a_plan_is_drawn_again_as_it_was_and_otherwise_with_another_seed(made):
    source = opened(made, "main", set_step("one", 0))
    first, again, other = (
        [row["ids"] for row in plan(made, [source], label, seed=seed)[0]]
        for label, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again != other


def test_no_row_is_shown_what_answers_it(made):
    # Documents 5 and 7 have one text, 9 is nearly 11; all rows meet in every batch, so they collide.
    words = text(11, 12).split()
    documents = {5: text(7, 12), 9: " ".join([*words[:-1], "w0"])}
    source = opened(made, "main", set_step("collide", 0, documents=documents))
    alike = {frozenset({5, 7}), frozenset({9, 11})}
    query_of = {text(500 + n, 4): n for n in range(SIZE)}
    batches = {"near_duplicate_jaccard": 0.7}
    rows, _ = plan(made, [source], "collide", batch_size=SIZE, epochs=16, batches=batches)
    seen = {frozenset({query_of[asked], row["query"]}) for row in rows for asked, _ in read(made, row)[0]}
    assert {len(pair) for pair in seen} == {2} and not seen & alike
    # Of the 276 pairs nearly all others were shown to each other, those of one row that collides among them.
    assert len(seen) > 250 and len({pair for pair in seen if pair & {5, 7, 9, 11}}) > 75


def test_examples_are_of_the_same_set_and_task(made):
    other = Prompts(query="<task>Other\n<query>", suffix="\n<answer>")
    sources = [
        opened(made, "main", set_step("one", 0)),
        opened(made, "two", set_step("two", 100, task="sts")),
        opened(made, "three", set_step("three", 200), prompts=other),
    ]
    rows, counters = plan(made, sources, "sets", batch_size=24)
    firsts = {"main": 500, "two": 600, "three": 700}
    for row in rows:
        instruction = {"main": "Find", "two": "Match", "three": "Other"}[row["dataset"]]
        examples, _ = read(made, row, instruction)
        own = {text(firsts[row["dataset"]] + n, 4) for n in range(SIZE)}
        assert {query for query, _ in examples} <= own
    assert len({row["dataset"] for row in rows if row["step"] == 0}) == 3
    assert counters["examples_shown"] > 100


def test_without_the_key_a_plan_is_as_before(made):
    source = opened(made, "main", set_step("one", 0))
    shown, _ = plan(made, [source], "shown")
    plain, counters = plan(made, [source], "plain", few_shot=0)
    assert plain == [{key: row[key] for key in plain[0]} for row in shown]
    assert not [name for name in counters if name.startswith("examples")]
    files = [stored.name for stored in made[0].find("plan", "plain", "0" * 20).manifest.files]
    assert files and not [name for name in files if name.startswith("shown")]


def test_what_is_left_out_is_counted_and_a_plan_without_any_example_refused(made, tmp_path):
    make_model(tmp_path / "bert")
    # 64 positions: an example takes 16 tokens, the query 6.
    model = LocatedModel(str(tmp_path / "bert"), "mean", Prompts(), 16, 48, "float32", "cpu")
    source = opened(made, "main", set_step("one", 0))
    rows, counters = plan((made[0], model), [source], "short", epochs=4)
    assert max(len(row["ids"]) for row in rows) == 3 * 16 + 6
    wanted = counters["examples_shown"] + counters["examples_beyond_positions"]
    assert counters["examples_beyond_positions"] > 0 and wanted == pytest.approx(96 * 2.5, rel=0.15)
    longer = {n: text(n, 62) for n in range(SIZE)}
    with pytest.raises(UserError, match=r"no query can be shown(.|\n)*64 positions"):
        plan(
            (made[0], model), [opened(made, "main", set_step("long", 0, documents=longer, queries=longer))], "long"
        )  # fmt: skip
    same = dict.fromkeys(range(SIZE), text(0, 12))
    with pytest.raises(UserError, match=r"no query can be shown(.|\n)*train\.few_shot to 0"):
        plan(made, [opened(made, "main", set_step("same", 0, documents=same))], "same")


def steps(prompts=None, **settings):
    data = Step("ingest", "tiny", 1, {}, (), {}, print)
    groups = Step("select", "tiny", 1, {}, (), {"data": data}, print)
    config = ModelConfig(source="tiny", prompts=prompts)
    inference = Prompts(query="ore\nin the rock\n\nw1 ") if prompts else Prompts()
    model = Model(config, "digest", "mean", inference, "float32", "cpu")
    train = TrainConfig(**settings)
    also = [
        Source("same", data, groups, inference, {}),
        Source("own", data, groups, Prompts(query="w2 "), {}),
    ]
    made = plan_step(data, groups, model, train, also=also)
    return made, train_step(made, model, train)


def test_the_training_feels_examples_through_its_plan():
    plain, trained = steps()
    shown, other = steps(few_shot=2)
    assert shown.fingerprint != plain.fingerprint and other.identity == trained.identity
    assert "few_shot" not in plain.identity and "few_shot" not in str(trained.identity)


def test_drawn_examples_take_the_place_of_fixed_ones():
    prompts = {"query": "w1 ", "few_shot": [{"query": "ore", "document": "in the rock"}]}
    for few_shot, expected in ((0, "ore\nin the rock\n\nw1 "), (2, "w1 ")):
        made, trained = steps(prompts, few_shot=few_shot)
        assert made.identity["model"]["prompts"]["query"] == expected
        of_sets = {name: identity["query"] for name, identity in made.identity["prompts"].items()}
        assert of_sets == {"same": expected, "own": "w2 "}
        # The tuned model is used as the recipe says.
        assert trained.identity["model"]["prompts"]["query"] == "ore\nin the rock\n\nw1 "
