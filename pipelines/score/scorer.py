"""The actor that scores one row of tokenised pairs after the other."""

from collections.abc import Callable
from functools import cached_property
from time import monotonic
from typing import Any

import numpy as np

from models.tokenization import Tokens
from pipelines.score.reranker import LocatedReranker


class Scorer:
    """Hold one copy of the reranker; it is loaded by the first row that has something to score.

    Args:
        reranker: What to load.
    """

    def __init__(self, reranker: LocatedReranker) -> None:
        self._located = reranker

    @cached_property
    def _score(self) -> Callable[[Tokens], np.ndarray]:
        return self._located.scorer()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with `scores` (float32 [M]) in place of the tokens.

        Raises:
            ModelError: A score is not finite.
        """
        from models.reranker import require_finite

        started = monotonic()
        tokens = Tokens(
            ids=np.frombuffer(row["ids"], np.int32),
            offsets=np.frombuffer(row["offsets"], np.int64),
            pool_starts=np.frombuffer(row["pool_starts"], np.int32),
        )
        scores_M = np.zeros(0, np.float32)
        if len(tokens):
            scores_M = self._score(tokens)
        names = np.frombuffer(row["names"], np.int64).reshape(-1, 2)

        def name(index: int) -> str:
            return f"query {names[index, 0]} and document {names[index, 1]} (ordinals)"

        require_finite(scores_M, name, self._located.location)
        return {
            "row": row["row"],
            "deltas": row["deltas"],
            "portion": row["portion"],
            "scores": scores_M.tobytes(),
            "tokens": len(tokens.ids),
            "seconds": monotonic() - started,
        }
