"""One rank = two ranks = four ranks = plain torch: every ZeRO stage, every loss, LoRA, GradCache, ragged batches."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.adapters import Lora, merge_lora
from tests.integration.rank_cases import ADAPTED, CASES, IN_FOUR, LORA, REFERENCE, RESUMED, TWINS, WORLDS

SCRIPT = Path(__file__).with_name("rank_cases.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
        "HF_HUB_OFFLINE": "1",
    }
    folder = tmp_path_factory.mktemp("ranks")
    # A group of its own, so that a rank that hangs is ended with the process that forked it.
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-3000:]
    return {world: torch.load(folder / str(world) / "results.pt", weights_only=False) for world in WORLDS}


def worlds_of(cases, worlds=WORLDS):
    return [(case, world) for case in cases for world in worlds if world < 4 or case in IN_FOUR]


def assert_close(found, expected):
    weights, losses, norms = found
    expected_weights, expected_losses, expected_norms = expected
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        # The softmax does not change with the key's bias: its gradient is rounding noise, which Adam makes large.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(
                weight, expected_weights[name], rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize(("case", "world"), worlds_of(REFERENCE))
def test_equals_plain_torch(results, world, case):
    assert_close(results[world][case], results[1]["reference"])


@pytest.mark.parametrize(("case", "world"), worlds_of(CASES, WORLDS[1:]))
def test_n_ranks_equal_one(results, world, case):
    assert_close(results[world][case], results[1][case])


@pytest.mark.parametrize(("case", "world"), worlds_of(TWINS))
def test_gradcache_equals_the_big_batch_with_dropout(results, world, case):
    assert_close(results[world][case], results[world][f"{case} plainly"])
    without = results[world][case.replace("dropout", "gradcache")]
    assert abs(results[world][case][1][0] - without[1][0]) > 1e-3


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
