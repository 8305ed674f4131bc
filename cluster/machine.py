"""What this machine, or the container around the process, really has, and what a session takes of it."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from cluster.definition import WorkerGroup
from cluster.errors import UserError

_CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


MAX_OBJECT_STORE_BYTES = 2 * 2**30
MIN_OBJECT_STORE_BYTES = 80 * 2**20  # Ray refuses less than 75 MiB.
# Longest tail that Ray adds to its folder for a socket, which must stay under 107 bytes in all.
_SOCKET_TAIL = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")


def num_cores() -> int:
    """Return the cores this process may use: its affinity, cut by the container's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _first_words(_CGROUP / "cpu.max")
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, int(quota[0]) // int(quota[1]))
    return max(1, cores)


def total_memory_bytes() -> int:
    """Return the memory of the machine, or the container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _first_words(_CGROUP / "memory.max")
    return min(total, int(limit[0])) if limit and limit[0].isdigit() else total


def available_memory_bytes() -> int:
    """Return the memory that can be taken without swapping, within the container's limit."""
    available = total = total_memory_bytes()
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = min(total, int(fields["MemAvailable"].split()[0]) * 1024)
    used = _first_words(_CGROUP / "memory.current")
    limit = _first_words(_CGROUP / "memory.max")
    if used and limit and limit[0].isdigit():
        available = min(available, int(limit[0]) - int(used[0]))
    return max(0, available)


def free_shared_memory_bytes() -> int:
    """Return the free bytes of ``/dev/shm``, 0 where there is none."""
    if not SHARED_MEMORY.is_dir():
        return 0
    stat = os.statvfs(SHARED_MEMORY)
    return stat.f_bavail * stat.f_frsize


def _first_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def local_limits(group: WorkerGroup) -> tuple[float, int]:
    """Return the cores and the bytes of memory that the embedded cluster may use.

    Raises:
        UserError: The definition names more than the machine has.
    """
    cores, total = num_cores(), total_memory_bytes()
    cpus = cores if group.cpus == "auto" else group.cpus
    memory = int(available_memory_bytes() * 0.8) if group.memory == "auto" else group.memory
    for what, wanted, there in (("cpus", cpus, cores), ("memory", memory, total)):
        if wanted > there:
            raise UserError(
                "the machine has less than the definition says",
                where=f"workers.{group.name}.{what}",
                got=str(wanted),
                expected=f"at most {there}",
                fix=f"write {what}: auto",
            )
    return float(max(1, int(cpus))), memory


def object_store_bytes(memory: int) -> int:
    """Return the size of Ray's object store: 30% of ``memory``, at most 2 GiB and what /dev/shm has free."""
    wanted = min(int(memory * 0.3), MAX_OBJECT_STORE_BYTES)
    shared = int(free_shared_memory_bytes() * 0.9)
    if shared >= MIN_OBJECT_STORE_BYTES:
        wanted = min(wanted, shared)
    return max(wanted, MIN_OBJECT_STORE_BYTES)


def make_session_directory() -> Path:
    """Make this session's folder, and remove those that killed sessions left behind."""
    base = Path(tempfile.gettempdir())
    name = f"stope-{os.getuid()}"
    if len(str(base / name / "1234567-abcd")) + _SOCKET_TAIL > 100:
        base = Path("/tmp")  # noqa: S108 -- sockets do not fit below a longer one
    parent = base / name
    parent.mkdir(mode=0o700, exist_ok=True)
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(
            "the folder for temporary files is not private",
            where=str(parent),
            expected="a folder of yours that nobody else may enter",
            fix=f"remove {parent}, or set TMPDIR",
        )
    for old in parent.iterdir():
        process = old.name.partition("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
