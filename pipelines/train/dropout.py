"""Dropout whose mask of a text is the same on any rank, in any batch, at any padding.

A mask is a hash of (seed, step, text, layer, place), never a state that is drawn from: N ranks drop what one would,
GradCache's second pass drops what the first did, and a training that is resumed what it would have.

Shapes: B texts, H heads, T tokens, D dimensions; R rows of one key each, I x J places of a row.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from models.errors import ModelError
from pipelines.train.attention import use_plain_attention
from pipelines.train.dealing import Inputs

_GOLDEN, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""Of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), as signed numbers."""
_ODD, _ROUND_1, _ROUND_2 = -0x61C88647, 0x7FEB352D, -0x7B935975
"""Of a 32-bit finaliser with low bias (C. Wellons, "Prospecting for hash functions", 2018)."""
LEVELS = 1 << 16
"""A place is dropped where 16 bits of its hash lie below p x LEVELS, so p is kept to a precision of 1e-5."""
_CHUNK_PLACES = 1 << 17
"""Places that a processor hashes at once: what its cache holds."""


def mix(z: torch.Tensor) -> torch.Tensor:
    """Return splitmix64's output for the states ``z`` (int64, any shape)."""
    z = z + _GOLDEN
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _MIX_1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _MIX_2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def pass_seed(seed: int, step: int, kind: int) -> int:
    """Return what the masks of one step's texts of one kind hang on; a signed 64-bit number."""
    mixed = torch.zeros((), dtype=torch.int64)
    for part in (seed, step, kind):
        mixed = mix(mixed + part)
    return int(mixed)


def row_keys(inputs: Inputs, seed: int) -> torch.Tensor:
    """Return a key (int64 [B]) of each text: a hash of its tokens and ``seed``.

    A plan holds a text once, so its tokens name it as well as its ordinal would. A query behind examples is a text of
    its own.
    """
    ids_BT, mask_BT, _ = inputs
    places_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    return mix((mix((places_T << 32) + ids_BT + seed) * mask_BT).sum(1))


