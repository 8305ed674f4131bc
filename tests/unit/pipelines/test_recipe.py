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


def test_an_unknown_recipe_lists_those_that_ship():
    with pytest.raises(UserError, match="demo"):
        load_recipe("demos")


def test_shipped_recipes_hold_no_absolute_path():
    assert not [path.name for path in Path(RECIPES).glob("*.yaml") if ": /" in path.read_text()]
