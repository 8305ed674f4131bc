"""Plain attention equals torch's, padding and gradient included."""

import torch
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

from models.encoder import Encoder
from pipelines.train.attention import use_plain_attention
from pipelines.train.dropout import row_keys, seed_by_row
from pipelines.train.engine import Tower, set_dropout


def make_encoder():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, attn_implementation="sdpa", initializer_range=0.3,
    )  # fmt: skip
    return Encoder(BertModel(config, add_pooling_layer=False), "mean")


def inputs():
    ids_BT = torch.arange(20).reshape(2, 10) + 1
    mask_BT = torch.ones(2, 10, dtype=torch.int64)
    mask_BT[1, 6:] = 0
    return ids_BT, mask_BT, mask_BT


def gradients(encoder):
    emb_BD = encoder(*inputs())
    (emb_BD[0] @ emb_BD[1]).backward()
    return emb_BD.detach(), {name: p.grad for name, p in encoder.named_parameters()}


def test_equals_scaled_dot_product_attention():
    plain = make_encoder()
    use_plain_attention(plain.backbone)
    emb_BD, grads = gradients(plain.eval())
    expected_BD, expected = gradients(make_encoder().eval())
    torch.testing.assert_close(emb_BD, expected_BD)
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad, expected[name], msg=lambda m, n=name: f"{n}: {m}", rtol=1e-4, atol=1e-6
        )


def make_windowed():
    """Return a ModernBERT two layers of which see four tokens to either side."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, local_attention=8, global_attn_every_n_layers=3, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    backbone = ModernBertModel(config)
    backbone.set_attn_implementation("sdpa")
    return Encoder(backbone, "mean")


def test_padding_that_sees_no_token_stays_finite_in_bfloat16():
    ids_BT = torch.arange(64).reshape(2, 32) % 39 + 1
    mask_BT = torch.ones(2, 32, dtype=torch.int64)
    mask_BT[1, 6:] = 0
    batch = (ids_BT, mask_BT, mask_BT)
    plain = make_windowed()
    use_plain_attention(plain.backbone)
    (emb_BD,) = Tower(plain, "bfloat16").train()([batch])
    (expected_BD,) = Tower(make_windowed(), "bfloat16").train()([batch])
    assert torch.isfinite(emb_BD).all()
    torch.testing.assert_close(emb_BD, expected_BD, atol=0.02, rtol=0)
    emb_BD.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in plain.parameters() if p.grad is not None)


def test_dropout_is_off_at_zero_and_on_above():
    without, dropped = (make_encoder().train() for _ in range(2))
    for encoder, p in ((without, 0.0), (dropped, 0.5)):
        set_dropout(encoder, p)
        use_plain_attention(encoder.backbone)
    rows = seed_by_row(dropped.backbone)
    with rows.passing(row_keys(inputs(), 0)):
        assert torch.equal(dropped(*inputs()), dropped(*inputs()))
        assert not torch.equal(dropped(*inputs()), without(*inputs()))
    torch.testing.assert_close(dropped.eval()(*inputs()), without(*inputs()))


def test_bfloat16_products_keep_float32_weights_and_gradients():
    tower = Tower(make_encoder(), "bfloat16")
    (emb_BD,) = tower([inputs()])
    emb_BD.sum().backward()
    assert emb_BD.dtype == torch.float32
    assert {p.grad.dtype for p in tower.parameters()} == {torch.float32}
    (exact_BD,) = Tower(make_encoder(), "float32")([inputs()])
    assert torch.cosine_similarity(emb_BD, exact_BD).min() > 0.999
    assert not torch.equal(emb_BD, exact_BD)
