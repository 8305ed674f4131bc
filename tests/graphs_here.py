"""Ray Data's graphs run in this process: on a cluster each takes ten seconds to set up, whatever is in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_RUN_THERE = (
    "encode.pipeline", "score.pipeline", "search.by_range", "search.lexical", "search.merging", "search.pipeline",
)  # fmt: skip
"""Modules whose graphs have a way to a worker."""


class Rows:
    """What a graph needs of a Ray dataset."""

    def __init__(self, rows):
        self.rows = rows

    def map(self, function, fn_constructor_args=(), **resources):
        return Rows(
            map(function(*fn_constructor_args) if isinstance(function, type) else function, self.rows)
        )


def waves_here(session, rows, build):
    """Do what ``run_waves`` does, without a cluster."""
    return iter(build(Rows([dict(row) for row in rows])).rows)


@contextmanager
def graphs_here() -> Iterator[None]:
    """Run the graphs of every stage in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for module in _RUN_THERE:
            patch.setattr(f"pipelines.{module}.run_waves", waves_here)
        yield
