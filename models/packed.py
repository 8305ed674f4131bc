"""A forward pass without padding, for inference on a GPU: the texts of a batch back to back in one row.

Attention runs through ``torch.nn.attention.varlen`` (FlashAttention), told where each text begins; everything else of a
transformer treats a token by itself. Same weights and arithmetic up to the rounding of the dtype.

On a processor attention is done text by text, which is no faster than padding: it is there to prove the packing.

Shapes: B texts, T padded tokens, M tokens of all texts, H heads, d dimensions of a head, D hidden size.
"""

import inspect
import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from models.positions import offset_positions

NAME = "stope_packed"

_DECODERS = ("llama", "mistral", "qwen2", "qwen3")
_ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")
_PROBE_LENGTHS = (3, 40, 17)
_PROBE_COSINE = 0.99
"""Of a token's states, at least; bfloat16 alone leaves .999."""
_agreed: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()
# Positions of these begin behind the padding id.
_OFFSET = ("roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class Packed:
    """The tokens of a padded batch without its padding.

    Args:
        ids_M: int64.
        positions_M: int64, from 0 in each text.
        bounds_B1: int32 [B + 1]; text b has the tokens bounds[b] to bounds[b + 1].
        longest: Tokens of the longest text.
    """

    ids_M: torch.Tensor
    positions_M: torch.Tensor
    bounds_B1: torch.Tensor
    longest: int


def pack(input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor) -> Packed:
    """Take the padding out of a batch that is padded to the right."""
    kept_BT = attention_mask_BT.bool()
    lengths_B = kept_BT.sum(1)
    bounds_B1 = torch.zeros(len(lengths_B) + 1, dtype=torch.int32, device=input_ids_BT.device)
    bounds_B1[1:] = lengths_B.cumsum(0)
    positions_BT = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device).expand_as(input_ids_BT)
    return Packed(input_ids_BT[kept_BT], positions_BT[kept_BT], bounds_B1, int(lengths_B.max()))


def unpack(states_MD: torch.Tensor, attention_mask_BT: torch.Tensor) -> torch.Tensor:
    """Put states back where ``pack`` took their tokens from; 0 where there is padding. Returns [B, T, D]."""
    states_BTD = states_MD.new_zeros(*attention_mask_BT.shape, states_MD.shape[-1])
    states_BTD[attention_mask_BT.bool()] = states_MD
    return states_BTD


def is_packable(backbone: Any) -> bool:
    """Return whether ``packed_states`` computes what ``backbone`` does, and faster.

    That is so on a GPU with 16-bit weights, for the families above, where torch has the kernel. Experts and other
    replacements within the layers are as welcome as plain layers, since they see one token at a time; another
    attention is not.
    """
    weight = next(backbone.parameters())
    half = weight.dtype in (torch.bfloat16, torch.float16)
    return half and weight.device.type == "cuda" and is_known(backbone) and has_varlen()


def is_known(backbone: Any) -> bool:
    """Return whether packing has been proven for a backbone of this family and these settings."""
    config = backbone.config
    family = config.model_type
    known = family in _DECODERS or (family in _ENCODERS and not getattr(config, "is_decoder", False))
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    # FlashAttention takes heads of up to 256 dimensions, in eights.
    return known and size % 8 == 0 and size <= 256


def agrees(backbone: nn.Module) -> bool:
    """Return whether packing gives what padding does with these weights on this machine; tried once a backbone.

    The kernel is young and differs from one GPU and one torch to the next: where it differs, a warning says so and
    texts are padded.
    """
    if backbone not in _agreed:
        worst = _probe(backbone)
        _agreed[backbone] = worst >= _PROBE_COSINE
        if not _agreed[backbone]:
            warnings.warn(
                f"packed attention is off by a cosine of {worst:.4f} here: texts are embedded with padding",
                RuntimeWarning,
                stacklevel=2,
            )
    return _agreed[backbone]


