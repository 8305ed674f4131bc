"""Random numbers that depend on a seed and on what they are drawn for, not on the order of the work.

Shapes: E examples, K columns.
"""

import numpy as np

_TEACHER = np.uint64(0x6A09E667F3BCC908)
_DOCUMENT = np.uint64(0xBB67AE8584CAA73B)


def splitmix(values: np.ndarray) -> np.ndarray:
    """Return the SplitMix64 hash of uint64 values: a counter in, well-mixed bits out."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def streams(seed: int, query_E: np.ndarray, positive_E: np.ndarray | None = None) -> np.ndarray:
    """Return uint64 [E]: where each example's own random numbers begin.

    So its draws are the same in whichever shard it lies, and beside whichever others.

    Args:
        seed: From the recipe.
        query_E: Query ordinals.
        positive_E: Positive of each example, where a query has several examples.
    """
    stream_E = splitmix(splitmix(np.array(seed, np.uint64)) ^ query_E.astype(np.uint64))
    return stream_E if positive_E is None else splitmix(stream_E ^ positive_E.astype(np.uint64))


def gumbel_noise(stream_E: np.ndarray, columns: int) -> np.ndarray:
    """Return float64 [E, columns]: standard Gumbel noise."""
    with np.errstate(over="ignore"):
        bits_EK = splitmix(stream_E[:, None] + np.arange(columns, dtype=np.uint64))
    uniform_EK = (bits_EK >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return -np.log(-np.log(np.clip(uniform_EK, 2.0**-53, 1 - 2.0**-53)))


def drawn_teacher(stream_E: np.ndarray, num_teachers: int) -> np.ndarray:
    """Return int64 [E] in 0 .. num_teachers - 1, uniform."""
    return (splitmix(stream_E ^ _TEACHER) % np.uint64(num_teachers)).astype(np.int64)


def drawn_document(stream_E: np.ndarray, attempt: int, num_documents: int) -> np.ndarray:
    """Return int64 [E] in 0 .. num_documents - 1, uniform, the ``attempt``-th of each stream."""
    with np.errstate(over="ignore"):
        bits_E = splitmix((stream_E ^ _DOCUMENT) + np.uint64(attempt))
    return (bits_E % np.uint64(num_documents)).astype(np.int64)
