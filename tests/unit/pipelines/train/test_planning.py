"""What a plan carries for the losses: teachers' scores, and queries that negatives answer."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from models.prompts import Prompts
from pipelines import schemas
from pipelines.answers import allowed_answers
from pipelines.located_model import LocatedModel
from pipelines.steps import Step
from pipelines.train.config import TrainConfig
from pipelines.train.mined import without_copies
from pipelines.train.order import Order
from pipelines.train.planning import write_plan
from pipelines.train.sources import OpenSource
from pipelines.train.tokens import TokenStore
from tests.tiny_training import NUM_QUERIES, Silent, compute, data_step, groups_step, make_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planning")
    make_model(folder / "model")
    store, data = ArtifactStore(str(folder / "store")), data_step()
    groups = groups_step(data)
    model = LocatedModel(str(folder / "model"), "mean", Prompts(), 16, 48, "float32", "cpu")
    return [compute(step, store, None, Silent()) for step in (data, groups)], model, store


def plan(made, label, **settings):
    (data, groups), model, store = made
    writer = store.open("plan", label, "0" * 20)
    summary, counters = write_plan(
        writer, [OpenSource("main", data, groups)], model, TrainConfig(num_negatives=2, **settings)
    )
    writer.commit(
        stage_version=1,
        num_shards={"order": 1},
        identity={},
        inputs={},
        summary=summary,
        counters=counters,
        seconds=0,
    )
    return store.find("plan", label, "0" * 20), groups


def test_scores_stay_with_their_documents(made):
    artifact, groups = plan(made, "scores")
    given = {
        (row["query"], item["doc"]): item["scores"][0]
        for row in groups.read("groups").to_pylist()
        for item in [*row["positives"], *row["negatives"]]
    }
    # Document 70 has the text of document 1, which stands for both.
    given |= {(query, 1): score for (query, doc), score in given.items() if doc == 70}
    for row in artifact.read("order").to_pylist():
        pairs = zip([row["positive"], *row["negatives"]], row["scores"], strict=True)
        assert all(given[row["query"], doc] == score for doc, (score,) in pairs)
    assert artifact.manifest.summary["teachers"] == ["tiny"]
    assert artifact.manifest.summary["teacher_scores"][0]["highest"] == 1.0


def test_answers_are_in_the_plan_where_a_loss_needs_them(made):
    without, _ = plan(made, "without")
    assert {len(each) for row in without.read("order").to_pylist() for each in row["answers"]} == {0}
    assert without.manifest.summary["negatives_that_answer"] == 0
    artifact, _ = plan(made, "with", loss={"name": "clp"})
    order = artifact.read("order")
    assert order.drop_columns(["answers"]).equals(without.read("order").drop_columns(["answers"]))
    for row in order.to_pylist():
        for doc, answers in zip(row["negatives"], row["answers"], strict=True):
            # The text of document 70 is that of document 1 and goes by its ordinal.
            expected = 10 if doc == 1 else doc - 60
            assert answers == ([expected] if (doc % 3 or doc == 1) and expected != row["query"] else [])
    assert artifact.manifest.summary["negatives_that_answer"] > 50


def test_a_repeated_document_stays_and_a_copy_of_a_text_goes():
    of_document = {1: 1, 2: 2, 5: 5, 70: 1, 71: 5}
    assert without_copies([1, 2, 1, 70, 1, 71, 5, 71], of_document) == [1, 2, 1, 1, 5, 5]


def test_answers_of_another_split_and_beyond_the_limit_are_counted(made):
    (data, _), _, _ = made
    negatives = [[{"answers": [5, 3, 1]}, {"answers": [400]}], [{"answers": []}]]
    kept, counters = allowed_answers(data, data.read("qrels").column("query").to_numpy(), negatives, 2)
    assert kept == [[[1, 3], []], [[]]]
    assert counters == {"answers_of_another_split": 1, "answers_beyond_max_answers": 1}


def embeddings_step(data, rows_of_document=1, queries=range(NUM_QUERIES)):
    """Return a step that writes [ordinal, 1] for every document and [-ordinal, 1] for every query."""

    def write(work):
        schema = schemas.embeddings(2, "float16")
        starts = work.inputs["data"].first_rows("documents")
        for index, (low, high) in enumerate(pairwise(starts)):
            ids = np.repeat(np.arange(low, high), rows_of_document)
            vectors = [[float(i), 1.0] for i in ids]
            work.writer.write_shard(
                "documents", index, pa.table({"id": ids, "embedding": vectors}, schema=schema)
            )
        vectors = [[-float(i), 1.0] for i in queries]
        work.writer.write_shard(
            "queries", 0, pa.table({"id": list(queries), "embedding": vectors}, schema=schema)
        )
        return work.commit({"documents": 2, "queries": 1})

    label = f"guide{rows_of_document}-{len(queries)}"
    return Step("encode", label, 1, {"label": label}, (), {"data": data}, write)


def test_a_guide_embeds_the_texts_of_the_plan(made):
    (data, groups), model, store = made
    guide = compute(embeddings_step(data_step()), store, None, Silent())
    writer = store.open("plan", "guided", "1" * 20)
    config = TrainConfig(loss={"guide": "words"})
    write_plan(writer, [OpenSource("main", data, groups, guide=guide)], model, config)
    writer.commit(
        stage_version=1, num_shards={"order": 1}, identity={}, inputs={}, summary={}, counters={}, seconds=0
    )
    artifact = store.find("plan", "guided", "1" * 20)
    for kind, sign in (("queries", -1), ("documents", 1)):
        tokens = TokenStore.load(artifact.directory(kind))
        assert tokens.vectors.tolist() == [[sign * ordinal, 1.0] for ordinal in tokens.ordinals.tolist()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rows_of_document": 2}, "encode.chunk to null"), ({"queries": range(30)}, "ordinal 30")],
)
def test_a_guide_that_does_not_fit_is_refused(made, changes, words):
    (data, groups), model, store = made
    guide = compute(embeddings_step(data_step(), **changes), store, None, Silent())
    with pytest.raises(UserError, match=words):
        write_plan(
            store.open("plan", "refused", "2" * 20),
            [OpenSource("main", data, groups, guide=guide)],
            model,
            TrainConfig(),
        )


def test_related_queries_are_not_pushed_apart(made):
    order = Order.from_table(plan(made, "related")[0].read("order"))
    rows = order.rows(0)
    apart = order.unrelated(rows, rows)
    for i in rows:
        for j in rows:
            related = (
                order.queries[i] == order.queries[j]
                or order.positives[i] == order.positives[j]
                or order.positives[j] in order.masked_of(i)
                or order.positives[i] in order.masked_of(j)
            )
            assert apart[i - rows[0], j - rows[0]] == (not related)
