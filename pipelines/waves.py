"""Work over descriptors of missing shards, one row a shard: graphs of Ray Data in bounded waves, and plain tasks."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ray.data import Dataset

    from cluster.definition import RoleName
    from cluster.session import Session

R = TypeVar("R")

WAVE_SHARDS = 4096
"""Rows handed to one Ray Data execution, so that the driver's memory does not grow with the corpus."""
MAX_TASKS = 1024
"""Tasks handed to Ray at a time, for the same reason."""


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


def run_tasks(
    session: "Session",
    descriptors: Sequence[dict[str, Any]],
    function: Callable[[dict[str, Any]], R],
    role: "RoleName" = "tokenize",
) -> Iterator[R]:
    """Run ``function`` on every descriptor as a plain task and yield what it returns.

    For functions that hold nothing, such as a model, from one row to the next. Their processes serve the next step as
    well, with all they have imported; an execution of Ray Data takes seconds to set up and ends its own.

    Args:
        session: The cluster, started here if it is not yet.
        descriptors: One dict of plain values a shard that is still missing.
        function: Writes the shard.
        role: What a task asks of a node.

    Yields:
        The results, in the order in which tasks are finished; an error of one is raised here.
    """
    if not descriptors:
        return
    session.start()
    import ray

    task = ray.remote(**session.resources(role, alone=True))(_call)
    held = ray.put(function)
    running: list[Any] = []
    for row in descriptors:
        if len(running) == MAX_TASKS:
            finished, running = ray.wait(running)
            yield from ray.get(finished)
        running.append(task.remote(held, row))
    while running:
        finished, running = ray.wait(running)
        yield from ray.get(finished)


def _call(function: Callable[[dict[str, Any]], R], row: dict[str, Any]) -> R:
    return function(row)
