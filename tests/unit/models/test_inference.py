import copy
import pickle

import numpy as np
import pytest
import torch

from models.checkpoint import load_encoder
from models.errors import ModelError
from models.fused import is_fusible
from models.inference import BATCH_MULTIPLE, embed, plan_batches
from models.prompts import Prompts
from models.tokenization import TextTokenizer


@pytest.fixture
def encoder(tiny_model):
    return load_encoder(tiny_model, "float32")


@pytest.fixture
def tokens(tiny_model, sentences):
    return TextTokenizer.load(tiny_model, Prompts(query="query: "), 32, 32).tokenize(sentences, "query")


def naive(encoder, tokens):
    out = []
    with torch.no_grad():
        for row in range(len(tokens)):
            one = tokens.take(np.array([row]))
            ids_BT = torch.from_numpy(one.ids.astype(np.int64))[None]
            hidden_TD = encoder.backbone(input_ids=ids_BT).last_hidden_state[0]
            pooled_D = hidden_TD[int(one.pool_starts[0]) :].mean(0)
            out.append((pooled_D / pooled_D.norm()).numpy())
    return np.stack(out)


def test_batches_hold_every_row_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    batches = plan_batches(lengths, 1024)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for rows in batches:
        width = -(-lengths[rows].max() // BATCH_MULTIPLE) * BATCH_MULTIPLE
        assert len(rows) * width <= 1024
    assert lengths[batches[0]].max() == lengths.max()
    assert plan_batches(np.zeros(0, np.int64), 64) == []


def test_a_text_beyond_the_budget_is_refused():
    with pytest.raises(ModelError, match=r"raise token_budget to 112"):
        plan_batches(np.array([5, 100]), 64)


@pytest.mark.parametrize("fused", [True, False])
def test_equal_to_one_text_at_a_time(encoder, tokens, fused, monkeypatch):
    assert is_fusible(encoder.backbone)
    monkeypatch.setattr("models.states.is_fusible", lambda backbone: fused)
    for budget in (32, 64, 4096):
        np.testing.assert_allclose(embed(encoder, tokens, budget), naive(encoder, tokens), atol=2e-6)


def test_order_of_texts_does_not_matter(encoder, tokens):
    order = np.random.default_rng(0).permutation(len(tokens))
    np.testing.assert_allclose(
        embed(encoder, tokens.take(order), 64), embed(encoder, tokens, 64)[order], atol=2e-6
    )


def test_bfloat16_is_near_float32(tiny_model, tokens, encoder):
    half = embed(load_encoder(tiny_model, "bfloat16"), tokens)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert (half * embed(encoder, tokens)).sum(1).min() > 0.999


def test_changed_weights_are_seen(encoder, tokens):
    before = embed(encoder, tokens)
    with torch.no_grad():
        encoder.backbone.encoder.layer[0].output.dense.weight.mul_(2)
    np.testing.assert_allclose(embed(encoder, tokens), naive(encoder, tokens), atol=2e-6)
    assert np.abs(embed(encoder, tokens) - before).max() > 1e-3
    encoder.train()
    embed(encoder, tokens)
    encoder.backbone.encoder.layer[0].output.dense.weight.data.mul_(2)  # leaves no trace
    after = embed(encoder, tokens)
    assert encoder.training
    encoder.eval()
    np.testing.assert_allclose(after, naive(encoder, tokens), atol=2e-6)


def test_copies_and_pickles_after_use(encoder, tokens):
    expected = embed(encoder, tokens)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        np.testing.assert_array_equal(embed(other, tokens), expected)


def test_foreign_layers_are_not_fused(encoder):
    class Adapted(torch.nn.Linear):
        pass

    encoder.backbone.encoder.layer[1].output.dense = Adapted(64, 32)
    assert not is_fusible(encoder.backbone)


def test_no_texts(encoder, tokens):
    assert embed(encoder, tokens.take(np.zeros(0, np.int64))).shape == (0, 32)
