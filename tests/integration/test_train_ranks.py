"""One rank = two ranks = four ranks = plain torch, under every ZeRO stage, ragged batches included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integration.rank_cases import CASES

WORLDS = (1, 2, 4)
SCRIPT = Path(__file__).with_name("rank_cases.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
        "HF_HUB_OFFLINE": "1",
    }
    found = {}
    for world in WORLDS:
        folder = tmp_path_factory.mktemp(f"world-{world}")
        command = [[sys.executable, str(SCRIPT), str(rank), str(world), str(folder)] for rank in range(world)]
        ranks = [
            subprocess.Popen(
                line, env={**environment, "LOCAL_RANK": line[2]}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )
            for line in command
        ]  # fmt: skip
        try:
            outputs = [process.communicate(timeout=240)[0] for process in ranks]
        finally:
            for process in ranks:
                process.kill()
        for process, output in zip(ranks, outputs, strict=True):
            assert process.returncode == 0, output[-3000:]
        found[world] = torch.load(folder / "results.pt", weights_only=False)
    return found


def assert_close(weights, expected):
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        # The softmax does not change with the key's bias: its gradient is rounding noise, which Adam makes large.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(
                weight, expected[name], rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("case", [case for case in CASES if "margin" not in case])
@pytest.mark.parametrize("world", WORLDS)
def test_equals_plain_torch(results, world, case):
    weights, losses, norms = results[world][case]
    expected, expected_losses, expected_norms = results[1]["reference"]
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert_close(weights, expected)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", WORLDS[1:])
def test_n_ranks_equal_one(results, world, case):
    weights, losses, norms = results[world][case]
    expected, expected_losses, expected_norms = results[1][case]
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert norms == pytest.approx(expected_norms, rel=1e-4)
    assert_close(weights, expected)


@pytest.mark.parametrize("variant", ["again", "resumed"])
@pytest.mark.parametrize("case", CASES)
def test_again_and_resumed_are_equal_to_the_bit(results, case, variant):
    weights, history, _ = results[2][f"{case} {variant}"]
    expected, losses, _ = results[2][case]
    assert [record.loss for record in history] == losses
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), name
