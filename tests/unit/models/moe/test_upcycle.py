"""Dense backbones given experts: equal at the start, able to learn, and refused where it cannot be."""

import pytest
import torch
from torch import nn

from models.adapters import Lora, add_lora
from models.errors import ModelError
from models.moe.layer import MoeFeedForward
from models.moe.modeling import FAMILIES, MOE_MODELS
from models.moe.upcycle import Upcycling, moe_blocks, resolve_layers, train_experts, upcycle
from tests.unit.models.moe.tiny_backbones import FAMILIES as TINY
from tests.unit.models.moe.tiny_backbones import make_encoder, make_texts


def test_every_family_is_tried_here():
    assert set(TINY) == set(FAMILIES) == set(MOE_MODELS)


@pytest.mark.parametrize("where", ["up", "down", "ffn"])
@pytest.mark.parametrize("family", TINY)
def test_equals_the_dense_model_at_the_start_and_the_router_has_a_gradient(family, where):
    encoder, texts = make_encoder(family), make_texts()
    with torch.no_grad():
        dense_BD = encoder(*texts)
    moe = upcycle(encoder, Upcycling(layers=(1, -1), where=where, num_experts=3), seed=0)
    assert moe.layers == (1, 3) and encoder.backbone.config.moe["layers"] == [1, 3]
    out_BD = encoder(*texts)
    torch.testing.assert_close(out_BD, dense_BD, rtol=0, atol=2e-6)
    out_BD[:, 0].sum().backward()
    for block in moe_blocks(encoder):
        assert block.router.weight.grad.abs().max() > 1e-6
        for name in ("up", "down"):
            weight = getattr(block, name).weight
            assert weight.ndim == (3 if where in (name, "ffn") else 2)
            assert weight.grad.abs().max() > 0


@pytest.mark.parametrize("per_token", [1, 2])
def test_clp_equals_the_dense_model_but_with_one_expert_its_router_never_learns(per_token):
    encoder, texts = make_encoder(), make_texts()
    with torch.no_grad():
        dense_BD = encoder(*texts)
    upcycle(encoder, Upcycling(num_experts=3, experts_per_token=per_token, router="clp"), seed=0)
    with torch.no_grad():
        torch.testing.assert_close(encoder(*texts), dense_BD, rtol=0, atol=2e-6)
    # Experts that have moved apart, so that a choice makes a difference.
    generator = torch.Generator().manual_seed(0)
    for block in moe_blocks(encoder):
        block.up.weight.data += 0.3 * torch.randn(block.up.weight.shape, generator=generator)
    encoder(*texts)[:, 0].sum().backward()
    largest = max(float(block.router.weight.grad.abs().max()) for block in moe_blocks(encoder))
    assert largest == 0.0 if per_token == 1 else largest > 1e-6


