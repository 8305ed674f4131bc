"""The actor that embeds one shard of tokens after the other."""

from time import monotonic
from typing import Any

import numpy as np

from cluster.errors import UserError
from models.errors import ModelError
from models.quantization import truncate
from models.tokenization import Tokens
from pipelines.encode.config import EncodeConfig
from pipelines.located_model import LocatedModel


class Embedder:
    """Hold one copy of the model and embed shards of tokenised texts.

    Args:
        model: What to load.
        config: Token budget of a forward pass, dimension and precision of the result.
        digest: What the model's files must hash to; None: they belong to an artifact, which checks them.
    """

    def __init__(self, model: LocatedModel, config: EncodeConfig, digest: str | None = None) -> None:
        self._config = config
        self._problem: UserError | ModelError | None = None
        try:
            self._embed = model.embedder(config.token_budget)
            if digest is not None:
                # After loading: files exchanged meanwhile are seen as well.
                _require_files(model.location, digest, model.trusted)
        except (UserError, ModelError) as error:
            # Ray tries a constructor that raises again and tells its error as text: the first row raises it.
            self._problem = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with `embeddings` in place of the tokens.

        Raises:
            ModelError: The model cannot be loaded.
            UserError: Its files are no longer those that the run was planned with, or it returned a value that is
                not finite.
        """
        if self._problem is not None:
            raise self._problem
        started = monotonic()
        tokens = Tokens(
            ids=np.frombuffer(row.pop("ids"), dtype=np.int32),
            offsets=np.frombuffer(row.pop("offsets"), dtype=np.int64),
            pool_starts=np.frombuffer(row.pop("pool_starts"), dtype=np.int32),
        )
        emb_ND = self._embed(tokens)
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


def _require_files(location: str, digest: str, trusted: bool) -> None:
    from models.checkpoint import resolve_model
    from models.layout import model_digest

    found = model_digest(resolve_model(location, trusted), trusted)
    if found != digest:
        raise UserError(
            "the model's files changed while the run was under way",
            where=location,
            got=f"sha256 {found[:12]}",
            expected=f"sha256 {digest[:12]}",
            fix="run the same command again",
        )
