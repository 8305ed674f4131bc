"""The load-balancing loss against a loop over tokens, in one pass and in many, with and without checkpointing."""

import pytest
import torch

from models.moe.balance import balance_loss, watch_routing
from models.moe.router import Router
from models.moe.upcycle import Upcycling, moe_blocks, upcycle
from tests.unit.models.moe.tiny_backbones import make_encoder, make_texts

E = 3
SEED = 0  # with which each layer uses several experts


def make_routed(per_token=1, family="bert"):
    encoder = make_encoder(family).train()
    upcycle(encoder, Upcycling(layers=(0, 2), num_experts=E, experts_per_token=per_token), seed=SEED)
    for block in moe_blocks(encoder):
        block.router.weight.data *= 20.0
    return encoder


def loss_of(encoder, passes, counts_LE=None, num_tokens=None):
    with watch_routing(encoder) as watch:
        embedded = [encoder(*inputs) for inputs in passes]
    usage = watch.usage([mask_BT for _, mask_BT, _ in passes])
    counts_LE = usage.counts_LE if counts_LE is None else counts_LE
    num_tokens = usage.num_tokens if num_tokens is None else num_tokens
    return balance_loss(usage.probability_LE, counts_LE, num_tokens), usage, embedded


@pytest.mark.parametrize("per_token", [1, 2])
def test_equals_a_loop_over_the_tokens_that_are_no_padding(per_token):
    encoder, texts = make_routed(per_token), make_texts()
    inputs = []
    for block in moe_blocks(encoder):
        block.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    loss, usage, _ = loss_of(encoder, [texts])
    expected, num_tokens = 0.0, int(texts[1].sum())
    for layer, (block, x_BTH) in enumerate(zip(moe_blocks(encoder), inputs, strict=True)):
        counts, sums = [0] * E, [0.0] * E
        for x_TH, mask_T in zip(x_BTH, texts[1], strict=True):
            for x_H in x_TH[mask_T.bool()]:
                logits_E = block.router.weight @ x_H
                for expert in logits_E.topk(per_token).indices.tolist():
                    counts[expert] += 1
                for expert, p in enumerate(logits_E.softmax(0).tolist()):
                    sums[expert] += p
        assert usage.counts_LE[layer].tolist() == counts and sum(map(bool, counts)) > 1
        total = num_tokens * per_token
        expected += E * sum(counts[e] / total * sums[e] / num_tokens for e in range(E))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(usage.num_tokens) == num_tokens
    torch.testing.assert_close(usage.shares_LE.sum(1), torch.ones(2))


def test_padding_counts_nothing():
    encoder, (ids_BT, mask_BT, _) = make_routed(), make_texts()
    first, *_ = loss_of(encoder, [(ids_BT, mask_BT, mask_BT)])
    other = torch.where(mask_BT.bool(), ids_BT, 7)
    second, *_ = loss_of(encoder, [(other, mask_BT, mask_BT)])
    torch.testing.assert_close(first, second)


def test_even_use_is_one_a_layer_and_one_expert_for_all_is_as_many_as_there_are():
    even = balance_loss(torch.full((2, E), 5.0), torch.full((2, E), 5.0), torch.tensor(15.0))
    assert float(even) == pytest.approx(2.0)
    crowded = torch.tensor([[15.0, 0.0, 0.0]] * 2)
    assert float(balance_loss(crowded, crowded, torch.tensor(15.0))) == pytest.approx(2.0 * E)


def gradients(encoder):
    found = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    return found


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradient_checkpointing_has_the_same_gradient_and_notes_each_pass_once(family):
    texts = make_texts()
    found = []
    for checkpointed in (False, True):
        encoder = make_routed(family=family)
        if checkpointed:
            encoder.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        # Two passes of different widths: what is computed again must meet its own.
        passes = [texts, tuple(tensor[3:, :6] for tensor in texts)]
        loss, usage, embedded = loss_of(encoder, passes)
        (loss + sum(emb_BD[:, 0].sum() for emb_BD in embedded)).backward()
        assert all(block.seen is None for block in moe_blocks(encoder))
        found.append((usage.counts_LE, gradients(encoder)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], msg=name)


def test_the_parts_of_passes_add_up_as_gradcache_has_them():
    encoder, texts = make_routed(), make_texts()
    whole, usage, _ = loss_of(encoder, [texts])
    whole.backward()
    expected = gradients(encoder)
    assert expected["backbone.encoder.layer.2.intermediate.router.weight"].abs().max() > 1e-4
    chunks = [tuple(tensor[rows] for tensor in texts) for rows in (slice(0, 2), slice(2, 3), slice(3, 5))]
    with torch.no_grad():
        _, counted, _ = loss_of(encoder, chunks)
    assert torch.equal(counted.counts_LE, usage.counts_LE)
    parts = []
    for chunk in chunks:
        part, *_ = loss_of(encoder, [chunk], counted.counts_LE, counted.num_tokens)
        part.backward()
        parts.append(float(part))
    assert sum(parts) == pytest.approx(float(whole), rel=1e-6)
    for name, gradient in gradients(encoder).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_a_router_that_follows_it_alone_uses_all_experts():
    generator = torch.Generator().manual_seed(0)
    # States with a common direction, as those of trained encoders: at first nearly all tokens go one way.
    x_MH = torch.randn(300, 8, generator=generator) + 2.0
    router = Router(E, torch.zeros(4, 8))
    router.weight.data = 0.3 * torch.randn(E, 8, generator=generator)
    router.weight.data[0] += 0.3
    optimizer = torch.optim.SGD(router.parameters(), lr=0.05)
    largest = []
    for _ in range(200):
        logits_ME = router(x_MH)
        counts_LE = torch.nn.functional.one_hot(logits_ME.argmax(1), E).float().sum(0)[None]
        loss = balance_loss(logits_ME.softmax(1).sum(0)[None], counts_LE, torch.tensor(300.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        largest.append(float(counts_LE.max()) / 300)
    assert largest[0] > 0.8 and max(largest[-20:]) < 0.5
