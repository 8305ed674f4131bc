"""What a training cannot begin with is refused off the model's files, before anything is mined."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from models.errors import ModelError
from pipelines.train.beginning import check_beginning
from pipelines.train.config import TrainConfig
from tests.tiny_training import make_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("begun")
    make_model(directory)
    return directory


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora": {"targets": ["nothing"]}}, "train.lora.targets.*attention.self.query"),
        ({"only_train": ["encoder.layer.1.*", "nope"]}, "train.only_train.*got: nope"),
        ({"loss": {"name": "matryoshka", "dimensions": [8, 99]}}, "longer than the embedding.*write 32"),
        ({"moe": {"layers": [5]}}, "no such layer.*-2 to 1"),
        ({"moe": {"layers": [1, -1]}}, "named twice"),
    ],
)
def test_refuses(directory, settings, words):
    with pytest.raises(ModelError, match=f"(?s){words}"):
        check_beginning(directory, TrainConfig(**settings), "mean", trusted=False)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"lora": {}}, {"lora": {"targets": ["query", "attention.output.dense"]}}, {"moe": {"layers": [-1]}},
        {"only_train": ["encoder.layer.1.*", "backbone.encoder.layer.0.*", "latent_attention.*", "latents_LD"]},
        {"loss": {"name": "matryoshka", "dimensions": [8, 32]}},
    ],
)  # fmt: skip
def test_takes(directory, settings):
    check_beginning(directory, TrainConfig(**settings), "latent_attention", trusted=False)


def test_names_are_those_of_the_modules_not_of_the_file(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "old")
    path = tmp_path / "old" / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma"): weight
        for name, weight in load_file(path).items()
    }
    save_file(old, path, metadata={"format": "pt"})
    check_beginning(tmp_path / "old", TrainConfig(only_train=["*LayerNorm.weight"]), "mean", trusted=False)
