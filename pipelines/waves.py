"""Ray Data over descriptors of missing shards: one row is one shard, in bounded waves."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import Dataset

    from cluster.session import Session

WAVE_SHARDS = 4096
"""Rows handed to one Ray Data execution, so that the driver's memory does not grow with the corpus."""


def run_waves(
    session: "Session", descriptors: Sequence[dict[str, Any]], build: "Callable[[Dataset], Dataset]"
) -> Iterator[dict[str, Any]]:
    """Run ``build`` over the descriptors and yield one small receipt row for every shard written.

    Args:
        session: The cluster, started here if it is not yet.
        descriptors: One dict of plain values a shard that is still missing.
        build: Takes a dataset of one descriptor a row and a block, returns a dataset of receipts.

    Yields:
        The receipt rows, in the order in which shards are finished.
    """
    if descriptors:
        session.prepare_data()
    import ray.data

    for start in range(0, len(descriptors), WAVE_SHARDS):
        wave = list(descriptors[start : start + WAVE_SHARDS])
        # One block a row: small Parquet files would be merged into one block, and one actor would work alone.
        yield from build(ray.data.from_items(wave, override_num_blocks=len(wave))).iter_rows()
