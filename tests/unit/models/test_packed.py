"""A batch without its padding computes what the padded one does."""

import pytest
import torch

from models.bidirectional import set_attention
from models.fused import FusedBackbone, is_fusible
from models.packed import agrees, attend_text_by_text, is_known, is_packable, pack, packed_states, unpack
from tests.packed_cases import LENGTHS, batch, check, encoder_backbone
from tests.tiny_decoders import make_backbone


def test_packing_and_unpacking_are_inverse():
    ids_BT, mask_BT = batch()
    packed = pack(ids_BT, mask_BT)
    expected = [token for b, n in enumerate(LENGTHS) for token in ids_BT[b, :n].tolist()]
    assert packed.ids_M.tolist() == expected
    assert packed.bounds_B1.tolist() == [0, 5, 6, 18, 26] and packed.bounds_B1.dtype == torch.int32
    assert packed.positions_M.tolist() == [place for n in LENGTHS for place in range(n)]
    assert packed.longest == 12
    assert torch.equal(unpack(packed.ids_M[:, None], mask_BT)[..., 0], ids_BT)


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (2, 2), (3, 0)])
def test_attention_text_by_text_equals_loops(window):
    generator = torch.Generator().manual_seed(0)
    q_MHd, k_MHd, v_MHd = (torch.randn(7, heads, 8, generator=generator) for heads in (4, 2, 2))
    bounds = [0, 3, 7]
    out_MHd = attend_text_by_text(q_MHd, k_MHd, v_MHd, torch.tensor(bounds), window, 0.3)
    for low, high in ((0, 3), (3, 7)):
        for i in range(low, high):
            for head in range(4):
                seen = [
                    j
                    for j in range(low, high)
                    if (window[0] < 0 or j >= i - window[0]) and (window[1] < 0 or j <= i + window[1])
                ]
                scores = torch.stack([0.3 * q_MHd[i, head] @ k_MHd[j, head // 2] for j in seen]).softmax(0)
                expected = sum(s * v_MHd[j, head // 2] for s, j in zip(scores, seen, strict=True))
                torch.testing.assert_close(out_MHd[i, head], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "modernbert"])
def test_encoders(family):
    backbone = encoder_backbone(family)
    assert is_known(backbone)
    check(backbone)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "bert"])
def test_a_text_that_holds_the_padding_token_has_the_positions_of_transformers(family):
    backbone = encoder_backbone(family)
    padding = backbone.config.pad_token_id
    ids_BT, mask_BT = (
        torch.tensor([[5, 50, padding, 60, 61, 7], [5, 51, 52, 7, 0, 0]]),
        torch.ones(2, 6).long(),
    )
    mask_BT[1, 4:] = 0
    with torch.inference_mode():
        expected = backbone(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state[mask_BT.bool()]
        assert is_fusible(backbone)
        for found in (packed_states(backbone, ids_BT, mask_BT), FusedBackbone(backbone)(ids_BT, mask_BT)):
            torch.testing.assert_close(found[mask_BT.bool()], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_decoders(family, window, attention):
    backbone = make_backbone(family, None if family == "llama" else window)
    set_attention(backbone.config, attention, family)
    assert is_known(backbone)
    check(backbone)


def test_what_is_not_known_is_declined():
    assert not is_known(make_backbone("gemma2"))
    decoder = encoder_backbone("bert")
    decoder.config.is_decoder = True
    assert not is_known(decoder)
    odd = make_backbone("llama")
    odd.config.head_dim = 12
    assert not is_known(odd)
    assert not is_packable(make_backbone("llama"))


def test_a_kernel_that_differs_is_declined_once(monkeypatch):
    for family in ("bert", "roberta", "modernbert"):
        assert agrees(encoder_backbone(family))
    assert agrees(make_backbone("llama"))
    backbone = make_backbone("qwen3")
    calls = []

    def broken(q_MHd, *_):
        calls.append(1)
        return torch.zeros_like(q_MHd)

    monkeypatch.setattr("models.packed.attend_text_by_text", broken)
    with pytest.warns(RuntimeWarning, match="padding"):
        assert not agrees(backbone)
    asked = len(calls)
    assert asked and not agrees(backbone) and len(calls) == asked
