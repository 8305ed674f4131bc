"""What a sweep compares: one rule a method, whatever the recipe says of its own, over the same candidates."""

import pytest
import yaml

from cluster.errors import UserError
from pipelines.mine.literature import METHODS, OTHERS, SAMPLED, SOFT_LABELS
from pipelines.mine.sweep import Comparison, sweep_steps
from pipelines.recipe import load_recipe
from tests.tiny_rerankers import make_cross_encoder
from tests.tiny_training import local_session, make_model

RECIPE = {
    "name": "swept",
    "data": {"kind": "pairs", "name": "first", "path": "first.csv"},
    "model": {"max_query_tokens": 16, "max_document_tokens": 32, "dtype": "float32"},
}
JUDGED = {
    "dense": {"kind": "dense"},
    "judge": {
        "kind": "reranker",
        "over": "dense",
        "depth": 8,
        "model": {"dtype": "float32", "max_query_tokens": 16, "max_document_tokens": 32},
    },
}
TWO = {"dense": {"kind": "dense"}, "words": {"kind": "bm25"}}
RECIPES = {
    "plain": {},
    "sampled": {"select": {"selection": "top1_sampled", "num_negatives": 12, "sample_from": 15}},
    "judged": {
        "teachers": JUDGED,
        "select": {
            "teachers": ["dense"],
            "filter": {"method": "margin_pos", "threshold": 1.0, "scores_of": "judge"},
        },
    },
    "ranked": {"select": {"filter": {"method": "absolute", "threshold": 0.5, "min_rank": 3, "max_rank": 40}}},
    "in turns": {"teachers": TWO, "select": {"ensemble": "intra_sample"}},
    "drawn": {"teachers": TWO, "select": {"ensemble": "cross_sample"}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    make_model(folder / "model")
    make_cross_encoder(folder / "judge")
    JUDGED["judge"]["model"]["source"] = str(folder / "judge")
    (folder / "first.csv").write_text("query,document\nw1 w2,w3 w4\nw5,w6 w7\n")
    for name, mine in RECIPES.items():
        recipe = {**RECIPE, "model": {**RECIPE["model"], "source": str(folder / "model")}, "mine": mine}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def swept(path, *grid, methods=(), variants=(), seeds=0):
    with local_session() as session:
        return sweep_steps(str(path), (), Comparison(grid, methods, variants), seeds, session)


def selecting(steps):
    return [step for step in steps.values() if step.stage == "select" and "starved" not in step.label]


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_selects_by_its_own_rule(folder, name):
    own = load_recipe(str(folder / f"{name}.yaml")).mine.select
    steps, _ = swept(folder / f"{name}.yaml")
    selected = [step.identity for step in selecting(steps)]
    rules = [(one["filter"]["method"], one["filter"]["threshold"], one["selection"]) for one in selected]
    expected = [(rule["method"], rule.get("threshold"), "top") for rule in METHODS.values()]
    if name != "in turns":
        expected += [("perc_pos", None, selection) for selection in SAMPLED]
    assert [(method, selection) for method, _, selection in rules] == [
        (method, selection) for method, _, selection in expected
    ]
    asked = {place: threshold for place, (_, threshold, _) in enumerate(expected) if threshold is not None}
    assert asked and all(rules[place][1] == threshold for place, threshold in asked.items())
    assert rules[4][1] == 0.95, "the recipe's own threshold is not that of another method"
    for one in selected:
        assert one["filter"]["scores_of"] is None
        assert (one["filter"]["min_rank"], one["filter"]["max_rank"]) == (
            own.filter.min_rank,
            own.filter.max_rank,
        )
        assert (one["num_negatives"], one["ensemble"]) == (own.num_negatives, own.ensemble)


def test_a_grid_compares_settings_of_selection_and_with_training_of_training(folder):
    path = folder / "plain.yaml"
    _, metrics = swept(path, "mine.select.filter.threshold=0.9,0.98", "mine.select.num_negatives=2,3")
    assert [*metrics] == [
        f"threshold {threshold}, num_negatives {count}" for threshold in ("0.9", "0.98") for count in (2, 3)
    ]
    _, metrics = swept(path, "train.temperature=0.02,0.05", seeds=2)
    assert {name: len(set(keys)) for name, keys in metrics.items()} == {
        "temperature 0.02": 2,
        "temperature 0.05": 2,
    }


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        ("data.limit=5,6", 1, "data.limit"),
        ("mine.search.retrieval_depth=5,50", 1, "mine.search.retrieval_depth"),
        ("train.temperature=0.02,0.05", 0, "expected: a key under mine.select.$"),
        ("mine.select.num_negatives", 0, "with its values"),
    ],
)
def test_what_changes_more_than_the_selection_is_refused(folder, grid, seeds, message):
    with pytest.raises(UserError, match=f"(?m){message}"):
        swept(folder / "plain.yaml", grid, seeds=seeds)


