"""Smaller embeddings: fewer components, one byte a component, one bit a component.

The codes are those of ``sentence_transformers.util.quantize_embeddings``, value for value, so that what reads
its int8 and binary embeddings reads these.

Shapes: N embeddings, D components, P = ceil(D / 8) bytes of packed bits.
"""

from collections.abc import Callable, Iterable

import numpy as np

from models.errors import ModelError

FLOATS = ("float16", "float32")
"""Precisions that keep embeddings as numbers to be multiplied; the others are keys of QUANTIZERS."""


def truncate(emb_ND: np.ndarray, dimension: int) -> np.ndarray:
    """Keep the first components of each embedding and bring it back to unit length.

    What is kept of a model trained with the matryoshka loss (arXiv 2205.13147) is an embedding of its own.

    Args:
        emb_ND: Embeddings of any float dtype.
        dimension: Components kept, 1 to D.

    Returns:
        float32 [N, dimension]; an embedding whose kept components are all zero stays zero.

    Raises:
        ModelError: ``dimension`` is not within 1 to D.
    """
    if not 1 <= dimension <= emb_ND.shape[1]:
        raise ModelError(
            "embeddings cannot be cut to this dimension",
            got=str(dimension),
            expected=f"1 to {emb_ND.shape[1]}, the model's own",
            fix="lower the dimension, or set it to null for all components",
        )
    kept_ND = emb_ND[:, :dimension].astype(np.float32)
    norm_N1 = np.linalg.norm(kept_ND, axis=1, keepdims=True)
    return kept_ND / np.where(norm_N1 == 0, 1, norm_N1)


def value_ranges(emb_ND: np.ndarray) -> np.ndarray:
    """Return float32 [2, D]: the least and the greatest value of each component; N is at least 1."""
    return np.stack([emb_ND.min(axis=0), emb_ND.max(axis=0)]).astype(np.float32)


def merge_ranges(ranges: Iterable[np.ndarray]) -> np.ndarray:
    """Return the ranges, float32 [2, D], that hold all of ``ranges``, at least one; their order does not matter.

    Raises:
        ModelError: There is nothing to merge.
    """
    low_D: np.ndarray | None = None
    high_D: np.ndarray | None = None
    for each_2D in ranges:
        low_D = each_2D[0] if low_D is None else np.minimum(low_D, each_2D[0])
        high_D = each_2D[1] if high_D is None else np.maximum(high_D, each_2D[1])
    if low_D is None or high_D is None:
        raise ModelError("no embedding to take the ranges of int8 from", expected="at least one document")
    return np.stack([low_D, high_D])


def _bytes(emb_ND: np.ndarray, ranges_2D: np.ndarray | None) -> np.ndarray:
    if ranges_2D is None or ranges_2D.shape != (2, emb_ND.shape[1]):
        raise ModelError(
            "int8 and uint8 need the range of every component",
            got="none" if ranges_2D is None else f"shape {ranges_2D.shape}",
            expected=f"shape (2, {emb_ND.shape[1]})",
        )
    low_D = ranges_2D[0].astype(np.float32)
    step_D = (ranges_2D[1].astype(np.float32) - low_D) / 255
    step_D = np.where(step_D == 0, 1, step_D)
    # Floor, not round: the last step holds the maximum alone.
    return np.clip(np.floor((emb_ND - low_D) / step_D), 0, 255)


def _uint8(emb_ND: np.ndarray, ranges_2D: np.ndarray | None) -> np.ndarray:
    return _bytes(emb_ND, ranges_2D).astype(np.uint8)


def _int8(emb_ND: np.ndarray, ranges_2D: np.ndarray | None) -> np.ndarray:
    return (_bytes(emb_ND, ranges_2D) - 128).astype(np.int8)


def _ubinary(emb_ND: np.ndarray, _ranges_2D: np.ndarray | None) -> np.ndarray:
    return np.packbits(emb_ND > 0, axis=-1)


def _binary(emb_ND: np.ndarray, _ranges_2D: np.ndarray | None) -> np.ndarray:
    # The bits as ubinary has them, less 128 as a number: what ubinary reads 0 is -128 here.
    return (np.packbits(emb_ND > 0, axis=-1).astype(np.int16) - 128).astype(np.int8)


Quantizer = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
QUANTIZERS: dict[str, Quantizer] = {"int8": _int8, "uint8": _uint8, "binary": _binary, "ubinary": _ubinary}
CALIBRATED = ("int8", "uint8")
"""Precisions whose codes depend on the ranges."""


def quantize(emb_ND: np.ndarray, precision: str, ranges_2D: np.ndarray | None = None) -> np.ndarray:
    """Quantise embeddings.

    Args:
        emb_ND: float32 embeddings.
        precision: ``"int8"`` and ``"uint8"`` cut the range of each component into 255 equal steps and store
            the number of the step, from -128 or from 0, values outside the range clipped; ``"binary"`` and
            ``"ubinary"`` keep one bit a component, whether it is above zero, eight to a byte, the first
            component in the highest bit.
        ranges_2D: float32 [2, D] of ``value_ranges``, for int8 and uint8: those of the corpus, for queries too.

    Returns:
        int8 or uint8, [N, D] or [N, P].

    Raises:
        ModelError: The precision is unknown, or needs ranges that are absent or of another dimension.
    """
    if precision not in QUANTIZERS:
        raise ModelError("unknown precision", got=repr(precision), expected=", ".join(QUANTIZERS))
    return QUANTIZERS[precision](emb_ND, ranges_2D)
