"""Latent attention against a loop, at its start, on disk and in sentence-transformers."""

import json

import numpy as np
import pytest
import torch

from models.checkpoint import load_encoder, save_encoder, verify_export
from models.encoder import Encoder
from models.errors import ModelError
from models.inference import embed
from models.latent_attention import LatentAttention
from models.layout import describe_model, model_digest
from models.pooling import POOLERS, POOLINGS
from models.prompts import Prompts
from models.sentence_modules import LATENT_ATTENTION_FOLDER, read_modules
from models.tokenization import TextTokenizer
from tests.tiny_decoders import TEXTS, make_decoder


def trained(dimension=8, num_latents=5, num_heads=2):
    """Return a pooler whose weights have all moved."""
    pooler = LatentAttention(dimension, num_latents, num_heads)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in pooler.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return pooler


def batch():
    generator = torch.Generator().manual_seed(2)
    mask_BT = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]])
    return torch.randn(3, 4, 8, generator=generator), mask_BT


def norm(layer, x_D):
    return (x_D - x_D.mean()) / (x_D.var(unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias


def naive(pooler, hidden_TD, mask_T):
    """Pool one text by loops over tokens, heads and latents."""
    heads, latents = pooler.num_heads, [norm(pooler.latent_norm, row) for row in pooler.latents_LD]
    keys = [(pooler.key.weight @ row).view(heads, -1) for row in latents]
    values = [(pooler.value.weight @ row).view(heads, -1) for row in latents]
    pooled = []
    for h_D, counts in zip(hidden_TD, mask_T, strict=True):
        query = (pooler.query.weight @ norm(pooler.norm, h_D)).view(heads, -1)
        parts = []
        for head in range(heads):
            scores = torch.stack([query[head] @ key[head] for key in keys]) / query.shape[1] ** 0.5
            shares = scores.exp() / scores.exp().sum()
            parts.append(sum(share * value[head] for share, value in zip(shares, values, strict=True)))
        out = h_D + pooler.output.weight @ torch.cat(parts)
        inner = torch.nn.functional.gelu(pooler.up.weight @ norm(pooler.mlp_norm, out))
        out = out + pooler.down.weight @ inner
        if counts:
            pooled.append(out)
    return sum(pooled) / len(pooled)


def test_equals_a_loop():
    pooler, (hidden_BTD, mask_BT) = trained(), batch()
    expected = torch.stack([naive(pooler, h, m) for h, m in zip(hidden_BTD, mask_BT, strict=True)])
    torch.testing.assert_close(pooler(hidden_BTD, mask_BT), expected, atol=1e-5, rtol=1e-5)
    assert (pooler(hidden_BTD, mask_BT) - POOLERS["mean"](hidden_BTD, mask_BT)).abs().max() > 0.1


def test_is_the_mean_at_the_start_and_learns():
    pooler, (hidden_BTD, mask_BT) = LatentAttention(8, 5, 2), batch()
    pooled = pooler(hidden_BTD, mask_BT)
    torch.testing.assert_close(pooled, POOLERS["mean"](hidden_BTD, mask_BT))
    pooled.square().sum().backward()
    assert pooler.output.weight.grad.abs().max() > 0 and pooler.down.weight.grad.abs().max() > 0


def test_the_seed_decides_the_start_and_the_global_generator_stays():
    state = torch.get_rng_state()
    first, second, other = (LatentAttention(8, 5, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.latents_LD, second.latents_LD) and torch.equal(first.up.weight, second.up.weight)
    assert not torch.equal(first.latents_LD, other.latents_LD)


def test_heads_that_do_not_divide_are_refused_with_some_that_do():
    with pytest.raises(ValueError, match="set num_heads to 4"):
        LatentAttention(12, 5, 8 - 3)


@pytest.fixture
def saved(tmp_path):
    source = make_decoder(tmp_path / "source")
    encoder = load_encoder(source, attention="bidirectional", pooling="latent_attention", latents=(6, 4))
    encoder.latent_attention.load_state_dict(trained(32, 6, 4).state_dict())
    prompts = Prompts(tasks=(("retrieval", "Instruct: find it\nQuery: "),))
    save_encoder(encoder, tmp_path / "saved", source, prompts, 64)
    return encoder, tmp_path / "saved", prompts


def test_its_weights_lie_beside_the_model(saved):
    encoder, directory, prompts = saved
    assert (
        read_modules(directory).pooling == "latent_attention" and describe_model(directory).prompts == prompts
    )
    loaded = load_encoder(directory)
    assert loaded.latent_attention.settings == {"dimension": 32, "num_latents": 6, "num_heads": 4}
    tokens = TextTokenizer.load(directory, prompts, 64, 64).tokenize(TEXTS, "document")
    np.testing.assert_array_equal(embed(loaded, tokens), embed(encoder, tokens))
    before = model_digest(directory)
    weights = directory / LATENT_ATTENTION_FOLDER / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_digest(directory) != before
    (directory / "modules.json").unlink()
    unlisted = model_digest(directory)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x02")
    assert model_digest(directory) != unlisted, "a recipe may ask for it by name"


@pytest.mark.parametrize("task", ["", "retrieval"])
def test_sentence_transformers_pools_equally_from_the_module_beside_it(saved, task):
    _, directory, _ = saved
    assert verify_export(directory, TEXTS, task) > 0.9999


def test_a_foreign_module_is_not_run(saved):
    _, directory, _ = saved
    module = directory / "stope_latent_attention.py"
    module.write_text(module.read_text() + "\nraise SystemExit('run')\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        verify_export(directory, TEXTS)


def test_weights_of_another_model_are_refused(saved):
    encoder, directory, _ = saved
    with pytest.raises(ModelError, match="pooler is of another model"):
        Encoder(encoder.backbone, "latent_attention", latent_attention=trained())
    path = directory / LATENT_ATTENTION_FOLDER / "config.json"
    path.write_text(json.dumps({"dimension": 32, "num_latents": 7, "num_heads": 4}))
    with pytest.raises(ModelError, match="do not fit the settings"):
        load_encoder(directory)
    assert set(POOLINGS) == {*POOLERS, "latent_attention"}
