"""The steps on stored artifacts: shards, summaries, what is found again deeper, what a fingerprint depends on."""

import io
import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from cluster.artifacts import Artifact, ArtifactStore
from cluster.errors import UserError
from pipelines import schemas
from pipelines.progress import Progress
from pipelines.select import texts as texts_module
from pipelines.select.config import SelectConfig
from pipelines.select.pipeline import select_step, starved_step
from pipelines.steps import Step, Work
from tests.unit.pipelines.select.reference import (
    NUM_DOCS,
    NUM_QUERIES,
    expected_groups,
    groups_of,
    qrels_of,
    random_tables,
    texts,
)

CUTS = {"one": [0, 3 * NUM_QUERIES], "several": [0, 7, 8, 31, 3 * NUM_QUERIES]}


def stored(tables: dict[str, list[pa.Table]], work: Work) -> Artifact:
    for name, shards in tables.items():
        for index, shard in enumerate(shards):
            work.writer.write_shard(name, index, shard)
    return work.commit({name: len(shards) for name, shards in tables.items()})


def step_of(name: str, tables: dict[str, list[pa.Table]]) -> Step:
    return Step("made", name, 1, {"name": name}, (), {}, partial(stored, tables))


def data_step(tables: list[pa.Table], cuts: list[int], name: str = "data") -> Step:
    doc_texts, query_texts = (array.tolist() for array in texts())
    documents = [
        {"doc": doc, "doc_id": f"d{doc}", "text": f"text  {doc_texts[doc]}", "dataset": "set"}
        for doc in range(NUM_DOCS)
    ]
    queries = [
        {"query": q, "query_id": f"q{q}", "text": f"text {text}\n", "dataset": "set", "task": "retrieval"}
        for q, text in enumerate(query_texts)
    ]
    document_table = pa.Table.from_pylist(documents, schema=schemas.DOCUMENTS)
    query_table = pa.Table.from_pylist(queries, schema=schemas.QUERIES)
    return step_of(
        name,
        {
            "documents": [document_table.slice(0, 40), document_table.slice(40)],
            "queries": [query_table.slice(a, b - a) for a, b in itertools.pairwise(cuts)],
            "qrels": [qrels_of(tables)],
        },
    )


def cut(table: pa.Table, cuts: list[int]) -> list[pa.Table]:
    query = table.column("query").to_numpy()
    return [table.filter((query >= a) & (query < b)) for a, b in itertools.pairwise(cuts)]


def teacher_steps(tables: list[pa.Table], cuts: list[int], names: str = "abc") -> dict[str, Step]:
    return {
        name: step_of(f"{name}-{len(cuts)}", {"candidates": cut(table, cuts)})
        for name, table in zip(names, tables, strict=False)
    }


def shallow(table: pa.Table, depth: int) -> pa.Table:
    """Return what a search of less depth would have found; positives beyond it have rank 0."""
    kept = [row for row in table.to_pylist() if row["rank"] <= depth or row["is_positive"]]
    kept = [row | {"rank": row["rank"] if row["rank"] <= depth else 0} for row in kept]
    return pa.Table.from_pylist(kept, schema=schemas.CANDIDATES)


@pytest.fixture
def compute(tmp_path):
    store = ArtifactStore(str(tmp_path))
    made: dict[str, Artifact] = {}

    def run(step: Step) -> Artifact:
        if step.key not in made:
            inputs = {name: run(source) for name, source in step.inputs.items()}
            writer = store.open(step.stage, step.label, step.fingerprint)
            made[step.key] = step.run(Work(step, inputs, writer, None, Progress(Console(file=io.StringIO()))))
        return made[step.key]

    return run


