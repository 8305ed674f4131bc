"""Ranks as processes of this machine: a script that starts worlds of them, and the test that starts the script."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

TIMEOUT_S = 600


def run_script(script: Path, folder: Path) -> None:
    """Run a script on a folder, in a group of its own: a rank that hangs is ended with the process that forked it."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(script.parents[2]),
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-3000:]


def run_worlds(run_rank: Callable[[int, int, Path], None], worlds: Mapping[str, int], root: Path) -> None:
    """Run worlds of ranks one after the other, each in a folder of its name.

    Forked, so that the imports, which take longer than the cases, happen once.

    Args:
        run_rank: Takes the rank, the size of its world and the folder.
        worlds: Name -> number of ranks.
        root: Of the folders.
    """
    context = multiprocessing.get_context("fork")
    # DeepSpeed collects garbage at every start: not through what was imported.
    gc.freeze()
    for name, world in worlds.items():
        folder = root / name
        folder.mkdir()
        ranks = [context.Process(target=run_rank, args=(rank, world, folder)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            sys.exit(f"world of {world}: a rank failed")