def test_switch_scales_by_the_probability_of_the_expert():
    encoder, texts = make_encoder(), make_texts()
    block_in = {}
    layer = encoder.backbone.encoder.layer[2]
    dense = layer.intermediate.dense
    layer.intermediate.register_forward_pre_hook(lambda _, args: block_in.update(x=args[0]))
    with torch.no_grad():
        encoder(*texts)
        x_MH = block_in["x"].flatten(0, 1)
        dense_MF = dense(x_MH)
        upcycle(encoder, Upcycling(layers=(2,), router="switch"), seed=0)
        block = layer.intermediate
        assert isinstance(block, MoeFeedForward)
        p_M1 = (x_MH @ block.router.weight.T).softmax(-1).max(-1, keepdim=True).values
        assert p_M1.min() >= 0.5 and p_M1.max() < 1.0
        expected = block.down(block.activation(p_M1 * dense_MF))
        torch.testing.assert_close(block(x_MH[None])[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_a_text_does_not_depend_on_its_batch_mates(family, dtype):
    encoder = make_encoder(family)
    upcycle(encoder, Upcycling(where="ffn", num_experts=3), seed=0)
    generator = torch.Generator().manual_seed(0)
    for block in moe_blocks(encoder):
        block.up.weight.data += 0.2 * torch.randn(block.up.weight.shape, generator=generator)
    encoder.to(dtype)
    ids_BT, mask_BT, _ = make_texts()
    with torch.no_grad():
        together_BD = encoder(ids_BT, mask_BT, mask_BT)
        for row, length in enumerate(mask_BT.sum(1).tolist()):
            ids_1T, ones_1T = ids_BT[row : row + 1, :length], mask_BT[row : row + 1, :length]
            alone_D = encoder(ids_1T, ones_1T, ones_1T)[0]
            assert float(alone_D @ together_BD[row]) > (1 - 1e-6 if dtype == torch.float32 else 0.995)


def test_the_seed_alone_decides_the_routers():
    def router(seed):
        encoder = make_encoder()
        upcycle(encoder, Upcycling(), seed)
        return moe_blocks(encoder)[0].router.weight

    state = torch.get_rng_state()
    assert torch.equal(router(1), router(1)) and not torch.equal(router(1), router(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert 0.005 < float(router(1).std()) < 0.05


def test_what_is_there_already_stays():
    encoder = make_encoder()
    upcycle(encoder, Upcycling(), seed=0)
    before = moe_blocks(encoder)[0].router.weight.clone()
    upcycle(encoder, Upcycling(), seed=9)
    assert torch.equal(moe_blocks(encoder)[0].router.weight, before)
    with pytest.raises(ModelError, match=r"other experts already(.|\n)*leave train.moe out"):
        upcycle(encoder, Upcycling(num_experts=4), seed=0)


def test_layers():
    assert resolve_layers("all", 4) == (0, 1, 2, 3)
    assert resolve_layers("intermediate", 4) == (1, 2)
    assert resolve_layers((-1, 0), 4) == (0, 3)
    for layers, message in (
        ((4,), "no such layer(.|\n)*got: 4(.|\n)*-4 to 3"),
        ((0, -5), "no such layer(.|\n)*got: -5"),
        ((3, -1), "named twice"),
        ((), "names no layer"),
    ):
        with pytest.raises(ModelError, match=message):
            resolve_layers(layers, 4)
    with pytest.raises(ModelError, match="names no layer"):
        resolve_layers("intermediate", 2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"experts_per_token": 3}, r"experts_per_token(.|\n)*got: 3(.|\n)*1 to num_experts, 2"),
        ({"num_experts": 1}, r"num_experts(.|\n)*2 or more"),
        ({"router": "topk"}, r"router(.|\n)*identity, switch, clp"),
        ({"where": "attention"}, r"where(.|\n)*up, down, ffn"),
        ({"layers": (7,)}, r"no such layer"),
    ],
)
def test_refuses_experts_that_cannot_be(asked, message):
    encoder = make_encoder()
    with pytest.raises(ModelError, match=message):
        upcycle(encoder, Upcycling(**asked), seed=0)
    assert not moe_blocks(encoder) and getattr(encoder.backbone.config, "moe", None) is None


def test_refuses_an_architecture_that_is_not_known():
    encoder = make_encoder()
    encoder.backbone.config.model_type = "mpnet"
    with pytest.raises(ModelError, match=r"got: mpnet(.|\n)*bert, camembert(.|\n)*FAMILIES"):
        upcycle(encoder, Upcycling(), seed=0)


def test_refuses_a_backbone_without_the_projection():
    encoder = make_encoder()
    encoder.backbone.encoder.layer[1].intermediate.dense = nn.Identity()
    with pytest.raises(ModelError, match=r"layer 1 of bert(.|\n)*intermediate.dense: Identity"):
        upcycle(encoder, Upcycling(), seed=0)
    assert not moe_blocks(encoder)
    encoder = make_encoder("llama")
    add_lora(encoder.backbone, Lora(2, 2.0, 0.0, ("gate_proj",)), seed=0)
    with pytest.raises(ModelError, match=r"mlp.gate_proj(.|\n)*without quantised weights or adapters"):
        upcycle(encoder, Upcycling(), seed=0)


@pytest.mark.parametrize(
    ("where", "part", "expected"),
    [
        ("up", "intermediate", {"router.weight", "up.weight", "up.bias"}),
        ("down", "intermediate", {"router.weight", "down.weight", "down.bias"}),
        ("ffn", "intermediate", {"router.weight", "up.weight", "up.bias", "down.weight", "down.bias"}),
        ("ffn", "router", {"router.weight"}),
    ],
)
def test_trains_only_a_part(where, part, expected):
    encoder = make_encoder()
    upcycle(encoder, Upcycling(layers=(2,), where=where), seed=0)
    train_experts(encoder.backbone, part)
    trained = {name for name, p in encoder.backbone.named_parameters() if p.requires_grad}
    assert trained == {f"encoder.layer.2.intermediate.{name}" for name in expected}
    with pytest.raises(ModelError, match="no experts"):
        train_experts(make_encoder().backbone, part)
