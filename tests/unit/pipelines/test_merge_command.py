"""Models merged from the command line: directories, and what runs trained."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from cluster.runs import Run
from models.checkpoint import load_encoder
from stope import app
from tests.tiny_training import make_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    make_model(folder / "first")
    shutil.copytree(folder / "first", folder / "second")
    weights = {name: weight + 1 for name, weight in load_file(folder / "first/model.safetensors").items()}
    save_file(weights, folder / "second/model.safetensors", metadata={"format": "pt"})
    return folder / "first", folder / "second"


def merged(tmp_path, *arguments):
    storage = ("--storage", str(tmp_path / "store"))
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "out"), *map(str, arguments), *storage])
    if result.exception:
        raise result.exception
    assert str(tmp_path / "out") in result.output.replace("\n", "")
    return load_file(tmp_path / "out/model.safetensors")


@pytest.mark.parametrize(
    ("options", "share"), [((), 0.5), (("--weight", "3", "--weight", "1"), 0.25), (("--slerp", "0"), 0.0)]
)
def test_writes_a_model_between_two(models, tmp_path, options, share):
    found, first = merged(tmp_path, *models, *options), load_file(models[0] / "model.safetensors")
    for name, weight in first.items():
        assert (found[name] - weight - share).abs().max() < 1e-6, name
    assert load_encoder(tmp_path / "out").dimension == 32


def test_a_file_that_holds_computed_tables_too_merges_with_what_was_trained_from_it(models, tmp_path):
    shutil.copytree(models[1], tmp_path / "old")
    weights = load_file(models[1] / "model.safetensors")
    weights["embeddings.position_ids"] = torch.arange(64)[None]
    save_file(weights, tmp_path / "old/model.safetensors", metadata={"format": "pt"})
    found, first = merged(tmp_path, models[0], tmp_path / "old"), load_file(models[0] / "model.safetensors")
    assert found.keys() == first.keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--slerp", "0.5", "--weight", "1"), "an arc lies between two models"),
        (("--weight", "1"), "one weight each"),
        (("run:latest",), "there are no runs yet"),
    ],
)
def test_says_what_does_not_merge(models, tmp_path, options, words):
    with pytest.raises(Exception, match=words):
        merged(tmp_path, *models, *options)
    assert not (tmp_path / "out").exists()


def test_takes_what_a_run_trained(models, tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    writer = store.open("train", "second", "0" * 20)
    writer.put_directory("model", models[1])
    trained = writer.commit(stage_version=1, num_shards={}, identity={}, inputs={})
    run = Run.create(store.storage, {}, {}, "second")
    with pytest.raises(UserError, match="no finished train stage"):
        merged(tmp_path, models[0], "run:latest")
    run.record_stage(trained.manifest.key, "train", "done")
    found = merged(tmp_path, models[0], f"run:{run.id}")
    first = load_file(models[0] / "model.safetensors")
    assert all((found[name] - weight - 0.5).abs().max() < 1e-6 for name, weight in first.items())
