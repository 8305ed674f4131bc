"""Masks that hang on the text: against the hash in plain integers, and whatever stands beside the text."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from models.adapters import Lora, add_lora
from models.encoder import Encoder
from models.errors import ModelError
from pipelines.train.dropout import (
    RowDropout,
    Rows,
    check_draws,
    keep_mask,
    mix,
    pass_seed,
    row_keys,
    seed_by_row,
)
from pipelines.train.engine import Tower, set_dropout

M32, M64 = 2**32 - 1, 2**64 - 1


def splitmix(z):
    z = (z + 0x9E3779B97F4A7C15) & M64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def kept(key, row, column, p):
    x = (((row << 16) + column // 2) * 0x9E3779B9) & M32
    x ^= key & M32
    x ^= x >> 16
    x = (x * 0x7FEB352D + (key >> 32)) & M32
    x ^= x >> 15
    x = (x * 0x846CA68B) & M32
    x ^= x >> 16
    half = x >> 16 if column % 2 else x & 0xFFFF
    signed = half - 2**16 if half >= 2**15 else half
    return signed + 2**15 >= round(p * 2**16)


def unsigned(tensor):
    return [each % 2**64 for each in tensor.tolist()]


def test_the_hash_is_splitmix():
    states = [0, 1, 12345, 2**63 - 1]
    assert unsigned(mix(torch.tensor(states))) == [splitmix(each) for each in states]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_mask_equals_the_same_in_plain_integers(p):
    keys = [splitmix(each) for each in range(3)]
    signed = torch.tensor([key - 2**64 if key >= 2**63 else key for key in keys])
    mask = keep_mask(signed, 5, 7, p)
    expected = [[[kept(key, row, column, p) for column in range(7)] for row in range(5)] for key in keys]
    assert mask.tolist() == expected


def test_masks_keep_their_share_and_are_independent():
    keys = mix(torch.arange(64))
    mask = keep_mask(keys, 64, 64, 0.3).float()
    assert mask.mean().item() == pytest.approx(0.7, abs=4 * (0.21 / mask.numel()) ** 0.5)
    centred = mask - 0.7
    for one, other in (
        (centred[:-1], centred[1:]),
        (centred[:, :-1], centred[:, 1:]),
        (centred[..., :-1], centred[..., 1:]),
        (centred[..., :-2], centred[..., 2:]),
    ):
        assert abs((one * other).mean().item()) < 5 * 0.21 / one.numel() ** 0.5
    # A larger matrix begins with the smaller one, however large either is.
    assert torch.equal(keep_mask(keys, 30, 21, 0.3), mask[:, :30, :21].bool())
    assert torch.equal(keep_mask(keys[5:6], 64, 64, 0.3), mask[5:6].bool())
    assert keep_mask(keys, 4, 4, 1e-7).all()


def inputs(rows, width=None):
    width = width or max(map(len, rows))
    ids_BT = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids_BT, mask_BT, mask_BT


TEXTS = [[3, 9, 4, 4], [3, 9], [9, 3], [5, 3, 9, 4, 4, 7], [3, 9, 4]]


def test_a_text_is_known_by_its_tokens_wherever_it_stands():
    keys = row_keys(inputs(TEXTS), 7)
    assert len(set(keys.tolist())) == len(TEXTS)
    assert torch.equal(row_keys(inputs(TEXTS, width=16), 7), keys)
    assert torch.equal(row_keys(inputs(TEXTS[::-1]), 7).flip(0), keys)
    assert not (row_keys(inputs(TEXTS), 8) == keys).any()
    seeds = {pass_seed(seed, step, kind) for seed in range(3) for step in range(3) for kind in range(3)}
    assert len(seeds) == 27


def test_values_that_stay_are_scaled_by_what_stays_on_average():
    rows, keys = Rows(), mix(torch.arange(4))
    x = torch.randn(4, 6, 10)
    with rows.passing(keys):
        out = rows.drop(x, 0.25, 3)
        heads = rows.drop(torch.ones(4, 2, 5, 5), 0.25, 3)
    for text in range(4):
        mask = keep_mask(mix(keys[text : text + 1] + 3), 6, 10, 0.25)[0]
        torch.testing.assert_close(out[text], torch.where(mask, x[text] / 0.75, 0.0))
        for head in range(2):
            own = mix(mix(keys[text : text + 1] + 3) + head)
            assert torch.equal(heads[text, head] > 0, keep_mask(own, 5, 5, 0.25)[0])
    with rows.passing(keys):
        assert torch.equal(rows.drop(x.reshape(24, 10), 0.25, 3), out.reshape(24, 10))
        with pytest.raises(ModelError, match="4 texts"):
            rows.drop(torch.ones(7, 10), 0.25, 3)
        with pytest.raises(ModelError, match="4 texts"):
            rows.drop(torch.ones(8, 2, 10), 0.25, 3)


def make_encoder():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, attn_implementation="sdpa", initializer_range=0.3,
    )  # fmt: skip
    return Encoder(BertModel(config, add_pooling_layer=False), "mean").train()


def tower_of(encoder, dropout, lora=None):
    set_dropout(encoder, dropout)
    if lora:
        add_lora(encoder.backbone, lora, 0)
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
    return Tower(encoder, "float32", seed_by_row(encoder.backbone))


@pytest.mark.parametrize("adapters", [False, True])
def test_an_embedding_hangs_on_seed_and_text_alone(adapters):
    lora = Lora(4, 8, 0.4, ("query", "output.dense")) if adapters else None
    tower = tower_of(make_encoder(), 0.0 if adapters else 0.3, lora)
    together, again = (tower([inputs(TEXTS)], [seed])[0] for seed in (1, 1))
    assert torch.equal(together, again)
    for text, expected in zip(TEXTS, together, strict=True):
        # Padded beyond the model's positions, which is cut off.
        (alone,) = tower([inputs([text], width=16)], [1])
        torch.testing.assert_close(alone[0], expected, rtol=1e-4, atol=1e-6)
    assert (tower([inputs(TEXTS)], [2])[0] - together).abs().max() > 1e-2
    whole = tower.eval()([inputs(TEXTS)])[0]
    assert (whole - together).abs().max() > 1e-2


def test_every_dropout_is_replaced_and_every_one_draws_its_own():
    encoder = make_encoder()
    tower_of(encoder, 0.3)
    found = [module for module in encoder.modules() if isinstance(module, RowDropout)]
    assert len(found) == 1 + 2 * 3 and len({module.layer for module in found}) == len(found)
    assert not any(isinstance(module, nn.Dropout) for module in encoder.modules())


def test_without_dropout_attention_stays_fused():
    encoder = make_encoder()
    tower_of(encoder, 0.0)
    assert encoder.backbone.config._attn_implementation == "sdpa"
    assert not any(isinstance(module, RowDropout) for module in encoder.modules())


def test_a_layer_that_is_computed_twice_drops_the_same():
    gradients = []
    for checkpointing in (False, True):
        encoder = make_encoder()
        tower = tower_of(encoder, 0.3)
        if checkpointing:
            encoder.backbone.gradient_checkpointing_enable(
                {"use_reentrant": False, "context_fn": tower.rows.again}
            )
        first, second = tower([inputs(TEXTS[:3]), inputs(TEXTS[3:])], [1, 2])
        (first.sum() * second[0, 0]).backward()
        gradients.append({name: weight.grad for name, weight in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda m, n=name: f"{n}: {m}")


class Drawing(nn.Module):
    """A backbone that draws noise behind everybody's back."""

    def __init__(self, noise):
        super().__init__()
        self.noise, self.embedding = noise, nn.Embedding(4, 4)

    def forward(self, input_ids, attention_mask):
        hidden = self.embedding(input_ids)
        return nn.functional.dropout(hidden, self.noise, self.training)


def test_a_model_that_draws_on_its_own_is_refused():
    check_draws(Drawing(0.0), Rows())
    encoder = make_encoder()
    set_dropout(encoder, 0.3)
    check_draws(encoder.backbone, seed_by_row(encoder.backbone))
    assert encoder.training
    with pytest.raises(ModelError, match=r"config\.json"):
        check_draws(Drawing(0.1), Rows())
    plain = make_encoder()
    set_dropout(plain, 0.3)
    with pytest.raises(ModelError, match=r"random numbers"):
        check_draws(plain.backbone, Rows())
