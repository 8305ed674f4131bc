"""Ends what a session leaves behind when its process is killed; a script of the standard library only.

Ray ends most of its processes with the driver, but its agents wait a minute for a server that is gone.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

SESSION_VARIABLE = "STOPE_SESSION"
"""Carried by every process of a session, and by nothing else: the session's folder."""


def session_processes(directory: str) -> list[int]:
    """Return the ids of the processes that carry ``directory`` in their environment (Linux only)."""
    mark = f"{SESSION_VARIABLE}={directory}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def clean_up(directory: str, within_s: float = 10.0) -> None:
    """Kill the session's processes until a second look finds none, then remove its folder."""
    deadline = time.monotonic() + within_s
    empty_looks = 0
    while empty_looks < 2 and time.monotonic() < deadline:
        left = session_processes(directory)
        empty_looks = 0 if left else empty_looks + 1
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait for a byte (the session ended by itself) or for the end of the pipe (its process died)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not sys.stdin.buffer.read(1):
        clean_up(sys.argv[1])


if __name__ == "__main__":
    main()
