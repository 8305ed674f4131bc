"""Tokens to embeddings: the one embedding path, used to encode, to evaluate and to serve.

Shapes: N texts, B texts of one batch, T padded tokens, D dimensions.
"""

from collections.abc import Callable

import numpy as np
import torch

from models.encoder import Encoder
from models.errors import ModelError
from models.states import fast_states, forget
from models.tokenization import Tokens, padded_length

# Attention on a processor is twice as fast at widths that fill its vectors (152 tokens take as long as 250
# do).
BATCH_MULTIPLE = 16

Forward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def plan_batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Cut texts into batches of like length that fill a token budget.

    Args:
        lengths: int [N], tokens of each text.
        token_budget: Most tokens of a batch, padding counted: rows x longest length, rounded up to a multiple
            of BATCH_MULTIPLE.

    Returns:
        Row numbers (int64) of each batch, the longest texts first, so that a budget that does not fit the
        device's memory fails at once.

    Raises:
        ModelError: One text alone exceeds the budget.
    """
    order = np.argsort(-lengths, kind="stable")
    if len(order) and padded_length(int(lengths[order[0]]), BATCH_MULTIPLE) > token_budget:
        longest = padded_length(int(lengths[order[0]]), BATCH_MULTIPLE)
        raise ModelError(
            "a text is longer than the token budget",
            got=f"{longest} tokens, padded",
            expected=f"at most {token_budget}",
            fix=f"raise token_budget to {longest} or more, or cut texts shorter",
        )
    batches = []
    start = 0
    while start < len(order):
        width = padded_length(max(1, int(lengths[order[start]])), BATCH_MULTIPLE)
        stop = start + max(1, token_budget // width)
        batches.append(order[start:stop])
        start = stop
    return batches


@torch.inference_mode()
def embed(encoder: Encoder, tokens: Tokens, token_budget: int = 4096) -> np.ndarray:
    """Embed tokenised texts.

    Args:
        encoder: Switched to evaluation mode while this runs.
        tokens: N texts.
        token_budget: Most tokens of a forward pass, padding counted; about 4,096 on a processor, 32,768 on a
        GPU.

    Returns:
        float32 [N, D], in the order of the texts. An embedding does not depend on the texts beside it, but
        for the rounding of the dtype.
    """
    training = encoder.training
    if training:
        forget(encoder.backbone)
    encoder.eval()
    try:
        return _embed(encoder, tokens, token_budget)
    finally:
        encoder.train(training)


def _embed(encoder: Encoder, tokens: Tokens, token_budget: int) -> np.ndarray:
    device, max_tokens = encoder.device, encoder.max_tokens
    forward = _forward(encoder)
    out_ND = torch.empty(len(tokens), encoder.dimension, dtype=torch.float32, device=device)
    for rows in plan_batches(tokens.lengths, token_budget):
        padded = tokens.take(rows).pad(BATCH_MULTIPLE, max_tokens)
        # Results stay on the device until the end: a copy back per batch would make it wait.
        inputs = [tensor.to(device, non_blocking=True) for tensor in padded]
        out_ND[torch.from_numpy(rows).to(device)] = forward(*inputs)
    return out_ND.cpu().numpy()


def _forward(encoder: Encoder) -> Forward:
    states = fast_states(encoder.backbone)
    if states is None:
        return encoder
    return lambda input_ids_BT, attention_mask_BT, pool_mask_BT: encoder.pool(
        states(input_ids_BT, attention_mask_BT, None), pool_mask_BT
    )
