"""The networks of rerankers: loaded from safetensors, every weight accounted for, causality proven."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import ModelError
from models.lean_imports import import_transformers
from models.low_bit import Quantize, low_bit_options
from models.reranking.description import check_architecture
from models.weights import read_weights


def load_network(
    directory: str | Path, method: str, dtype: str, device: str, quantize: Quantize | None = None
) -> nn.Module:
    """Load the network of a reranker in evaluation mode; no progress bar, no log, no remote code.

    Args:
        directory: As ``resolve_model`` returns it.
        method: A name in RERANKERS.
        dtype: ``"bfloat16"``, ``"float32"`` or ``"float16"``, of weights and activations.
        device: A torch device.
        quantize: ``"8bit"`` or ``"4bit"`` weights of linear layers, without the head; None: none.

    Raises:
        ModelError: Another kind of model, weights that are missing, misshapen or left over, or ``quantize`` without
            bitsandbytes.
    """
    import_transformers()
    import transformers

    check_architecture(directory, method)
    kind = "AutoModelForSequenceClassification" if method == "cross_encoder" else "AutoModelForCausalLM"
    network, loading = read_weights(
        getattr(transformers, kind),
        Path(directory),
        (
            "transformers cannot load this reranker",
            f"weights that {kind} takes",
            "check that all of its files are here, and its method",
        ),
        dtype=getattr(torch, dtype),
        **(low_bit_options(quantize, dtype, device) if quantize else {}),
    )
    _check_weights(directory, method, loading)
    # Weights in few bits are on their device already.
    return (network if quantize else network.to(device)).eval()


def _check_weights(directory: str | Path, method: str, loading: Mapping[str, Any]) -> None:
    missing, left_over = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    misfits = sorted(str(key[0]) for key in loading["mismatched_keys"])
    if missing or misfits or left_over:
        names = ", ".join([*missing, *misfits, *left_over][:4])
        raise ModelError(
            "the weights do not fit the reranker",
            str(directory),
            got=f"{len(missing)} missing, {len(misfits)} misshapen, {len(left_over)} left over: {names}",
            expected="a parameter for every weight and a weight for every parameter",
            fix=f"name a model that was trained and saved as a {method}; a plain encoder or decoder is none"
            if missing
            else "copy config.json and the weights from one and the same model",
        )


def check_causal(network: Any, hidden_to_logits: Any, where: str) -> None:
    """Prove on eight tokens that a decoder looks back only, and that its logits are those of its own forward.

    Rows are padded behind their last token and the head is applied to few positions, which is right only then.

    Raises:
        ModelError: A later token changes an earlier state, or the architecture treats its logits further.
    """
    device = next(network.parameters()).device
    ids_BT = torch.arange(3, 11, device=device).repeat(2, 1) % network.config.vocab_size
    ids_BT[1, -1] = (ids_BT[1, -1] + 5) % network.config.vocab_size
    with torch.inference_mode():
        hidden_BTH = network.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        ours_BTV = hidden_to_logits(hidden_BTH)
        own_BTV = network(input_ids=ids_BT, use_cache=False).logits.float()
    scale = float(own_BTV.abs().max()) or 1.0
    before, after = own_BTV[:, :-1].unbind(0)
    if not torch.isfinite(own_BTV).all():
        what, got = "this model gives logits that are not finite", "nan or inf on eight plain tokens"
    elif not torch.allclose(before, after, atol=0.02 * scale):
        what, got = "this model is no left-to-right decoder", "a later token changes an earlier state"
    elif not torch.allclose(ours_BTV, own_BTV, atol=0.02 * scale):
        what, got = "this architecture treats its logits in an unknown way", type(network).__name__
    else:
        return
    raise ModelError(what, where, got=got, expected="a causal language model", fix="name another reranker")
