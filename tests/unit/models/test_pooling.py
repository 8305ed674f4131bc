import torch

from models.pooling import POOLERS


def naive(name, hidden_TD, mask_T):
    pooled = [h for h, m in zip(hidden_TD, mask_T, strict=True) if m]
    if name == "cls":
        return hidden_TD[0]
    return pooled[-1] if name == "last" else sum(pooled) / len(pooled)


def test_poolers_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    hidden_BTD = torch.randn(3, 6, 4, generator=generator)
    mask_BT = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    for name, pooler in POOLERS.items():
        expected = torch.stack([naive(name, h, m) for h, m in zip(hidden_BTD, mask_BT, strict=True)])
        torch.testing.assert_close(pooler(hidden_BTD, mask_BT), expected)


def test_mean_sums_in_float32():
    hidden_BTD = torch.full((1, 4096, 1), 1.0, dtype=torch.bfloat16)
    hidden_BTD[0, 0] = 256.0
    assert POOLERS["mean"](hidden_BTD, torch.ones(1, 4096)).item() == (4095 + 256) / 4096


def test_mean_of_no_token_is_zero():
    assert not POOLERS["mean"](torch.ones(1, 2, 3), torch.zeros(1, 2)).any()
