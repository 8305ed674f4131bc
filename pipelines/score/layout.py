"""How pairs travel: from ranges of queries to groups of documents to ranges of buckets, in bounded portions."""

from dataclasses import dataclass

import numpy as np

from pipelines.score.config import ScoreConfig
from pipelines.score.keys import NUM_BUCKETS

MIB = 2**20


@dataclass(frozen=True)
class Layout:
    """The portions of a scoring, known from its inputs alone: a resumed one finds the same.

    Args:
        ranges: Half-open ranges of candidate shards; one task reads one of them.
        groups: Half-open ranges of document shards; one task joins the texts of one of them.
        num_partitions: Ranges of buckets of the score store.
    """

    ranges: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, int], ...]
    num_partitions: int

    def asked(self, index: int, group: int) -> int:
        """Return the shard of `asked` that range ``index`` writes for ``group``."""
        return index * len(self.groups) + group

    def joined(self, group: int, partition: int) -> int:
        """Return the shard of `joined` that ``group`` writes for ``partition``."""
        return group * self.num_partitions + partition

    def partitions(self, bucket_N: np.ndarray) -> np.ndarray:
        """Return the partition of each bucket, int64 [N]."""
        return bucket_N * self.num_partitions // NUM_BUCKETS

    def buckets(self, partition: int) -> tuple[int, int]:
        """Return the first and the last bucket of a partition."""
        bounds = [-(-each * NUM_BUCKETS // self.num_partitions) for each in (partition, partition + 1)]
        return bounds[0], bounds[1] - 1


def plan_layout(
    pairs_of_shard: np.ndarray, documents: tuple[np.ndarray, np.ndarray], config: ScoreConfig
) -> Layout:
    """Cut all three ways so that a task holds no more than the config says, unless one shard is larger.

    Args:
        pairs_of_shard: Estimated pairs of each candidate shard, int64.
        documents: Documents of each document shard, and its stored bytes, int64 each.
        config: Bounds.
    """
    rows_of_shard, bytes_of_shard = documents
    pairs, stored = max(1, int(pairs_of_shard.sum())), max(1, int(bytes_of_shard.sum()))
    # A group of documents is bounded by its texts, and by the pairs that are likely to ask for them.
    group_bytes = min(config.group_mb * MIB, max(1, stored * config.group_pairs // pairs))
    asked_bytes = _most_bytes(rows_of_shard, bytes_of_shard, pairs)
    portions = max(-(-pairs // config.group_pairs), -(-asked_bytes // (config.group_mb * MIB)))
    return Layout(
        ranges=_cut(pairs_of_shard, config.group_pairs),
        groups=_cut(bytes_of_shard, group_bytes),
        num_partitions=min(portions, NUM_BUCKETS),
    )


def _most_bytes(rows_of_shard: np.ndarray, bytes_of_shard: np.ndarray, pairs: int) -> int:
    """Return the stored bytes of as many documents as there are pairs, of the shards where they are longest.

    A partition holds the documents that its pairs ask for: few pairs touch a small part of a large corpus.
    """
    mean_bytes = bytes_of_shard / np.maximum(rows_of_shard, 1)
    order = np.argsort(-mean_bytes, kind="stable")
    rows = rows_of_shard[order]
    asked = np.clip(pairs - (np.cumsum(rows) - rows), 0, rows)
    held = np.where(asked < rows, np.ceil(asked * mean_bytes[order]), bytes_of_shard[order])
    return int(held.astype(np.int64).sum())


def _cut(sizes: np.ndarray, most: int) -> tuple[tuple[int, int], ...]:
    cuts, start, held = [], 0, 0
    for index, size in enumerate(sizes.tolist()):
        if index > start and held + size > most:
            cuts.append((start, index))
            start, held = index, 0
        held += size
    cuts.append((start, len(sizes)))
    return tuple(cuts)