@torch.inference_mode()
def _probe(backbone: Any) -> float:
    device = next(backbone.parameters()).device
    lengths_B1 = torch.tensor(_PROBE_LENGTHS, device=device)[:, None]
    places_BT = torch.arange(max(_PROBE_LENGTHS), device=device).expand(len(_PROBE_LENGTHS), -1)
    mask_BT = (places_BT < lengths_B1).long()
    # No special token: those have the smallest ids.
    ids_BT = backbone.config.vocab_size // 2 + (places_BT * 7 + lengths_B1) % (
        backbone.config.vocab_size // 4
    )
    padded_BTD = backbone(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    packed_BTD = packed_states(backbone, ids_BT, mask_BT)
    cosines_BT = nn.functional.cosine_similarity(padded_BTD.float(), packed_BTD.float(), dim=-1)
    return float(cosines_BT[mask_BT.bool()].nan_to_num(nan=-1.0).min())


@lru_cache(maxsize=1)
def has_varlen() -> bool:
    """Return whether torch has variable-length attention with windows and grouped heads (from 2.11 on)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def packed_states(
    backbone: Any,
    input_ids_BT: torch.Tensor,
    attention_mask_BT: torch.Tensor,
    types_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the last hidden states [B, T, D], 0 at padding.

    Args:
        backbone: One for which ``is_known`` is true; as it was afterwards.
        input_ids_BT: int64, padded to the right.
        attention_mask_BT: 1 where a token is no padding; each text has one at least.
        types_BT: Token types. None: all have the first one.
    """
    _register()
    config = backbone.config
    packed = pack(input_ids_BT, attention_mask_BT)
    positions_M = packed.positions_M
    if config.model_type in _OFFSET:
        positions_BT = offset_positions(input_ids_BT, int(config.pad_token_id or 0))
        positions_M = positions_BT[attention_mask_BT.bool()]
    types = {} if types_BT is None else {"token_type_ids": types_BT[attention_mask_BT.bool()][None]}
    used = config._attn_implementation
    config._attn_implementation = NAME
    try:
        states_1MD = backbone(
            input_ids=packed.ids_M[None],
            position_ids=positions_M[None],
            cu_seq_lens_q=packed.bounds_B1,
            max_length_q=packed.longest,
            **types,
            **({} if config.model_type in _ENCODERS else {"use_cache": False}),
        ).last_hidden_state
    finally:
        config._attn_implementation = used
    return unpack(states_1MD[0], attention_mask_BT)


def packed_attention(
    module: nn.Module,
    query_1HMd: torch.Tensor,
    key_1HMd: torch.Tensor,
    value_1HMd: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **_options: object,
) -> tuple[torch.Tensor, None]:
    """Attend within each text, with the signature that transformers calls.

    Returns:
        [1, M, H, d], and no weights.
    """
    assert attention_mask is None and cu_seq_lens_q is not None
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    window = _window(module, causal, sliding_window)
    q_MHd, k_MHd, v_MHd = (x[0].transpose(0, 1) for x in (query_1HMd, key_1HMd, value_1HMd))
    if q_MHd.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        out_MHd = varlen_attn(
            q_MHd,
            k_MHd,
            v_MHd,
            cu_seq_lens_q,
            cu_seq_lens_q,
            max_length_q,
            max_length_q,
            scale=scaling,
            window_size=window,
            enable_gqa=q_MHd.shape[1] != k_MHd.shape[1],
        )
        assert isinstance(out_MHd, torch.Tensor)
    else:
        out_MHd = attend_text_by_text(q_MHd, k_MHd, v_MHd, cu_seq_lens_q, window, scaling)
    return out_MHd[None], None


def _window(module: nn.Module, causal: bool, sliding_window: int | None) -> tuple[int, int]:
    """Return how many tokens are seen to the left and to the right, -1 for all, as transformers' masks have it."""
    if sliding_window is None:
        return (-1, 0) if causal else (-1, -1)
    if causal:
        return sliding_window - 1, 0
    # ModernBERT passes one more than it means; a decoder made bidirectional passes what it means.
    reach = sliding_window - 1 if getattr(module.config, "model_type", "") == "modernbert" else sliding_window
    return reach, reach


def attend_text_by_text(
    q_MHd: torch.Tensor,
    k_MHd: torch.Tensor,
    v_MHd: torch.Tensor,
    bounds_B1: torch.Tensor,
    window: tuple[int, int],
    scaling: float | None,
) -> torch.Tensor:
    """Return what ``varlen_attn`` does, [M, H, d], by one attention a text."""
    groups = q_MHd.shape[1] // k_MHd.shape[1]
    out_MHd = torch.empty_like(q_MHd)
    bounds = bounds_B1.tolist()
    for low, high in pairwise(bounds):
        places_T = torch.arange(high - low, device=q_MHd.device)
        ahead_TT = places_T - places_T[:, None]
        left, right = (reach if reach >= 0 else high - low for reach in window)
        q_HTd, k_HTd, v_HTd = (x[low:high].transpose(0, 1) for x in (q_MHd, k_MHd, v_MHd))
        out_HTd = nn.functional.scaled_dot_product_attention(
            q_HTd,
            k_HTd.repeat_interleave(groups, dim=0),
            v_HTd.repeat_interleave(groups, dim=0),
            attn_mask=(ahead_TT <= right) & (ahead_TT >= -left),
            scale=scaling,
        )
        out_MHd[low:high] = out_HTd.transpose(0, 1)
    return out_MHd


@lru_cache(maxsize=1)
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, packed_attention)
    # Where a text begins is told to attention itself.
    AttentionMaskInterface.register(NAME, lambda *_arguments, **_options: None)
