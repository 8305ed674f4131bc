"""What embeddings must be before they are searched: matrices of one dimension, every value finite."""

import numpy as np

from models.errors import ModelError


def as_float32(x_ND: np.ndarray, name: str) -> np.ndarray:
    """Return embeddings as a contiguous float32 matrix.

    Raises:
        ModelError: They are no matrix.
    """
    if x_ND.ndim != 2:
        raise ModelError(f"{name} are no matrix", got=f"shape {x_ND.shape}", expected="one embedding a row")
    return np.ascontiguousarray(x_ND, dtype=np.float32)


def max_norm(x_ND: np.ndarray, name: str, first: int = 0) -> float:
    """Return the greatest norm of a row, 0 where there is none.

    Args:
        x_ND: Embeddings.
        name: What they are, for messages.
        first: Number of row 0, for messages.

    Raises:
        ModelError: A value is not finite.
    """
    norms_N = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND))  # numpy's norm would copy the matrix
    bad = np.flatnonzero(~np.isfinite(norms_N))
    if len(bad):
        raise ModelError(
            f"{name} hold values that are not finite",
            where=f"row {first + bad[0]}",
            got=f"{len(bad)} such rows",
            expected="finite embeddings",
            fix="embed them again, in float32",
        )
    return float(norms_N.max(initial=0.0))


def checked_queries(q_QD: np.ndarray, k: int, dimension: int | None) -> np.ndarray:
    """Return the queries as float32 if they and k can be searched.

    Args:
        q_QD: Query embeddings of any float dtype.
        k: Documents to find.
        dimension: Components of a document's embedding; None: there is no document.

    Raises:
        ModelError: k is below 1, or the dimensions differ.
    """
    if k < 1:
        raise ModelError("k counts the documents to find", got=str(k), expected="at least 1")
    q_QD = as_float32(q_QD, "queries")
    if dimension is not None and q_QD.shape[1] != dimension:
        raise ModelError(
            "queries and documents differ in dimension",
            got=f"{q_QD.shape[1]} and {dimension}",
            expected="embeddings of one model",
            fix="embed both with the same model and dimension",
        )
    return q_QD
