"""A Python process of its own for work that must not depend on this one."""

import os
import subprocess
import sys

from cluster.errors import UserError


def run_module(module: str, request: bytes, hash_seed: int) -> bytes:
    """Run ``python -m module`` with ``request`` on its standard input and return its standard output.

    Args:
        module: Dotted name of a module that is imported as this process imports it.
        request: Bytes that the module reads.
        hash_seed: Of the child, so that the order of its sets is the same in every run.

    Raises:
        UserError: The child ended with an error; its last line is told.
    """
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", module]
    ended = subprocess.run(command, input=request, env=environment, capture_output=True, check=False)
    if ended.returncode:
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"{module} failed", got=lines[-1] if lines else f"status {ended.returncode}")
    return ended.stdout
