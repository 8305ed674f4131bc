"""Checks of the machine and the installation, each with what to do about it."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from cluster.machine import (
    SHARED_MEMORY,
    available_memory_bytes,
    free_shared_memory_bytes,
    num_cores,
    total_memory_bytes,
)

REPOSITORY = Path(__file__).resolve().parents[1]
FIRST_PARTY = ("cluster", "models", "pipelines", "serve")
_GIB = 2**30
_RAY_SERIES = "2.60."
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


class Check(NamedTuple):
    """The outcome of one check."""

    name: str
    """What was looked at."""
    ok: bool
    """Whether it is as it should be."""
    detail: str
    """What was found."""
    fix: str
    """What to do or to type; empty when there is nothing to do."""


def check_python() -> Check:
    """Check the version of Python."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    ok = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check("python", ok, found, "" if ok else "use Python 3.11, 3.12 or 3.13")


def check_first_party() -> Check:
    """Check that our package names resolve inside the repository and nobody else owns them."""
    owners = packages_distributions()
    wrong = []
    for name in FIRST_PARTY:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or REPOSITORY not in origin.parents:
            wrong.append(f"{name} is {origin}")
        wrong += [f"{owner} owns {name} as well" for owner in owners.get(name, []) if owner != "stope"]
    detail = "; ".join(wrong) or f"{', '.join(FIRST_PARTY)} in {REPOSITORY}"
    return Check(
        "imports",
        not wrong,
        detail,
        "pip uninstall what owns the name, or run from the checkout" if wrong else "",
    )


def check_torch() -> Check:
    """Check torch, and whether the processor multiplies bfloat16 by itself."""
    if importlib.util.find_spec("torch") is None:
        return Check("torch", False, "not installed", "pip install -c constraints.txt -e '.[cpu]'")
    flags = _processor_flags()
    fast = [flag for flag in _BF16_FLAGS if flag in flags]
    detail = f"{version('torch')}, bfloat16 on the processor: {', '.join(fast) or 'no'}"
    return Check("torch", True, detail, "")


def _processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}


def check_faiss() -> Check:
    """Check that faiss imports, and which of its two distributions owns it."""
    try:
        import faiss
    except ImportError as error:
        return Check("faiss", False, str(error), "pip install -c constraints.txt -e '.[cpu]' (or '.[gpu]')")
    owners = sorted(set(packages_distributions().get("faiss", [])))
    ok = len(owners) <= 1
    fix = "" if ok else "pip uninstall one of the two, then reinstall the other"
    return Check("faiss", ok, f"{faiss.__version__} from {', '.join(owners) or 'a source build'}", fix)


def check_ray() -> Check:
    """Check the version of Ray."""
    try:
        found = version("ray")
    except PackageNotFoundError:
        return Check("ray", False, "not installed", "pip install -c constraints.txt -e '.[cpu]'")
    ok = found.startswith(_RAY_SERIES)
    return Check(
        "ray", ok, found, "" if ok else f"install ray {_RAY_SERIES}x: pip install -c constraints.txt -e ."
    )


def check_memory() -> Check:
    """Check that there is memory for an embedded cluster and a small model."""
    free, total = available_memory_bytes() / _GIB, total_memory_bytes() / _GIB
    ok = free >= 3
    detail = f"{free:.1f} of {total:.1f} GiB free, {num_cores()} cores"
    return Check("memory", ok, detail, "" if ok else "close other programs: 3 GiB are needed")


def check_shared_memory() -> Check:
    """Check the size of /dev/shm, where Ray keeps its objects."""
    free = free_shared_memory_bytes() / _GIB
    ok = free >= 0.5 or not sys.platform.startswith("linux")
    fix = "" if ok else "start the container with --shm-size=2g; Ray falls back to the disk and is slow"
    return Check("shared memory", ok, f"{free:.1f} GiB free in {SHARED_MEMORY}", fix)


def check_disk(storage: str) -> Check:
    """Check the room where artifacts are written."""
    scheme = urlsplit(storage).scheme if "://" in storage else ""
    if scheme:
        return Check("storage", True, f"{storage} (an object store: not measured)", "")
    path = Path(storage).expanduser().resolve()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(there).free / _GIB
    ok = free >= 5
    fix = "" if ok else "free space, or point `storage` of the definition elsewhere: 5 GiB are needed"
    return Check("storage", ok, f"{free:.0f} GiB free at {path}", fix)


CHECKS: dict[str, Callable[[], Check]] = {
    "python": check_python,
    "imports": check_first_party,
    "torch": check_torch,
    "faiss": check_faiss,
    "ray": check_ray,
    "memory": check_memory,
    "shared memory": check_shared_memory,
}


def run_checks(storage: str) -> list[Check]:
    """Run every check.

    Args:
        storage: Where the definition keeps artifacts.
    """
    return [*(check() for check in CHECKS.values()), check_disk(storage)]
