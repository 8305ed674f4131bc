"""The actor that embeds one shard of tokens after the other."""

from time import monotonic
from typing import Any

import numpy as np

from cluster.errors import UserError
from models.inference import embed
from models.quantization import truncate
from models.tokenization import Tokens
from pipelines.encode.config import EncodeConfig
from pipelines.model import LocatedModel


class Embedder:
    """Hold one copy of the model and embed shards of tokenised texts.

    Args:
        model: What to load.
        config: Token budget of a forward pass, dimension and precision of the result.
    """

    def __init__(self, model: LocatedModel, config: EncodeConfig) -> None:
        self._encoder = model.encoder()
        self._config = config

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with `embeddings` in place of the tokens.

        Raises:
            UserError: The model returned a value that is not finite.
        """
        started = monotonic()
        tokens = Tokens(
            ids=np.frombuffer(row.pop("ids"), dtype=np.int32),
            offsets=np.frombuffer(row.pop("offsets"), dtype=np.int64),
            pool_starts=np.frombuffer(row.pop("pool_starts"), dtype=np.int32),
        )
        emb_ND = embed(self._encoder, tokens, self._config.token_budget)
        bad = np.flatnonzero(~np.isfinite(emb_ND).all(axis=1))
        if len(bad):
            raise UserError(
                "the model returned embeddings that are not finite",
                where=f"{row['table']}, shard {row['index']}",
                got=f"{len(bad)} of {len(emb_ND)} texts",
                fix="write dtype: float32 where the recipe names the model, or mend its weights",
            )
        if self._config.dimension is not None:
            emb_ND = truncate(emb_ND, self._config.dimension)
        return {
            **row,
            "embeddings": emb_ND.astype(self._config.float_precision).tobytes(),
            "dimension": emb_ND.shape[1],
            "tokens": len(tokens.ids),
            "seconds": monotonic() - started,
        }
