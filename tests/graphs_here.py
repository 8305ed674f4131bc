"""Ray's graphs and tasks run in this process: on a cluster each takes ten seconds to set up, whatever is in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_RUN_THERE = {
    "run_waves": ("encode.pipeline", "score.pipeline", "search.lexical", "search.pipeline"),
    "run_tasks": (
        "encode.pipeline", "score.pipeline", "search.by_range", "search.lexical", "search.merging", "search.pipeline",
    ),
}  # fmt: skip
"""What has a way to a worker, and the modules that call it."""


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
    return iter(build(Rows([dict(row) for row in rows])).rows) if rows else iter(())


def tasks_here(session, rows, function, role="tokenize"):
    """Do what ``run_tasks`` does, without a cluster."""
    return map(function, [dict(row) for row in rows])


@contextmanager
def graphs_here() -> Iterator[None]:
    """Run the graphs and tasks of every stage in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, runs_here in (("run_waves", waves_here), ("run_tasks", tasks_here)):
            for module in _RUN_THERE[name]:
                patch.setattr(f"pipelines.{module}.{name}", runs_here)
        yield
