"""Variables of the environment, which others read while they start."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SESSION = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray Train waits this long in every report(); the default of 2 s dwarfs a small step.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # Reader v2 merges small Parquet files into one block, and one actor works alone.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    # What Ray will do by default; without it every start warns of the change.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Ray Data's actors hold their arguments in the object store, and the C++ core calls that an error each time.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # A forward pass frees what the next one asks for. By its defaults the C library hands such blocks back to the
    # system, which clears their pages anew: a sixth of the time of encoding, a fifth of a step on the processor.
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    # Ray Train trains on a thread of its own, whose arena would be cut into pieces of 64 MiB.
    "MALLOC_ARENA_MAX": "1",
}
"""What a session and all processes of its cluster run with."""

# Ray binds every port to the node's address, and takes the loopback for one only where it thinks that
# clusters of several machines are not supported, which this variable says on every system.
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's agents set their title, which would overwrite the environment that the watchdog knows them by.
    "SPT_NOENV": "1",
    # Nobody takes this machine's only node away: Ray Train need not watch for it in a process of its own.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""What they run with besides on a cluster within this machine."""


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Have the environment hold ``value`` under ``name`` meanwhile, and what it held before afterwards."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
