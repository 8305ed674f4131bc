"""The block with experts against a loop over tokens."""

import pytest
import torch
from torch import nn

from models.moe.layer import MoeFeedForward
from models.moe.router import ROUTERS

H, F, E = 6, 8, 3


def make_block(where, per_token, router="switch", gated=False, dropout=0.0, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        up, down = nn.Linear(H, 2 * F if gated else F), nn.Linear(F, H)
        block = MoeFeedForward(
            up, down, nn.GELU(), nn.Dropout(dropout), gated, where, E, per_token, router=router
        )
        # Experts that differ, and routers that decide.
        for parameter in block.parameters():
            parameter.data += 0.5 * torch.randn(parameter.shape)
    return block


def one_token(block, x_H, per_token):
    logits_E = block.router.weight @ x_H
    chosen = logits_E.topk(per_token).indices
    weights = ROUTERS[block.kind](logits_E[None], chosen[None])[0]

    def apply(projection, expert, x):
        stacked = projection.weight.ndim == 3
        weight, bias = (p[expert] if stacked else p for p in (projection.weight, projection.bias))
        return weight @ x + bias

    def between(h):
        if not block.gated:
            return block.activation(h)
        return block.activation(h[:F]) * h[F:]

    made = zip(weights, chosen.tolist(), strict=True)
    if block.where == "up":
        h = sum(w * apply(block.up, e, x_H) for w, e in made)
        return apply(block.down, None, between(h))
    return sum(w * apply(block.down, e, between(apply(block.up, e, x_H))) for w, e in made)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("per_token", [1, 2])
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("where", ["up", "down", "ffn"])
def test_computes_what_a_loop_over_tokens_does_and_its_gradient(where, router, per_token, gated):
    block = make_block(where, per_token, router, gated)
    x_BTH = torch.randn(2, 5, H, generator=torch.Generator().manual_seed(4), requires_grad=True)
    out_BTH = block(x_BTH)
    expected = torch.stack([one_token(block, x_H, per_token) for x_H in x_BTH.reshape(-1, H)]).view(2, 5, H)
    torch.testing.assert_close(out_BTH, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn(out_BTH.shape, generator=torch.Generator().manual_seed(5))
    wanted = [x_BTH, *block.parameters()]
    ours = torch.autograd.grad((out_BTH * direction).sum(), wanted)
    naive = torch.autograd.grad((expected * direction).sum(), wanted)
    for one, other in zip(ours, naive, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(block(x_BTH), out_BTH)


@pytest.mark.parametrize("per_token", [1, 2])
@pytest.mark.parametrize("where", ["up", "down", "ffn"])
def test_dropout_sees_the_rows_of_a_text_together(where, per_token):
    block = make_block(where, per_token, dropout=0.5).train()
    x_BTH = torch.randn(3, 4, H, generator=torch.Generator().manual_seed(4))

    class OfTheFirstText(nn.Module):
        p = 0.5

        def forward(self, h_XF):
            kept = torch.ones(len(h_XF), 1)
            kept[: len(h_XF) // 3] = 0.0
            return h_XF * kept

    block.dropout = OfTheFirstText()
    out_BTH = block(x_BTH)
    full_BTH = block.eval()(x_BTH)
    torch.testing.assert_close(out_BTH[1:], full_BTH[1:])
    if where == "up":
        nothing = block.down.bias.expand(4, H)
        torch.testing.assert_close(out_BTH[0], nothing)
    else:
        assert not torch.allclose(out_BTH[0], full_BTH[0])


def test_a_token_does_not_depend_on_those_beside_it():
    block = make_block("up", 1).eval()
    x_MH = torch.randn(40, H, generator=torch.Generator().manual_seed(4))
    together = block(x_MH[None])[0]
    alone = torch.cat([block(x_H[None, None])[0] for x_H in x_MH])
    torch.testing.assert_close(together, alone)
    # Even if all others crowd upon its expert: none is ever dropped.
    crowd = block(torch.cat([x_MH[:1].expand(500, -1), x_MH[:1]])[None])[0]
    torch.testing.assert_close(crowd[-1], alone[0])
