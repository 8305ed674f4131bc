"""One rank = two ranks = four ranks = plain torch: every ZeRO stage, every loss, LoRA, GradCache, ragged batches."""

from pathlib import Path

import pytest
import torch

from models.adapters import Lora, merge_lora
from tests.integration.rank_cases import (
    ADAPTED,
    CASES,
    DROPPED,
    DYNAMIC,
    ELASTIC,
    IN_FOUR,
    LORA,
    MEASURED,
    PAIRS,
    REFERENCE,
    RESUMED,
    SHOWN,
    WORLDS,
)
from tests.rank_processes import run_script

SCRIPT = Path(__file__).with_name("rank_cases.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_script(SCRIPT, folder)
    names = (*WORLDS, "again")
    return {name: torch.load(folder / str(name) / "results.pt", weights_only=False) for name in names}


def worlds_of(cases, worlds=WORLDS):
    return [(case, world) for case in cases for world in worlds if world < 4 or case in IN_FOUR]


def assert_close(found, expected, atol=2e-6):
    weights, losses, norms = found
    expected_weights, expected_losses, expected_norms = expected
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        # A softmax does not change with the key's bias, nor that of a group's scores with the head's: their gradients
        # are rounding noise, which Adam makes large.
        if not name.endswith(("key.bias", "classifier.bias")):
            torch.testing.assert_close(
                weight, expected_weights[name], rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize(("case", "world"), worlds_of(REFERENCE))
def test_equals_plain_torch(results, world, case):
    assert_close(results[world][case], results[1]["reference"])


@pytest.mark.parametrize(("case", "world"), worlds_of(PAIRS))
def test_a_cross_encoder_equals_plain_torch_pair_by_pair(results, world, case):
    # Padded and alone a pair differs by rounding, and Adam moves a weight whose gradient is next to nothing by up to a
    # whole step of 1e-3.
    assert_close(results[world][case], results[1]["pairs reference"], atol=2e-5)


@pytest.mark.parametrize(("case", "world"), worlds_of(CASES, WORLDS[1:]))
def test_n_ranks_equal_one(results, world, case):
    assert_close(results[world][case], results[1][case])


@pytest.mark.parametrize(("case", "world"), worlds_of(DROPPED))
def test_dropout_equals_plain_torch_text_by_text(results, world, case):
    assert_close(results[world][case], results[1]["dropout reference"])
    assert abs(results[world][case][1][0] - results[1]["zero-1"][1][0]) > 1e-3


@pytest.mark.parametrize(("case", "world"), worlds_of(SHOWN))
def test_queries_behind_examples_equal_plain_torch_row_by_row(results, world, case):
    assert_close(results[world][case], results[1]["few-shot reference"])
    assert abs(results[world][case][1][0] - results[1]["zero-1 dropout"][1][0]) > 1e-3


@pytest.mark.parametrize("world", WORLDS[:2])
@pytest.mark.parametrize("variant", ["", " resumed", " taken over"])
@pytest.mark.parametrize("case", DYNAMIC)
def test_negatives_give_way_as_in_a_loop_over_the_queries(results, case, variant, world):
    # One rank takes over in the world `again`.
    name = "again" if variant == " taken over" and world == 1 else world
    *found, replaced = results[name][f"{case}{variant}"]
    *expected, expected_replaced = results[1]["dynamic reference"]
    assert replaced == expected_replaced
    assert sum(replaced[:5]) > 0 and sum(replaced[6:]) > 0
    assert_close(found, expected)


def test_dropout_of_the_adapters_changes_the_training(results):
    # The first step's loss does not show it: the update of an adapter begins at 0.
    dropped, without = results[1]["zero-2 lora dropout"], results[1]["zero-2 lora"]
    assert dropped[1][0] == pytest.approx(without[1][0], rel=1e-5)
    assert abs(dropped[1][1] - without[1][1]) > 1e-4


@pytest.mark.parametrize("name", [2, "again"])
@pytest.mark.parametrize("case", ELASTIC)
def test_another_number_of_ranks_takes_over_where_the_first_left_it(results, case, name):
    assert_close(results[name][f"{case} taken over"], results[1][case])


@pytest.mark.parametrize("world", WORLDS[:2])
@pytest.mark.parametrize("case", MEASURED)
def test_measuring_between_the_steps_equals_a_loop_and_disturbs_nothing(results, case, world):
    first, *later = results[world][f"{case} metric"]
    assert first == pytest.approx(results[1]["metric"], abs=1e-9)
    assert later == pytest.approx(results[1][f"{case} metric"][1:], abs=1e-9)
    assert len(later) == 3 and len({first, *later}) > 1
    assert_close(results[world][f"{case} measured"], results[1][case])


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("loss")])
def test_every_loss_goes_its_own_way(results, case):
    assert abs(results[1][case][1][0] - results[1]["zero-1"][1][0]) > 1e-3


@pytest.mark.parametrize(("case", "world"), worlds_of(ADAPTED))
def test_lora_moves_what_it_targets_and_nothing_else(results, world, case):
    merged = merge_lora(
        results[world][case][0], Lora(LORA["rank"], LORA["alpha"], 0.0, tuple(LORA["targets"]))
    )
    start = results[1]["start"]
    assert merged.keys() == start.keys()
    for name, weight in merged.items():
        targeted = name.endswith(("query.weight", "output.dense.weight"))
        assert torch.equal(weight, start[name]) is not targeted, name
    assert_close(results[world][case], results[1]["zero-1 lora"])


@pytest.mark.parametrize("world", WORLDS[:2])
def test_only_the_named_weights_move(results, world):
    start = results[1]["start"]
    for name, weight in results[world]["zero-2 only some"][0].items():
        named = "intermediate.dense" in name or "layer.1.attention" in name
        if not name.endswith("key.bias"):
            assert torch.equal(weight, start[name]) is not named, name


@pytest.mark.parametrize("variant", ["again", "resumed"])
@pytest.mark.parametrize("case", RESUMED)
def test_again_and_resumed_are_equal_to_the_bit(results, case, variant):
    weights, losses, _ = results[2][f"{case} {variant}"]
    expected, expected_losses, _ = results[2][case]
    assert losses == expected_losses
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