@pytest.mark.parametrize("name", RECIPES)
def test_with_training_other_negatives_and_soft_labels_stand_beside_the_methods(folder, name):
    steps, metrics = swept(folder / f"{name}.yaml", seeds=2)
    audited, _ = swept(folder / f"{name}.yaml")
    assert [*OTHERS] == [*metrics][:2] and SOFT_LABELS in metrics
    assert all(len(set(keys)) == 2 for keys in metrics.values())
    # What is examined is the same as without training: neither other candidates nor the same negatives once more.
    assert steps["audit"].key == audited["audit"].key
    both = {step.key for step in selecting(audited)}
    new = [step.identity for step in selecting(steps) if step.key not in both]
    assert [(one["filter"]["method"], one["ensemble"], one["selection"]) for one in new] == [
        ("naive", "none", "top")
    ] * 2


def test_only_the_methods_that_are_named_are_compared(folder):
    steps, metrics = swept(folder / "plain.yaml", methods=["BM25", "perc_pos .95"], seeds=1)
    assert [*metrics] == ["BM25", "perc_pos .95"]
    assert sorted(step.identity["filter"]["method"] for step in selecting(steps)) == ["naive", "perc_pos"]
    steps, _ = swept(folder / "plain.yaml", methods=["random"], seeds=1)
    assert "audit" not in steps, "nothing to examine"
    with pytest.raises(UserError, match=r"(?s)no such method.*BM25.*only with --train"):
        swept(folder / "plain.yaml", methods=["BM25"])
    with pytest.raises(UserError, match="leave out the one"):
        swept(folder / "plain.yaml", "mine.select.num_negatives=2,3", methods=["naive"])


def test_variants_have_names_and_any_settings(folder):
    variants = [
        "plain:",
        "clp, two answers: train.loss.name=clp train.loss={name: clp, max_answers: 2}",
        "fewer: mine.select.num_negatives=2 train.temperature=0.1",
    ]
    steps, metrics = swept(folder / "plain.yaml", variants=variants, seeds=1)
    assert [*metrics] == ["plain", "clp, two answers", "fewer"] and len({*map(tuple, metrics.values())}) == 3
    trained = [step.identity for step in steps.values() if step.stage == "train"]
    assert len(trained) == 3
    assert [one["num_negatives"] for one in (step.identity for step in selecting(steps))] == [4, 2]
    # Methods that share their negatives are one line of the audit.
    assert sorted(steps["audit"].inputs) == ["data", "method fewer", "method plain", "teacher model"]


@pytest.mark.parametrize(
    "variants",
    [
        ["plain"],
        ["plain: train.seed=1 train.seed=2"],
        ["plain: train.temperature"],
        ["twice:", "twice: train.seed=2"],
    ],
)
def test_variants_that_say_nothing_are_refused(folder, variants):
    with pytest.raises(UserError, match=r"(?s)a name of its own.*--variant 'plain: train"):
        swept(folder / "plain.yaml", variants=variants, seeds=1)


@pytest.mark.parametrize(
    "mine",
    [
        {
            "teachers": {**JUDGED, "judge": {**JUDGED["judge"], "max_depth": 20}},
            "select": {"teachers": ["dense"]},
        },
        {
            "teachers": TWO,
            "select": {"ensemble": "intra_sample", "num_negatives": 2, "filter": {"max_rank": 3}},
        },
        {"select": {"filter": {"max_positive_rank": 5}}},
    ],
    ids=["a judge of its own depth", "few ranks of each teacher", "a bound on the positive's rank"],
)
def test_what_is_said_of_one_teacher_does_not_bind_others(folder, mine):
    recipe = yaml.safe_load((folder / "judged.yaml").read_text())
    if "teachers" in mine and "judge" in mine["teachers"]:
        mine["select"]["filter"] = {"method": "margin_pos", "threshold": 1.0, "scores_of": "judge"}
        mine["teachers"]["judge"]["model"]["source"] = recipe["mine"]["teachers"]["judge"]["model"]["source"]
    (folder / "bound.yaml").write_text(yaml.safe_dump({**recipe, "mine": mine}))
    steps, metrics = swept(folder / "bound.yaml", methods=["random", "BM25", "naive"], seeds=1)
    assert len(metrics) == 3
    random = selecting(steps)[0].identity
    assert random["filter"]["max_positive_rank"] is None and random["filter"]["max_rank"] is None


def test_what_is_learned_softly_already_is_not_learned_twice(folder):
    recipe = yaml.safe_load((folder / "plain.yaml").read_text())
    recipe["train"] = {"loss": [{"name": "infonce"}, {"name": "bixse"}]}
    (folder / "soft.yaml").write_text(yaml.safe_dump(recipe))
    metrics = swept(folder / "soft.yaml", seeds=1)[1]
    assert SOFT_LABELS not in metrics
    assert not set(OTHERS) & set(metrics), "their candidates have no such scores"