def keep_mask(keys_R: torch.Tensor, rows: int, columns: int, p: float) -> torch.Tensor:
    """Say which places stay.

    Args:
        keys_R: int64.
        rows: I, at most 65,536.
        columns: J, likewise.
        p: Share of the places that are dropped, rounded to a multiple of 1 / LEVELS.

    Returns:
        bool [R, I, J]; a place's value hangs on its key, its row and its column alone.
    """
    device, halves = keys_R.device, -(-columns // 2)
    places_IJ = (torch.arange(rows, device=device)[:, None] << 16) + torch.arange(halves, device=device)
    # What does not fit 32 bits wraps around: 65,536 rows are told apart all the same.
    hashed_IJ = places_IJ.to(torch.int32) * _ODD
    low_R11, high_R11 = (half[:, None, None] for half in keys_R[:, None].view(torch.int32).unbind(1))
    chunk = max(1, _CHUNK_PLACES // hashed_IJ.numel()) if device.type == "cpu" else len(keys_R)
    parts = [
        _hash(low_r11 ^ hashed_IJ, high_r11)
        for low_r11, high_r11 in zip(low_R11.split(chunk), high_R11.split(chunk), strict=True)
    ]
    # Two places a hash, 16 bits each, signed.
    bits_RIJ = torch.cat(parts).view(torch.int16)[..., :columns]
    return bits_RIJ >= _threshold(p) - LEVELS // 2


def _hash(x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    x = x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(_ROUND_1).add_(key)
    x = x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_ROUND_2)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _threshold(p: float) -> int:
    return min(LEVELS - 1, round(p * LEVELS))


class Rows:
    """The keys of the texts that pass through the model now; its dropouts share one."""

    def __init__(self) -> None:
        self._keys_B: torch.Tensor | None = None

    @contextmanager
    def passing(self, keys_B: torch.Tensor | None) -> Iterator[None]:
        """Let dropouts draw for the texts with these keys; None: none may draw."""
        before, self._keys_B = self._keys_B, keys_B
        try:
            yield
        finally:
            self._keys_B = before

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return contexts for a checkpointed layer's forward pass and for its second one, as torch asks for them."""
        return nullcontext(), self.passing(self._keys_B)

    def drop(self, x: torch.Tensor, p: float, layer: int) -> torch.Tensor:
        """Set a share of the values to zero and scale the rest up, text by text.

        Args:
            x: [B, T, D] or [B, H, T, T]; [B, D], or [B * T, D] text after text.
            p: Share of the values.
            layer: Tells the dropouts of a model apart.

        Raises:
            ModelError: ``x`` is not made of the texts that pass through.
        """
        keys_B = self._keys_B
        assert keys_B is not None, "a dropout outside of a training step"
        if (
            x.ndim < 2
            or x.numel() == 0
            or x.shape[0] % len(keys_B)
            or (x.ndim > 2 and x.shape[0] != len(keys_B))
        ):
            raise ModelError(
                "dropout cannot tell the texts of a layer apart",
                "train.dropout",
                got=f"values of shape {tuple(x.shape)} for {len(keys_B)} texts",
                expected="texts along the first dimension",
                fix="set train.dropout and train.lora.dropout to 0",
            )
        keys_R = mix(keys_B.to(x.device) + layer)
        if x.ndim == 4:
            keys_R = mix(keys_R[:, None] + torch.arange(x.shape[1], device=x.device)).flatten()
        shape = (len(keys_R), -1, x.shape[-1])
        rows = x.numel() // (len(keys_R) * x.shape[-1])
        kept = keep_mask(keys_R, rows, x.shape[-1], p).to(x.dtype).mul_(LEVELS / (LEVELS - _threshold(p)))
        return (x.reshape(shape) * kept).view(x.shape)


class RowDropout(nn.Module):
    """Stands in for ``nn.Dropout``.

    Args:
        p: Share of the values that are dropped in training.
        rows: Knows the texts.
        layer: This dropout's number.
    """

    def __init__(self, p: float, rows: Rows, layer: int) -> None:
        super().__init__()
        self.p, self.rows, self.layer = p, rows, layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop in training, hand on in evaluation."""
        return self.rows.drop(x, self.p, self.layer) if self.training and self.p else x


def seed_by_row(backbone: nn.Module) -> Rows:
    """Make all dropouts of ``backbone`` draw by the text, those of attention and of adapters included.

    Args:
        backbone: Changed in place; the probabilities are set already. Where one is above 0, attention runs as plain
            matrix products, because fused attention draws its masks itself.
    """
    rows, drawing = Rows(), False
    for layer, (name, module) in enumerate(list(backbone.named_modules())):
        if isinstance(module, nn.Dropout) and module.p:
            parent, _, own = name.rpartition(".")
            backbone.get_submodule(parent).register_module(own, RowDropout(module.p, rows, layer))
            drawing = True
        elif getattr(module, "attention_dropout", None):
            drawing = True
        # For attention, which is handed the probability as a number.
        module.stope_rows, module.stope_layer = rows, layer
    if drawing:
        use_plain_attention(backbone)
    return rows


def check_draws(backbone: nn.Module, rows: Rows) -> None:
    """Refuse a model that draws random numbers in training, beside the dropouts that ``rows`` knows.

    Raises:
        ModelError: It does, so that no training of it could be repeated.
    """
    device = next(backbone.parameters()).device
    ids_BT = torch.ones(1, 2, dtype=torch.int64, device=device)
    training = backbone.training
    states = _random_states(device)
    with torch.no_grad(), rows.passing(row_keys((ids_BT, ids_BT, ids_BT), 0)):
        backbone.train()(input_ids=ids_BT, attention_mask=ids_BT)
    backbone.train(training)
    if any(not torch.equal(*each) for each in zip(states, _random_states(device), strict=True)):
        raise ModelError(
            "the model draws random numbers of its own in training, so no run of it can be repeated",
            "train",
            expected="dropout as modules (nn.Dropout) or as attention_dropout",
            fix="set the dropout settings in the model's config.json to 0",
        )


def _random_states(device: torch.device) -> list[torch.Tensor]:
    return [
        torch.get_rng_state(),
        *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []),
    ]
