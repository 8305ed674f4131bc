"""A rank's share of a global batch, as padded tensors.

Shapes: B rows of one rank, N documents of the global batch with padding, T padded tokens.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from models.tokenization import PAD_MULTIPLE
from pipelines.train.tokens import TokenStore

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""input_ids_BT, attention_mask_BT, pool_mask_BT."""

PASS_TOKENS = 512
"""What one more forward and backward pass costs, in tokens: every pass adds a gradient to all weights, the whole
embedding table included. Measured with 23M weights on a processor."""


@dataclass(frozen=True)
class Order:
    """The planned batches, as flat arrays.

    Args:
        first_rows: int64 [steps + 1]; step s has the rows first_rows[s] to first_rows[s + 1].
        queries: int64 [rows].
        positives: int64 [rows].
        negatives: One list of ordinals a row.
        masked: One list of ordinals a row.
    """

    first_rows: np.ndarray
    queries: np.ndarray
    positives: np.ndarray
    negatives: pa.ListArray
    masked: pa.ListArray

    @classmethod
    def from_table(cls, table: pa.Table) -> "Order":
        """Take the columns of a table of schema PLAN_ORDER, sorted by step."""
        steps = table.column("step").to_numpy()
        first_rows = np.searchsorted(steps, np.arange(int(steps[-1]) + 2))
        return cls(
            first_rows=first_rows,
            queries=table.column("query").to_numpy(),
            positives=table.column("positive").to_numpy(),
            negatives=table.column("negatives").combine_chunks(),
            masked=table.column("masked").combine_chunks(),
        )

    @property
    def num_steps(self) -> int:
        """Number of global batches."""
        return len(self.first_rows) - 1


@dataclass(frozen=True)
class RankBatch:
    """What one rank computes in one step.

    Args:
        inputs: Padded tensors of the queries, then of each bucket of documents.
        positive_B: int64, the column of each row's positive among the gathered documents.
        mask_BN: bool, False where a document is no negative of the row.
        weights_B: 1, or 0 where the row is padding.
        num_rows: Real rows of the global batch.
        num_tokens: Tokens of the global batch, padding not counted.
        queries: Ordinals of the global batch, for error messages.
    """

    inputs: list[Inputs]
    positive_B: torch.Tensor
    mask_BN: torch.Tensor
    weights_B: torch.Tensor
    num_rows: int
    num_tokens: int
    queries: np.ndarray


def rank_batch(
    order: Order, step: int, rank: int, world: int, queries: TokenStore, documents: TokenStore
) -> RankBatch:
    """Cut the share of ``rank`` out of the global batch of ``step``.

    Rows are dealt out one by one. So are the distinct documents, longest first and whosever positive or
    negative they are, because all embeddings are gathered anyway: every rank gets the same work. Where a count
    does not divide, the last one is repeated with weight zero (rows) or masked (documents).
    """
    rows = np.arange(order.first_rows[step], order.first_rows[step + 1])
    negatives = [order.negatives[row].values.to_numpy() for row in rows]
    batch_documents = np.unique(np.concatenate([order.positives[rows], *negatives]))
    text_rows = documents.rows(batch_documents)
    lengths = documents.tokens.offsets[text_rows + 1] - documents.tokens.offsets[text_rows]
    by_length = np.argsort(-lengths, kind="stable")
    batch_documents, text_rows = batch_documents[by_length], text_rows[by_length]

    share = -(-len(batch_documents) // world)
    # The k-th longest document is the (k // world)-th of rank k % world; ranks are gathered one by one.
    columns = np.arange(len(batch_documents)) % world * share + np.arange(len(batch_documents)) // world
    column_of = dict(zip(batch_documents.tolist(), columns.tolist(), strict=True))
    own_documents = _deal(text_rows, rank, world)[0]

    own_rows, weights = _deal(rows, rank, world)
    counted_BN = np.zeros((len(own_rows), share * world), dtype=bool)
    counted_BN[:, columns] = True
    for index, row in enumerate(own_rows):
        counted_BN[index, [column_of[document] for document in order.masked[row].values.to_pylist()]] = False
    query_rows = queries.rows(order.queries[rows])
    query_lengths = queries.tokens.offsets[query_rows + 1] - queries.tokens.offsets[query_rows]
    # The longest of each deal: equal on all ranks, as the passes must be, because ZeRO-3 gathers weights in step.
    buckets = np.split(own_documents, cut_passes(lengths[by_length][::world]))
    return RankBatch(
        inputs=[
            _pad(queries, queries.rows(order.queries[own_rows])),
            *(_pad(documents, bucket) for bucket in buckets),
        ],
        positive_B=torch.tensor([column_of[document] for document in order.positives[own_rows].tolist()]),
        mask_BN=torch.from_numpy(counted_BN),
        weights_B=torch.from_numpy(weights),
        num_rows=len(rows),
        num_tokens=int(lengths.sum() + query_lengths.sum()),
        queries=order.queries[rows],
    )


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


def _deal(items: np.ndarray, rank: int, world: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every world-th item from ``rank`` on, the last of all repeated where short, and the weights."""
    places = np.arange(rank, -(-len(items) // world) * world, world)
    return items[np.minimum(places, len(items) - 1)], (places < len(items)).astype(np.float32)


def _pad(store: TokenStore, rows: np.ndarray) -> Inputs:
    return store.tokens.take(rows).pad(PAD_MULTIPLE)
