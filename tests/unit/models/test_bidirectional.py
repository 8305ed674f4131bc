"""Decoders that see both sides: of every token, of their window, whatever the padding and the attention's code."""

import json

import pytest
import torch
from transformers import AutoModel, BertConfig, GPT2Config

from models.bidirectional import DECODERS, attention_of, check_attention, set_attention
from models.checkpoint import load_encoder, save_encoder, verify_export
from models.errors import ModelError
from models.prompts import Prompts
from tests.tiny_decoders import FAMILIES, TEXTS, WINDOWED, make_backbone, make_config, make_decoder

LENGTH, PADDED = 12, 20


def ids_and_mask():
    ids_1T = torch.randint(3, 250, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    ids_1P = torch.cat([ids_1T, torch.zeros(1, PADDED - LENGTH, dtype=torch.int64)], dim=1)
    mask_1P = torch.cat([torch.ones(1, LENGTH), torch.zeros(1, PADDED - LENGTH)], dim=1).long()
    return ids_1T, ids_1P, mask_1P


def states(backbone, ids_BT, mask_BT=None):
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    return backbone(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state


def bidirectional(family, window=None, implementation="sdpa"):
    backbone = make_backbone(family, window, implementation)
    set_attention(backbone.config, "bidirectional", family)
    return backbone


def test_every_family_is_tested():
    assert set(DECODERS) == set(FAMILIES)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sees_what_comes_behind_and_no_padding(family, implementation):
    ids_1T, ids_1P, mask_1P = ids_and_mask()
    changed_1T = ids_1T.clone()
    changed_1T[0, -1] += 1
    other_padding = ids_1P.clone()
    other_padding[0, LENGTH:] = 7
    causal, both = make_backbone(family, None, implementation), bidirectional(family, None, implementation)
    with torch.no_grad():
        assert torch.equal(states(causal, ids_1T)[0, 0], states(causal, changed_1T)[0, 0])
        alone = states(both, ids_1T)
        assert (alone[0, 0] - states(both, changed_1T)[0, 0]).abs().max() > 1e-3
        padded = states(both, ids_1P, mask_1P)[:, :LENGTH]
        assert torch.equal(padded, states(both, other_padding, mask_1P)[:, :LENGTH])
        torch.testing.assert_close(padded, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_implementations_and_a_mask_by_hand_agree(family):
    ids_1T, ids_1P, mask_1P = ids_and_mask()
    with torch.no_grad():
        eager, sdpa = (bidirectional(family, None, each) for each in ("eager", "sdpa"))
        # Gemma 2 caps its logits in eager attention alone; at this size they are far below the cap.
        torch.testing.assert_close(
            states(eager, ids_1P, mask_1P)[0, :LENGTH], states(sdpa, ids_1T)[0], atol=1e-3, rtol=1e-3
        )
        if family == "llama":
            plain = make_backbone(family)
            lowest = torch.zeros(1, 1, LENGTH, LENGTH)
            expected = plain(input_ids=ids_1T, attention_mask=lowest).last_hidden_state
            torch.testing.assert_close(states(sdpa, ids_1T), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_gradient_checkpointing_gives_the_same_gradients(family):
    _, ids_1P, mask_1P = ids_and_mask()
    gradients = []
    for checkpointing in (False, True):
        backbone = bidirectional(family).train()
        if checkpointing:
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
        states(backbone, ids_1P, mask_1P)[0, 0].square().sum().backward()
        gradients.append(backbone.embed_tokens.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    # The last token reaches the first one's state.
    assert gradients[1][ids_1P[0, LENGTH - 1]].abs().max() > 0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_reaches_to_both_sides(family, implementation):
    window = 2
    ids_1T, ids_1P, mask_1P = ids_and_mask()
    backbone = bidirectional(family, window, implementation)
    middle = LENGTH // 2
    changed_1T = ids_1T.clone()
    changed_1T[0, middle] += 1
    with torch.no_grad():
        alone = states(backbone, ids_1T)
        moved = (alone - states(backbone, changed_1T))[0].abs().amax(-1) > 1e-6
        padded = states(backbone, ids_1P, mask_1P)[:, :LENGTH]
    # Two layers, `window` tokens to either side in each.
    expected = [abs(place - middle) <= 2 * window for place in range(LENGTH)]
    assert moved.tolist() == expected
    torch.testing.assert_close(padded, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_survives_saving_and_loading(family, tmp_path):
    backbone = bidirectional(family)
    backbone.save_pretrained(str(tmp_path))
    assert attention_of(json.loads((tmp_path / "config.json").read_text())) == "bidirectional"
    ids_1T, *_ = ids_and_mask()
    with torch.no_grad():
        loaded = AutoModel.from_pretrained(str(tmp_path), local_files_only=True).eval()
        torch.testing.assert_close(states(loaded, ids_1T), states(backbone, ids_1T))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal", None])
def test_sentence_transformers_embeds_equally(family, attention, tmp_path):
    source = make_decoder(tmp_path / "source", family, window=3 if family in WINDOWED else None)
    pooling = "last" if attention == "causal" else "mean"
    encoder = load_encoder(source, attention=attention, pooling=pooling)
    save_encoder(encoder, tmp_path / "saved", source, Prompts(), 64)
    assert attention_of(json.loads((tmp_path / "saved" / "config.json").read_text())) == (
        attention or "causal"
    )
    assert verify_export(tmp_path / "saved", TEXTS) > 0.9999


def test_what_cannot_be_asked_for_is_refused():
    check_attention(BertConfig().to_dict(), "bidirectional", "bert")
    with pytest.raises(ModelError, match=r"bidirectional by its making(.|\n)*drop attention"):
        check_attention(BertConfig().to_dict(), "causal", "bert")
    with pytest.raises(
        ModelError, match=r"got: model_type gpt2(.|\n)*llama, mistral(.|\n)*add the model_type"
    ):
        check_attention(GPT2Config().to_dict(), "bidirectional", "gpt2")
    born = make_config("gemma3_text", 8).to_dict() | {"use_bidirectional_attention": True}
    assert attention_of(born) == "bidirectional"
    check_attention(born, "bidirectional", "embedding-gemma")
    with pytest.raises(ModelError, match="by its making"):
        check_attention(born, "causal", "embedding-gemma")


def test_what_attends_as_asked_is_left_alone():
    config = make_config("llama")
    set_attention(config, "causal", "llama")
    assert "is_causal" not in config.to_diff_dict()
    set_attention(config, "bidirectional", "llama")
    set_attention(config, "bidirectional", "llama")
    assert config.is_causal is False
    set_attention(config, "causal", "llama")
    assert attention_of(config.to_dict()) == "causal"
