"""Recipes: what ships loads; a mistake names the file, the line, the key and what to write instead."""

from pathlib import Path

import pytest

from cluster.errors import UserError
from pipelines.recipe import RECIPES, load_recipe

GOOD = """\
name: mine
data: {kind: pairs, name: p, path: pairs.csv}
model: {source: org/model}
mine:
  select:
    num_negatives: 2
"""


@pytest.fixture
def write(tmp_path):
    def recipe(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_shipped_recipes_load_and_bear_their_name(name):
    assert load_recipe(name).name == name


def test_paths_count_from_the_recipe_and_settings_from_here(write, tmp_path, monkeypatch):
    path = write(GOOD)
    assert load_recipe(path).data.path == str(tmp_path / "pairs.csv")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_recipe(path, ["data.path=other.csv"]).data.path == str(elsewhere / "other.csv")
    assert load_recipe(path, ["data.path=/data/x.csv"]).data.path == "/data/x.csv"
    for odd in ("/data/run #3/x: y.csv", "/data/한국어/😀 'a'.csv"):
        assert load_recipe(path, [f"data.path={odd}"]).data.path == odd
        assert load_recipe(path, [f'data.path="{odd}"']).data.path == odd
    assert load_recipe(path, ["audit.known.pairs=null"]).audit.known.pairs is None


def test_the_three_beir_files_count_from_the_recipe_too(write, tmp_path):
    files = "{corpus: c.jsonl, queries: q.jsonl, qrels: {test: t.tsv}}"
    recipe = load_recipe(
        write(GOOD.replace("pairs, name: p, path: pairs.csv", f"beir, name: p, path: {files}"))
    )
    assert recipe.data.path.corpus == str(tmp_path / "c.jsonl")
    assert recipe.data.path.qrels == {"test": str(tmp_path / "t.tsv")}


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("num_negatives: 2", "num_negative: 2", 6, "num_negatives"),
        ("num_negatives: 2", "num_negatives: 0", 6, "mine.select.num_negatives"),
        ("kind: pairs", "kind: pears", 2, "pairs"),
        ("mine:\n", "mining:\n", 4, "mine"),
    ],
)
def test_a_mistake_names_its_line_and_the_nearest_key(write, old, new, line, words):
    with pytest.raises(UserError) as caught:
        load_recipe(write(GOOD.replace(old, new)))
    assert f"recipe.yaml:{line}" in str(caught.value) and words in str(caught.value)


def test_more_negatives_than_are_mined_are_refused(write):
    with pytest.raises(UserError, match=r"train.num_negatives.*mine.select.num_negatives"):
        load_recipe(write(GOOD), ["train.num_negatives=3"])


def test_dynamic_negatives_need_more_than_a_step_takes(write):
    dynamic = ["train.dynamic_negatives={}", "train.epochs=3"]
    assert load_recipe(write(GOOD), dynamic).stages[0].dynamic
    for count in (0, 2):
        with pytest.raises(UserError, match=r"raise mine\.select\.num_negatives \(2\) above"):
            load_recipe(write(GOOD), [*dynamic, f"train.num_negatives={count}"])


def test_an_unknown_recipe_lists_those_that_ship():
    with pytest.raises(UserError, match="demo"):
        load_recipe("demos")


def test_shipped_recipes_hold_no_absolute_path():
    assert not [path.name for path in Path(RECIPES).glob("*.yaml") if ": /" in path.read_text()]


TWO_SETS = """\
name: two
data: {kind: pairs, name: p, path: pairs.csv}
also:
  other:
    data: {kind: beir, name: q, path: folder}
    mine: {select: {num_negatives: 3}}
    query_prompt: 'find: '
    num_negatives: 3
model: {source: org/model}
mine:
  select: {num_negatives: 2}
train:
  stages:
    - {data: [main], num_negatives: 2}
    - {data: [main, other], learning_rate: 1.0e-6}
"""


def test_a_further_data_set_has_its_own_numbers_and_paths(write, tmp_path, monkeypatch):
    path = write(TWO_SETS)
    recipe = load_recipe(path)
    assert recipe.also["other"].data.path == str(tmp_path / "folder")
    assert [{name: rule.num_negatives for name, rule in stage.sets.items()} for stage in recipe.stages] == [
        {"main": 2}, {"main": 1, "other": 3},
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert load_recipe(path, ["also.other.data.path=here"]).also["other"].data.path == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("data: [main, other]", "data: [main, others]", "write other"),
        ("  other:", "  main:", r"also\.main"),
        ("num_negatives: 3\nmodel", "num_negatives: 4\nmodel",
         r"also\.other\.num_negatives \(4\) exceeds also\.other\.mine\.select\.num_negatives \(3\)"),
        ("data: [main], num_negatives: 2", "num_negatives: 3",
         r"train\.stages\.0\.num_negatives \(3\) exceeds mine\.select\.num_negatives \(2\)"),
        ("{kind: beir, name: q, path: folder}", "{kind: texts, name: q, path: folder}", "beir"),
        ("query_prompt: 'find: '", "weight: 2", r"also\.other\.weight.*order: homogeneous"),
        ("query_prompt", "query_prompts", "query_prompt"),
        ("learning_rate: 1.0e-6", "learning_rat: 1.0e-6", "learning_rate"),
        ("{kind: pairs, name: p, path: pairs.csv}", "{kind: texts, name: p, path: pairs.csv}", "corpus to embed"),
    ],
)  # fmt: skip
def test_a_mistake_in_sets_and_stages_is_told(write, old, new, words):
    assert old in TWO_SETS
    with pytest.raises(UserError, match=words):
        load_recipe(write(TWO_SETS.replace(old, new)))