SETTINGS = [
    {},
    {"selection": "sampled", "sample_temperature": 0.1, "starved": "random_fill", "seed": 3},
    {"ensemble": "intra_sample", "starved": "repeat"},
    {"ensemble": "cross_sample", "positives": "per_example"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_groups_do_not_depend_on_the_shards(compute, settings):
    tables = random_tables(3, 2 if "ensemble" in settings else 1)
    config = SelectConfig.model_validate(settings)
    made = {}
    for name, cuts in CUTS.items():
        data = data_step(tables, cuts, name)
        made[name] = compute(select_step(data, teacher_steps(tables, cuts), config))
    one, several = made["one"], made["several"]
    assert several.num_shards("groups") == 4
    assert one.read("groups").equals(several.read("groups").combine_chunks())
    assert one.manifest.counters == several.manifest.counters
    if settings.get("starved") != "random_fill":
        assert groups_of(one.read("groups")) == expected_groups(tables, config)


def test_the_summary_names_the_teachers_and_what_they_gave(compute):
    tables = random_tables(3, 3)
    config = SelectConfig.model_validate(
        {"ensemble": "intra_sample", "filter": {"threshold": 0.8, "scores_of": "c"}, "num_negatives": 3}
    )
    groups = compute(select_step(data_step(tables, CUTS["one"]), teacher_steps(tables, CUTS["one"]), config))
    summary, rows = groups.manifest.summary, groups.read("groups").to_pylist()
    assert (summary["teachers"], summary["suppliers"]) == (["a", "b", "c"], ["a", "b"])
    given = [negative["teacher"] for group in rows for negative in group["negatives"]]
    assert summary["negatives_of_teacher"] == {"a": given.count(0), "b": given.count(1), "c": 0}
    assert summary["groups"] == len(rows) and all(summary["mean_margin"].values())
    assert groups.manifest.label == "data-a+b-intra_sample-perc_pos-top"
    for example in summary["examples"]:
        assert example["rejected"]["score"] > example["chosen"]["score"]
        assert example["chosen"]["text"] == f"text  {texts()[0][int(example['chosen']['doc_id'][1:])]}"
    assert len(summary["examples"]) == 3


def test_starved_queries_are_searched_again(compute):
    deep = random_tables(5, depth=60)
    tables = [shallow(deep[0], 8)]
    config = SelectConfig.model_validate({"filter": {"threshold": 0.6}, "selection": "sampled"})
    cuts = CUTS["several"]
    data, teachers = data_step(tables, cuts), teacher_steps(tables, cuts)
    starved = compute(starved_step(data, teachers, config))
    assert starved.num_shards("starved") == 4
    again = starved.read("starved").column("query").to_numpy()
    short = {query for query, _, docs in expected_groups(tables, config) if len(docs) < 4}
    assert set(again.tolist()) == short and len(again) == starved.manifest.summary["starved"] > 0
    found = deep[0].filter(np.isin(deep[0].column("query"), again))
    deeper = {"a": step_of("deeper", {"candidates": cut(found, cuts)})}
    groups = compute(select_step(data, teachers, config, deeper)).read("groups")
    kept = tables[0].filter(~np.isin(tables[0].column("query"), again))
    assert groups_of(groups) == expected_groups([pa.concat_tables([kept, found])], config)


def test_what_starves_does_not_depend_on_how_survivors_are_chosen():
    tables = random_tables(5)
    data, teachers = data_step(tables, CUTS["one"]), teacher_steps(tables, CUTS["one"])
    config = SelectConfig()
    key = starved_step(data, teachers, config).key
    for settings in ({"selection": "sampled"}, {"starved": "drop"}, {"seed": 4}):
        other = SelectConfig.model_validate(settings)
        assert starved_step(data, teachers, other).key == key
        assert select_step(data, teachers, other).key != select_step(data, teachers, config).key
    assert starved_step(data, teachers, SelectConfig(num_negatives=5)).key != key
    written = SelectConfig.model_validate({"filter": {"method": "perc_pos", "threshold": 0.95}})
    assert select_step(data, teachers, written).key == select_step(data, teachers, config).key
    named = SelectConfig(teachers=("a",))
    assert select_step(data, teachers, named).key == select_step(data, teachers, config).key


def test_the_order_of_the_teachers_counts():
    tables = random_tables(5, 2)
    teachers = teacher_steps(tables, CUTS["one"])
    config, data = SelectConfig(ensemble="intra_sample"), data_step(tables, CUTS["one"])
    other = select_step(data, dict(reversed(teachers.items())), config)
    assert other.fingerprint != select_step(data, teachers, config).fingerprint


def test_teachers_cut_differently_are_refused(compute):
    tables = random_tables(5, 2)
    one, several = (teacher_steps(tables, cuts) for cuts in CUTS.values())
    config = SelectConfig(ensemble="intra_sample")
    step = select_step(data_step(tables, CUTS["one"]), {"a": one["a"], "b": several["b"]}, config)
    with pytest.raises(UserError, match="cut differently"):
        compute(step)


def test_texts_are_read_once_for_many_selections(compute, monkeypatch):
    tables = random_tables(5)
    data, teachers = data_step(tables, CUTS["one"]), teacher_steps(tables, CUTS["one"])
    compute(select_step(data, teachers, SelectConfig()))
    artifact = compute(data)
    keys = texts_module.document_keys(artifact)
    assert texts_module.document_keys(Artifact(artifact.storage, artifact.manifest)) is keys
    assert not keys.flags.writeable
    other = compute(replace(data, label="other"))
    assert texts_module.document_keys(other) is not keys
