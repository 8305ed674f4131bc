"""The encoder: a Hugging Face backbone, a pooler, projections where a model has any, and unit length.

Shapes: B texts, T padded tokens, D dimensions.
"""

from collections.abc import Sequence

import torch
from torch import nn

from models.errors import ModelError
from models.latent_attention import LatentAttention
from models.layout import max_positions
from models.pooling import LATENT_ATTENTION, POOLERS, POOLINGS
from models.projection import Projection


class Encoder(nn.Module):
    """Texts as padded token ids in, embeddings out; trained and served through the same forward.

    Args:
        backbone: A transformers model whose output has ``last_hidden_state``.
        pooling: A name in POOLINGS.
        normalize: Whether embeddings have unit length.
        latent_attention: The pooler's weights where ``pooling`` is latent_attention; None makes new ones, with
            which it is the mean.
        projections: What a pooled vector passes, in order; none for most models.

    Raises:
        ModelError: The pooling has no such name, or weights behind the backbone are of another dimension.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pooling: str = "mean",
        normalize: bool = True,
        latent_attention: LatentAttention | None = None,
        projections: Sequence[Projection] = (),
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ModelError("unknown pooling", got=repr(pooling), expected=", ".join(POOLINGS))
        self.backbone = backbone
        self.pooling = pooling
        self.normalize = normalize
        self.latent_attention: LatentAttention | None = None
        width = self.width
        if pooling == LATENT_ATTENTION:
            self.latent_attention = latent_attention or LatentAttention(width)
            _check_width("the pooler", self.latent_attention.settings["dimension"], width)
        self.projections = nn.ModuleList(projections)
        for each in projections:
            _check_width("a projection", each.settings.inputs, width)
            width = each.settings.outputs
        self._dimension = width

    @property
    def width(self) -> int:
        """Components of the state of a token, and of a pooled vector."""
        return int(self.backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def dimension(self) -> int:
        """Components of one embedding."""
        return self._dimension

    @property
    def max_tokens(self) -> int | None:
        """How many tokens the position embeddings cover; None where they set no limit."""
        return max_positions(self.backbone.config.to_dict())  # type: ignore[union-attr, operator]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return next(self.backbone.parameters()).dtype

    def forward(
        self, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, pool_mask_BT: torch.Tensor
    ) -> torch.Tensor:
        """Embed one padded batch.

        Args:
            input_ids_BT: int64, padded to the right.
            attention_mask_BT: 1 where a token is no padding.
            pool_mask_BT: 1 where a token is pooled.

        Returns:
            float32 [B, D], of unit length if ``normalize``: pooling and length in float32, because bfloat16
            keeps 8 bits and cosines of near neighbours differ in the third digit.
        """
        hidden_BTD = self.backbone(input_ids=input_ids_BT, attention_mask=attention_mask_BT).last_hidden_state
        return self.pool(hidden_BTD, pool_mask_BT)

    def pool(self, hidden_BTD: torch.Tensor, pool_mask_BT: torch.Tensor) -> torch.Tensor:
        """Pool hidden states of any float dtype into float32 embeddings [B, D]."""
        pooler = POOLERS[self.pooling] if self.latent_attention is None else self.latent_attention
        emb_BD = pooler(hidden_BTD, pool_mask_BT)
        for projection in self.projections:
            emb_BD = projection(emb_BD)
        return nn.functional.normalize(emb_BD, dim=-1) if self.normalize else emb_BD


def _check_width(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise ModelError(f"{what} is of another model", got=f"{got} dimensions", expected=str(expected))
