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


CROSS = (
    "train.batches={}",
    "train.cross_encoder={max_query_tokens: 10, max_document_tokens: 40}",
    "also.second.weight=1.0",
)


def test_a_cross_encoder_is_trained_on_what_the_model_finds_and_ranks_it_again(folder):
    embedding, steps = steps_of(folder), steps_of(folder, *CROSS)
    for name in ("groups", "second.groups", "base_embeddings"):
        assert steps[name].key == embedding[name].key
    start = steps["untrained"]
    assert steps["order"].inputs["model"] is steps["trained"].inputs["model"] is start
    # The prompt of a set is for searching it; in a pair nothing stands before a text.
    assert set(steps["order"].identity["prompts"]["second"].values()) <= {"", False}
    for name, made_by in (("untrained_ranking", start), ("tuned_ranking", steps["trained"])):
        assert (
            steps[name].inputs["reranker"] is made_by and steps[name].inputs["over"] is steps["base_ranking"]
        )
    assert set(steps["metrics"].inputs) == {"data", "base", "untrained", "tuned", "bm25"}
    assert "tuned_embeddings" not in steps and targets("run", steps) == (
        "groups",
        "audit",
        "metrics",
        "trained",
    )
    with pytest.raises(UserError, match="embeds nothing"):
        targets("index", steps)


def test_the_seed_draws_a_head_and_the_loggers_leave_the_training_alone(folder):
    first, seeded, watched = (
        steps_of(folder, *CROSS, *more) for more in ((), ("train.seed=1",), ("train.tensorboard=true",))
    )
    assert first["untrained"].key != seeded["untrained"].key
    assert first["trained"].key == watched["trained"].key != seeded["trained"].key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("rounds=2",), "rounds .*does not search"),
        (("also.second.in_batch_negatives=true",), "also.second.in_batch_negatives"),
        (("train.cross_encoder.max_document_tokens=60",), "together at most 64"),
        (("evaluate.rerank_depth=200",), "exceeds evaluate.retrieval_depth"),
    ],
)
def test_what_does_not_go_with_a_cross_encoder_is_refused_while_planning(folder, settings, words):
    with pytest.raises(UserError, match=words):
        steps_of(folder, *CROSS, *settings)


def test_a_depth_of_reranking_without_a_reranker_is_refused(folder):
    with pytest.raises(UserError, match="trains no cross-encoder"):
        steps_of(folder, "evaluate.rerank_depth=20")
