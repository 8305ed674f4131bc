"""The actor that embeds one shard of tokens after the other."""

from time import monotonic
from typing import Any

import numpy as np

from models.inference import embed
from models.tokenization import Tokens
from pipelines.encode.config import EncodeConfig
from pipelines.model import LocatedModel


class Embedder:
    """Hold one copy of the model and embed shards of tokenised texts.

    Args:
        model: What to load.
        config: Token budget of a forward pass and precision of the result.
    """

    def __init__(self, model: LocatedModel, config: EncodeConfig) -> None:
        self._encoder = model.encoder()
        self._config = config

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with `embeddings` in place of the tokens."""
        started = monotonic()
        tokens = Tokens(
            ids=np.frombuffer(row["ids"], dtype=np.int32),
            offsets=np.frombuffer(row["offsets"], dtype=np.int64),
            pool_starts=np.frombuffer(row["pool_starts"], dtype=np.int32),
        )
        emb_ND = embed(self._encoder, tokens, self._config.token_budget)
        return {
            "table": row["table"],
            "index": row["index"],
            "rows_read": row["rows_read"],
            "ordinals": row["ordinals"],
            "embeddings": emb_ND.astype(self._config.precision).tobytes(),
            "dimension": emb_ND.shape[1],
            "precision": self._config.precision,
            "tokens": len(tokens.ids),
            "seconds": monotonic() - started,
        }
