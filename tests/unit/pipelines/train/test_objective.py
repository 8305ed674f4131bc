"""The loss of a recipe: terms added up, each with its weight, its teacher and the temperature where it has one."""

from dataclasses import replace

import pytest
import torch

from models.losses import LOSSES
from models.losses.batch import GroupBatch
from pipelines.train.config import TrainConfig
from pipelines.train.objective import objective
from tests.unit.models.losses.loss_batches import make_batch

TEACHERS = ("words", "judge")


def value(batch, teacher_BGK, loss):
    return objective(batch, teacher_BGK, TEACHERS, TrainConfig(loss=loss).loss, 0.3).item()


@pytest.fixture
def made():
    batch = make_batch()
    return batch, torch.stack([batch.teacher_BG, batch.teacher_BG.flip(0)], dim=2)


def test_terms_are_added_up_with_their_weights(made):
    terms = [{"weight": 2.0, "false_negative_margin": 0.1}, {"name": "spread_out", "weight": 0.5}]
    expected = 2.0 * value(*made, {"false_negative_margin": 0.1}) + 0.5 * value(*made, {"name": "spread_out"})
    assert value(*made, terms) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("teacher", "place"), [("words", 0), ("judge", 1), (None, 0)])
def test_a_term_has_the_scores_of_its_teacher(made, teacher, place):
    batch, teacher_BGK = made
    term = {"name": "soft_labels", "teacher": teacher, "teacher_temperature": 0.5}
    scored = replace(batch, teacher_BG=teacher_BGK[:, :, place])
    expected = LOSSES["soft_labels"](scored, temperature=0.3, teacher_temperature=0.5).item()
    assert value(batch, teacher_BGK, term) == pytest.approx(expected, rel=1e-12)


def test_matryoshka_goes_around_a_sum(made):
    batch, teacher_BGK = made
    inner = [{"name": "clp", "weight": 3.0}, {"name": "margin_mse", "teacher": "judge"}]
    around = {"name": "matryoshka", "weight": 0.1, "dimensions": [2, 6], "weights": [0.5, 1.0], "of": inner}
    expected = 0.5 * value(batch.prefix(2), teacher_BGK, inner) + value(batch, teacher_BGK, inner)
    assert value(batch, teacher_BGK, around) == pytest.approx(0.1 * expected, rel=1e-12)


def test_the_guide_counts_where_a_term_names_one(made):
    batch, teacher_BGK = made
    guided = {"guide": "words", "guide_margin": 0.2}
    expected = LOSSES["infonce"](batch, temperature=0.3, guide_margin=0.2).item()
    assert value(batch, teacher_BGK, guided) == pytest.approx(expected, rel=1e-12)
    assert value(batch, teacher_BGK, guided) != value(batch, teacher_BGK, {})


OF_PAIRS = ("listwise_softmax", "binary_cross_entropy", "soft_labels", "margin_mse")


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"matryoshka", *OF_PAIRS[:2]}))
def test_every_loss_takes_what_its_config_says(made, name):
    assert value(*made, {"name": name}) > 0


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_loss_over_groups_is_the_same_on_scores_as_on_embeddings(made, name):
    batch, teacher_BGK = made
    terms = TrainConfig(cross_encoder={"loss": {"name": name, "weight": 0.5}}).losses
    scores = GroupBatch(batch.scores_BG, batch.group_mask_BG, batch.weights_B, batch.normalizer)
    of_scores, of_embeddings = (
        objective(each, teacher_BGK, TEACHERS, terms, 1.0).item() for each in (scores, batch)
    )
    assert of_scores == pytest.approx(of_embeddings, rel=1e-12) and of_scores > 0
