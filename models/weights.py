"""Weights are read from a directory, and what they say about the model they were loaded into."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.silence import silence

BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", ".attn.bias")
"""How names end that old checkpoints hold beside their weights; they are computed, not learned."""


def read_weights(
    loader: Any,
    directory: Path,
    refusal: tuple[str, str, str],
    trust_remote_code: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    """Read a model from safetensors, offline.

    Args:
        loader: A class with ``from_pretrained``.
        directory: Of the model.
        refusal: What to say where transformers cannot: the problem, what is expected, the fix.
        trust_remote_code: Whether code of the directory may run.
        options: Further ones of ``from_pretrained``.

    Returns:
        The model, and what ``from_pretrained(output_loading_info=True)`` says of it.

    Raises:
        ModelError: It cannot.
    """
    with silence():
        try:
            network, loading = loader.from_pretrained(
                str(directory),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            problem, expected, fix = refusal
            got = (str(error).strip() or repr(error)).splitlines()[0]
            raise ModelError(problem, str(directory), got=got, expected=expected, fix=fix) from error
    return network, loading


def check_weights(backbone: Any, loading: Mapping[str, Any], where: str) -> None:
    """Refuse weights that are missing, misshapen or left over.

    A head (``lm_head``, ``cls``, ``classifier``, ``score``) is no part of the backbone, and may be left over; a
    weight of a part that the backbone has may not: the config then belongs to another model.

    Args:
        backbone: As it was loaded.
        loading: What ``from_pretrained(output_loading_info=True)`` says.
        where: The model's directory.

    Raises:
        ModelError: It names the first of them.
    """
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    misfits = sorted(str(key[0]) for key in loading["mismatched_keys"])
    left_over = sorted(name for name in loading["unexpected_keys"] if _is_of(backbone, name))
    if missing or misfits or left_over:
        counts = f"{len(missing)} absent, {len(misfits)} misshapen, {len(left_over)} left over"
        raise ModelError(
            "the weights do not fit the config",
            where,
            got=f"{counts}: {', '.join((missing + misfits + left_over)[:4])}",
            expected="a weight for every parameter and a parameter for every weight",
            fix="copy config.json and the weights from one and the same model",
        )


def _is_of(backbone: Any, name: str) -> bool:
    name = name.removeprefix(f"{backbone.base_model_prefix}.")
    parts = {part for part, _ in backbone.named_children()} - {"pooler"}
    return name.split(".")[0] in parts and not name.endswith(BUFFERS)
