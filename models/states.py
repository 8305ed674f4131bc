"""The quickest way to a backbone's hidden states for inference: packed on a GPU, straight-line on a processor.

Shapes: B texts, T padded tokens, D hidden size.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from models.fused import FusedBackbone, is_fusible
from models.fused_decoder import FusedDecoder, is_fusible_decoder
from models.packed import agrees, is_packable, packed_states

States = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Token ids [B, T], padded to the right, their mask, and token types or None, to the last hidden states [B, T, D]."""

Fused = FusedBackbone | FusedDecoder

_fused: "WeakKeyDictionary[nn.Module, tuple[tuple[tuple[int, int], ...], Fused]]" = WeakKeyDictionary()


def fast_states(backbone: nn.Module) -> States | None:
    """Return what computes a backbone's states as it does, up to rounding, and faster; None: nothing does here.

    Args:
        backbone: In evaluation mode. What is returned is of its weights as they are now.
    """
    if is_packable(backbone) and agrees(backbone):
        return lambda input_ids_BT, attention_mask_BT, types_BT: packed_states(
            backbone, input_ids_BT, attention_mask_BT, types_BT
        )
    if is_fusible(backbone):
        return _kept(backbone, FusedBackbone)
    if is_fusible_decoder(backbone):
        return _kept(backbone, FusedDecoder)
    return None


def forget(backbone: nn.Module) -> None:
    """Drop what is kept of a backbone: an optimizer may have moved its weights without leaving a trace."""
    _fused.pop(backbone, None)


def _kept(backbone: nn.Module, make: Callable[[nn.Module], Fused]) -> Fused:
    # Packing costs more than a short query does, so it is kept for as long as the weights are the same.
    state = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in backbone.parameters())
    kept = _fused.get(backbone)
    if kept is None or kept[0] != state:
        kept = state, make(backbone)
        _fused[backbone] = kept
    return kept[1]
