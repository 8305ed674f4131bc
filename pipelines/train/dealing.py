"""Texts of a global batch dealt out to the ranks, and cut into the passes of the encoder.

Shapes: B texts of a pass, T padded tokens.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from models.tokenization import PAD_MULTIPLE
from pipelines.train.tokens import TokenStore

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""input_ids_BT, attention_mask_BT, pool_mask_BT."""

PASS_TOKENS = 512
"""What one more forward and backward pass costs, in tokens: every pass adds a gradient to all weights, the whole
embedding table included. Measured with 23M weights on a processor."""


@dataclass(frozen=True)
class DealtTexts:
    """Distinct texts of a global batch, and the share of one rank.

    Args:
        column_of: Ordinal -> its row among the embeddings gathered from all ranks.
        num_columns: Rows gathered from all ranks, padding included.
        passes: Padded tensors of this rank's share, pass by pass.
        real: float32 [B] of each pass: 1, or 0 for a text that only fills up.
        num_tokens: Of all ranks, padding not counted.
        guide_NE: A guide's embeddings of all columns, 0 in those of padding; None where there is no guide.
    """

    column_of: dict[int, int]
    num_columns: int
    passes: list[Inputs]
    real: list[torch.Tensor]
    num_tokens: int
    guide_NE: torch.Tensor | None = None


def deal_texts(
    store: TokenStore, ordinals: np.ndarray, rank: int, world: int, max_rows: int | None
) -> DealtTexts:
    """Deal distinct texts out one by one, longest first: every rank gets the same work.

    Where their number does not divide, the last one is repeated, in a column that no ordinal names.

    Args:
        store: Their tokens.
        ordinals: int64, rising and distinct; may be empty.
        rank: Whose share is wanted.
        world: Number of ranks.
        max_rows: Texts of one pass, at most. None: as many as are cheapest.
    """
    if not len(ordinals):
        return DealtTexts({}, 0, [], [], 0)
    text_rows = store.rows(ordinals)
    lengths = store.tokens.offsets[text_rows + 1] - store.tokens.offsets[text_rows]
    by_length = np.argsort(-lengths, kind="stable")
    text_rows, lengths = text_rows[by_length], lengths[by_length]
    share = -(-len(ordinals) // world)
    # The k-th longest is the (k // world)-th of rank k % world; ranks are gathered one by one.
    columns = np.arange(len(ordinals)) % world * share + np.arange(len(ordinals)) // world
    # The longest of each deal: equal on all ranks, as the passes must be, because ZeRO-3 gathers weights in step.
    cuts = cut_rows(cut_passes(lengths[::world]), share, max_rows)
    own_rows, weights = deal(text_rows, rank, world)
    return DealtTexts(
        column_of=dict(zip(ordinals[by_length].tolist(), columns.tolist(), strict=True)),
        num_columns=share * world,
        passes=[pad(store, part) for part in np.split(own_rows, cuts)],
        real=[torch.from_numpy(part) for part in np.split(weights, cuts)],
        num_tokens=int(lengths.sum()),
        guide_NE=_guide(store, text_rows, columns, share * world),
    )


def _guide(store: TokenStore, rows: np.ndarray, columns: np.ndarray, num_columns: int) -> torch.Tensor | None:
    if store.vectors is None:
        return None
    guide_NE = torch.zeros(num_columns, store.vectors.shape[1])
    guide_NE[torch.from_numpy(columns)] = torch.from_numpy(store.vectors[rows].astype(np.float32))
    return guide_NE


def cut_passes(lengths: np.ndarray) -> list[int]:
    """Cut texts, longest first, into the passes that cost the least: padded tokens, and PASS_TOKENS a pass.

    Args:
        lengths: int [n], falling.

    Returns:
        Where a new pass begins: rising, each above 0 and below n.
    """
    padded = -(-lengths // PAD_MULTIPLE) * PAD_MULTIPLE
    starts = [0, *(np.flatnonzero(np.diff(padded)) + 1).tolist(), len(padded)]
    # cheapest[j]: the least cost of the texts before starts[j], and where their last pass begins.
    cheapest: list[tuple[int, int]] = [(0, 0)]
    for j in range(1, len(starts)):
        cheapest.append(
            min(
                (cheapest[i][0] + int(padded[starts[i]]) * (starts[j] - starts[i]) + PASS_TOKENS, i)
                for i in range(j)
            )
        )
    cuts: list[int] = []
    place = cheapest[-1][1]
    while place:
        cuts.append(starts[place])
        place = cheapest[place][1]
    return cuts[::-1]


def cut_rows(cuts: list[int], num_rows: int, max_rows: int | None) -> list[int]:
    """Add cuts so that no pass has more than ``max_rows`` rows. None: return ``cuts`` as they are."""
    if max_rows is None:
        return cuts
    return [cut for low, high in pairwise([0, *cuts, num_rows]) for cut in range(low, high, max_rows) if cut]


def deal(items: np.ndarray, rank: int, world: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every world-th item from ``rank`` on, the last of all repeated where short, and the weights."""
    places = np.arange(rank, -(-len(items) // world) * world, world)
    return items[np.minimum(places, len(items) - 1)], (places < len(items)).astype(np.float32)


def pad(store: TokenStore, rows: np.ndarray) -> Inputs:
    """Return some texts of a store as padded tensors."""
    return store.tokens.take(rows).pad(PAD_MULTIPLE)
