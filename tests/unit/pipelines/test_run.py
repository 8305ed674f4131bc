"""The steps of a recipe with several data sets: each is mined by itself, and one order reads them all."""

import pytest
import yaml

from cluster.errors import UserError
from pipelines.recipe import load_recipe
from pipelines.run import plan, targets
from tests.tiny_training import local_session, make_model

RECIPE = {
    "name": "sets",
    "data": {"kind": "pairs", "name": "first", "path": "first.csv"},
    "also": {
        "second": {
            "data": {"kind": "pairs", "name": "second", "path": "second.csv", "task": "sts"},
            "mine": {"teachers": {"words": {"kind": "bm25"}, "dense": {"kind": "dense"}}},
            "query_prompt": "find: ",
            "num_negatives": 2,
            "weight": 2.0,
        }
    },
    "model": {"max_query_tokens": 16, "max_document_tokens": 32, "dtype": "float32"},
    "mine": {"select": {"num_negatives": 3}},
    "train": {
        "batches": {"order": "homogeneous"},
        "stages": [{"data": ["main"]}, {"num_negatives": {"main": 3}}],
    },
}
RECIPE["also"]["second"]["mine"]["select"] = {"teachers": ["words"], "num_negatives": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    make_model(folder / "model")
    for name in ("first", "second"):
        (folder / f"{name}.csv").write_text("query,document\nw1 w2,w3 w4\nw5,w6 w7\n")
    recipe = {**RECIPE, "model": {**RECIPE["model"], "source": str(folder / "model")}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def steps_of(folder, *settings):
    with local_session() as session:
        return plan(load_recipe(str(folder / "recipe.yaml"), settings), session)


def test_a_further_set_is_mined_by_itself_and_read_by_the_order(folder):
    steps = steps_of(folder)
    own = [name for name in steps if name.startswith("second.")]
    assert own[0] == "second.data" and own[-1] == "second.groups"
    assert {"second.words_candidates", "second.dense_embeddings", "second.dense_candidates"} <= set(own)
    order = steps["order"]
    assert set(order.inputs) == {"data", "groups", "second.data", "second.groups"}
    assert order.inputs["second.groups"] is steps["second.groups"]
    assert order.inputs["data"] is steps["data"] is steps["trained"].inputs["data"]
    prompts = {
        name: steps[name].identity["model"]["prompts"]["query"] for name in steps if "embeddings" in name
    }
    assert prompts.pop("second.dense_embeddings") == "find: "
    assert set(prompts.values()) == {""}
    assert targets("mine", steps) == ("groups", "audit", "second.groups")
    assert targets("run", steps) == ("groups", "audit", "metrics", "index")


def test_every_round_mines_with_the_model_of_the_last_one(folder):
    both = ("mine.teachers={dense: {kind: dense}, words: {kind: bm25}}", "mine.select.ensemble=intra_sample")
    once, steps = steps_of(folder, *both), steps_of(folder, *both, "rounds=3")
    for name in ("dense_embeddings", "words_candidates", "groups", "second.groups", "trained"):
        assert steps[f"round1.{name}"].key == once[name].key
    for earlier, later in (("round1.", "round2."), ("round2.", "")):
        trained = steps[f"{earlier}trained"]
        reads_it = ("dense_embeddings", "second.dense_embeddings", "order", "trained")
        assert all(steps[f"{later}{name}"].inputs["model"] is trained for name in reads_it)
        assert steps[f"{later}groups"].key != steps[f"{earlier}groups"].key
        assert steps[f"{later}words_candidates"].key == steps["words_candidates"].key
    assert steps["tuned_embeddings"].inputs["model"] is steps["trained"]
    assert "model" not in steps["base_embeddings"].inputs
    assert targets("mine", steps) == ("round1.groups", "round1.audit", "round1.second.groups")
    assert set(targets("run", steps)) == {
        "groups",
        "audit",
        "metrics",
        "index",
        "round1.audit",
        "round2.audit",
    }
    with pytest.raises(UserError, match="mining anew would find the same"):
        steps_of(folder, "rounds=2", "mine.teachers={words: {kind: bm25}}", "also={}", "train.stages=[]")


def test_what_the_order_depends_on_is_in_its_fingerprint(folder):
    found = steps_of(folder)["order"].fingerprint
    for setting in (
        "also.second.query_prompt=ask", "also.second.weight=1", "also.second.num_negatives=1",
        "also.second.in_batch_negatives=true", "train.batches.alpha=0.5", "train.stages.1.order=mixed",
        "train.batches.near_duplicate_jaccard=0.8", "train.stages.0.epochs=2",
    ):  # fmt: skip
        assert steps_of(folder, setting)["order"].fingerprint != found, setting
    assert steps_of(folder, "train.stages.1.learning_rate=1.0e-6")["order"].fingerprint == found


def test_a_guide_and_clusters_are_read_of_every_set(folder):
    settings = ("train.loss.guide=dense", "mine.teachers={dense: {kind: dense}}")
    order = steps_of(folder, *settings, "train.batches.clusters.count=2")["order"]
    for kind in ("guide", "clusters"):
        assert order.inputs[kind].stage == order.inputs[f"second.{kind}"].stage == "encode"
    with pytest.raises(UserError, match=r"no dense teacher of also\.second"):
        steps_of(folder, "train.loss.guide=model")
