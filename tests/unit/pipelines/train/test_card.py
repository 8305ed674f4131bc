"""The README of a trained model: what it says, and what it must not."""

import pytest
import yaml

from models.prompts import Prompts
from pipelines.located_model import LocatedModel
from pipelines.train.card import model_card, public_name
from pipelines.train.config import TrainConfig
from tests.planned_training import planned_task
from tests.tiny_sets import SIZE, set_step
from tests.tiny_training import data_step, groups_step, make_model

PROMPTS = Prompts("find: ", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("card")


def card_of(folder, sets, config, prompts=PROMPTS):
    """Return the card of a training on some data sets: name -> the steps ingest and select."""
    if not (folder / "tiny-bert").is_dir():
        make_model(folder / "tiny-bert")
    model = LocatedModel(str(folder / "tiny-bert"), "mean", prompts, 16, 48, "float32", "cpu")
    return model_card(planned_task(folder / "store", sets, model, config), 32)


@pytest.fixture(scope="module")
def card(folder):
    data = data_step()
    config = TrainConfig(
        num_negatives=2, temperature=0.02, zero_stage=3, wandb="secret-project", lora={"rank": 4},
        deepspeed={"zero_optimization": {"offload_param": {"nvme_path": "/mnt/fast"}}},
    )  # fmt: skip
    return card_of(folder, {"main": (data, groups_step(data))}, config)


def test_it_says_what_the_model_was_made_of(card):
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity",
    }  # fmt: skip
    for words in ("| base model | tiny-bert |", "60 rows in 1 steps", "`tiny-", "`find: `", "32 dimensions",
                  "16 tokens (query), 48 tokens (document)", "train/tiny-tuned-1111", "stope report"):  # fmt: skip
        assert words in text, words
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["train"]
    assert settings["temperature"] == 0.02 and settings["lora"]["rank"] == 4
    assert settings["loss"][0]["name"] == "infonce"


def test_every_data_set_that_was_trained_on_is_named_with_its_rows(card, folder):
    (line,) = [line for line in card.splitlines() if line.startswith("| data")]
    assert line.startswith("| data | `tiny-") and line.endswith(", 60 rows |")
    sets = {name: set_step(name, 1000 * place) for place, name in enumerate(("main", "second", "third"), 1)}
    stages = [{"data": ["main"], "epochs": 3}, {"data": ["main", "second"]}]
    several = card_of(folder, sets, TrainConfig(num_negatives=2, batch_size=8, stages=stages))
    named = [line for line in several.splitlines() if line.startswith("| data")]
    expected = []
    for name, rows in (("main", 4 * SIZE), ("second", SIZE)):
        data, groups = (step.key.rpartition("/")[2] for step in sets[name])
        expected.append(f"| data, {name} | `{data}`, groups `{groups}`, {rows} rows |")
    assert named == expected
    assert f"{5 * SIZE} rows in" in several


def test_what_ends_every_query_is_said_and_shown(card, folder):
    assert "end of a query" not in card and 'model.encode_query(["a question"])' in card
    data = data_step()
    ended = card_of(
        folder, {"main": (data, groups_step(data))}, TrainConfig(num_negatives=2),
        Prompts(query="find: ", suffix="\nanswer:"),
    )  # fmt: skip
    (row,) = [line for line in ended.splitlines() if line.startswith("| end of a query")]
    assert r"`'\nanswer:'`" in row
    assert r"""model.encode_query(["a question" + '\nanswer:'])""" in ended
    assert r"""texts = ['find: ' + "a question" + '\nanswer:']""" in ended
    assert "|\n\n## Use" in ended and "|\n\n## Use" in card


def test_it_names_no_path_and_no_account(card, folder):
    for secret in (str(folder), str(folder.parent), "/mnt", "secret-project", "/tmp"):
        assert secret not in card, secret


@pytest.mark.parametrize(
    ("location", "expected"),
    [("package:some_model", ("some_model", False)), ("org/name", ("org/name", True))],
)
def test_a_model_goes_by_its_public_name(location, expected):
    assert public_name(location) == expected


def test_of_a_directory_its_own_name_is_told(tmp_path):
    (tmp_path / "private" / "mine").mkdir(parents=True)
    assert public_name(str(tmp_path / "private" / "mine")) == ("mine", False)
