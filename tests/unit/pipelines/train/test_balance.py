"""The balance of a step: of all passes at once, of one after the other, without those that only fill up."""

import pytest
import torch
from torch import distributed
from transformers import BertConfig, BertModel

from models.encoder import Encoder
from models.moe.balance import balance_loss, watch_routing
from models.moe.upcycle import Upcycling, moe_blocks, upcycle
from pipelines.train.balance import Balance


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def make_encoder(experts=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, initializer_range=0.3, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        encoder = Encoder(BertModel(config, add_pooling_layer=False))
    if experts:
        upcycle(encoder, Upcycling(layers=(0, 2), num_experts=3), seed=0)
        for block in moe_blocks(encoder):
            block.router.weight.data *= 5.0
    return encoder


def make_pass(num_texts, width, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(width) < torch.randint(2, width + 1, (num_texts, 1), generator=generator)).long()
    ids = torch.randint(1, 50, (num_texts, width), generator=generator) * mask
    return ids, mask, mask


PASSES = [make_pass(4, 9, 1), make_pass(3, 14, 2)]
REAL = [torch.ones(4), torch.tensor([1.0, 1.0, 0.0])]


def gradients(encoder):
    found = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    return found


def reference(encoder):
    """The loss of all real texts, with none beside them."""
    rows = [
        tuple(tensor[i : i + 1] for tensor in inputs)
        for inputs, real_B in zip(PASSES, REAL, strict=True)
        for i in range(len(real_B))
        if real_B[i]
    ]
    with watch_routing(encoder) as watch:
        for inputs in rows:
            encoder(*inputs)
    usage = watch.usage([mask for _, mask, _ in rows])
    return balance_loss(usage.probability_LE, usage.counts_LE, usage.num_tokens), usage


@pytest.mark.parametrize("one_by_one", [False, True])
def test_the_loss_is_that_of_the_real_texts_with_its_gradient(one_by_one):
    encoder = make_encoder()
    expected, usage = reference(encoder)
    (0.3 * expected).backward()
    wanted = gradients(encoder)
    balance = Balance(encoder, 0.3)
    with balance.watching(), torch.set_grad_enabled(not one_by_one):
        for inputs in PASSES:
            encoder(*inputs)
    balance.count(PASSES, REAL)
    assert balance.largest_share == pytest.approx(float(usage.shares_LE.max()))
    if one_by_one:
        total = 0.0
        for place, inputs in enumerate(PASSES):
            with balance.watching():
                encoder(*inputs)
            part = balance.loss(place)
            part.backward()
            total += float(part.detach())
    else:
        loss = balance.loss()
        loss.backward()
        total = float(loss.detach())
    assert total == pytest.approx(0.3 * float(expected.detach()), rel=1e-6)
    found = gradients(encoder)
    assert found.keys() == wanted.keys() and any("router" in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], msg=name)


def test_padding_beyond_the_positions_is_cut_off_as_the_model_does():
    encoder, inputs = make_encoder(), make_pass(2, 16, 3)
    wider = tuple(torch.nn.functional.pad(tensor, (0, 4)) for tensor in inputs)
    values = []
    for given in (inputs, wider):
        balance = Balance(encoder, 1.0)
        with balance.watching():
            encoder(*inputs)
        balance.count([given], [torch.ones(2)])
        values.append(float(balance.loss()))
    assert values[0] == values[1] > 0.0


def test_no_experts_no_balance():
    balance = Balance(make_encoder(experts=False), 0.3)
    with balance.watching():
        balance.encoder(*PASSES[0])
    balance.count(PASSES[:1], REAL[:1])
    assert balance.loss() == 0.0 and balance.largest_share is None


def test_a_coefficient_of_zero_counts_all_the_same():
    balance = Balance(make_encoder(), 0.0)
    with balance.watching():
        balance.encoder(*PASSES[0])
    balance.count(PASSES[:1], REAL[:1])
    assert balance.loss() == 0.0
    assert 1 / 3 <= balance.largest_share <= 1.0
