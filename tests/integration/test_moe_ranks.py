"""Experts under DeepSpeed, whole or shared out: every ZeRO stage, adapters, GradCache, checkpointing, 1 to 4 ranks."""

from pathlib import Path

import pytest
import torch

from models.adapters import Lora, merge_lora
from tests.integration.moe_rank_cases import CASES, IN_FOUR, LORA, MATRIX, RESUMED, SHARED, WORLDS
from tests.rank_processes import run_script
from tests.unit.models.moe.tiny_backbones import FAMILIES

SCRIPT = Path(__file__).with_name("moe_rank_cases.py")
PLAIN = [case for case in MATRIX if "lora" not in case]
ADAPTED = [case for case in MATRIX if "lora" in case]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moe-ranks")
    run_script(SCRIPT, folder)
    return {world: torch.load(folder / str(world) / "results.pt", weights_only=False) for world in WORLDS}


def assert_close(found, expected):
    weights, losses, norms, shares = found
    expected_weights, expected_losses, expected_norms, expected_shares = expected
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert shares == pytest.approx(expected_shares, abs=1e-6)
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        # The softmax does not change with the key's bias: its gradient is rounding noise, which Adam makes large.
        if not name.endswith(("key.bias", "key.base_layer.bias")):
            torch.testing.assert_close(
                weight, expected_weights[name], rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("world", WORLDS[:2])
@pytest.mark.parametrize("case", [*PLAIN, *SHARED])
def test_equals_plain_torch(results, world, case):
    assert_close(results[world][case], results[1]["reference"])


@pytest.mark.parametrize("world", WORLDS)
def test_every_family_embeds_the_same_when_its_experts_are_shared_out(results, world):
    moved = results[world]["sharing out"]
    assert len(moved) == world and all(each.keys() == FAMILIES.keys() for each in moved)
    assert max(max(each.values()) for each in moved) < 2e-6


@pytest.mark.parametrize("case", IN_FOUR)
def test_experts_of_four_ranks_equal_those_of_one(results, case):
    assert_close(results[4][case], results[1][case.removesuffix(" shared")])


@pytest.mark.parametrize("world", WORLDS[:2])
@pytest.mark.parametrize("case", ADAPTED)
def test_adapters_are_the_same_in_every_way_of_training(results, world, case):
    assert_close(results[world][case], results[1]["zero-1 lora"])


@pytest.mark.parametrize("case", [case for case in CASES if case not in MATRIX | SHARED])
def test_two_ranks_equal_one(results, case):
    assert_close(results[2][case], results[1][case])


@pytest.mark.parametrize("case", RESUMED)
def test_resumes_exactly(results, case):
    resumed, again = (results[2][f"{case} {name}"] for name in ("resumed", "again"))
    assert resumed[1] == again[1] and resumed[3] == again[3]
    assert all(torch.equal(weight, again[0][name]) for name, weight in resumed[0].items())


def moved(results, case):
    weights = results[2][case][0]
    start = results[1]["start"]
    return {name for name, weight in weights.items() if not torch.equal(weight, start[name])}


def test_only_what_is_asked_for_is_trained(results):
    blocks = {f"backbone.encoder.layer.{layer}.intermediate" for layer in (0, 1)}
    parts = ("router.weight", "up.weight", "up.bias", "down.weight", "down.bias")
    assert (
        moved(results, "intermediate shared")
        == moved(results, "intermediate")
        == {f"{block}.{part}" for block in blocks for part in parts}
    )
    assert moved(results, "router") == {f"{block}.router.weight" for block in blocks}


def test_the_router_learns_but_for_clp_with_one_expert_a_token(results):
    router = "backbone.encoder.layer.1.intermediate.router.weight"
    start = results[1]["start"][router]
    gained = {case: (results[1][case][0][router] - start).norm() for case in ("zero-1", "no balance", "clp")}
    # Weight decay alone: 3 steps of 1e-3 x 0.01.
    assert gained["clp"] < 1e-4 * start.norm() < 1e-2 * min(gained["zero-1"], gained["no balance"])
    assert not torch.equal(results[1]["zero-1"][0][router], results[1]["no balance"][0][router])


def test_merged_adapters_are_weights_of_the_model_with_experts(results):
    weights = results[2]["zero-3 lora"][0]
    merged = merge_lora(weights, Lora(LORA["rank"], LORA["alpha"], 0.0, tuple(LORA["targets"])))
    start = results[1]["start"]
    assert merged.keys() <= start.keys()
    for name, weight in merged.items():
        assert torch.equal(weight, start[name]) is not (
            weight.ndim >= 2 and "embeddings" not in name and not name.endswith("bias")
        ), name
