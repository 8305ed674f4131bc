"""Objects as files below one folder, each written whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from cluster.errors import UserError

TEMPORARY_PREFIX = ".tmp-"


class MissingObject(KeyError):  # noqa: N818
    """No object has this key."""

    def __str__(self) -> str:
        return f"no such object: {self.args[0]}"


def checked_key(key: str, empty: bool = False) -> str:
    """Return ``key`` in its one spelling, refusing keys that leave the root."""
    parts = PurePosixPath(key).parts
    clean = "/".join(parts)
    if clean.startswith("/") or ".." in parts or (not clean and not empty):
        raise ValueError(f"not a storage key: {key!r}")
    return clean


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk under ``path`` into a ``UserError``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                "the disk is full",
                where=str(path),
                got=f"{_free_bytes(path) / 2**20:.0f} MiB free",
                fix="free space, run `stope artifacts gc`, or point `storage` of the definition elsewhere",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UserError(
                "cannot write here",
                where=str(path),
                got=str(error),
                fix="point `storage` of the definition elsewhere",
            ) from error
        raise


def _free_bytes(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LocalStorage:
    """Objects as files below one folder.

    Args:
        path: The folder; made at the first write.
    """

    def __init__(self, path: str) -> None:
        self.root = Path(path).expanduser().resolve()
        self.uri = str(self.root)

    def locate(self, key: str) -> str:
        """Return where ``key`` lives, for messages."""
        return str(self.root / checked_key(key, empty=True))

    @contextmanager
    def _temporary(self, target: Path) -> Iterator[Path]:
        temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        with explain_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(target.parent)

    def write(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``, replacing what is there in one step."""
        target = self.root / checked_key(key)
        with self._temporary(target) as temporary:
            _write_synced(temporary, data)
            temporary.replace(target)

    def create(self, key: str, data: bytes) -> bool:
        """Store ``data`` only if nobody has stored ``key`` before; return whether it was stored."""
        target = self.root / checked_key(key)
        with self._temporary(target) as temporary:
            _write_synced(temporary, data)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def read(self, key: str) -> bytes:
        """Return the bytes of ``key``.

        Raises:
            MissingObject: There is none.
        """
        return self.get_file(key).read_bytes()

    def exists(self, key: str) -> bool:
        """Return whether ``key`` is stored."""
        return (self.root / checked_key(key)).is_file()

    def list(self, prefix: str = "") -> list[str]:
        """Return the keys in the folder ``prefix`` and all below it, sorted."""
        keys = []
        for folder, _, names in os.walk(self.root / checked_key(prefix, empty=True)):
            relative = Path(folder).relative_to(self.root)
            keys += [(relative / name).as_posix() for name in names if not name.startswith(TEMPORARY_PREFIX)]
        return sorted(keys)

    def delete(self, prefix: str) -> None:
        """Remove the object ``prefix``, or the folder of that name and all below it; absent is fine."""
        target = self.root / checked_key(prefix)
        with explain_disk_errors(target):
            if target.is_dir() and not target.is_symlink():
                # A writer that is still at work may add a file meanwhile; the next collection takes it.
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)

    def put_file(self, key: str, path: Path) -> None:
        """Store a copy of the local file ``path`` under ``key``."""
        target = self.root / checked_key(key)
        with self._temporary(target) as temporary:
            shutil.copyfile(path, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)

    def get_file(self, key: str) -> Path:
        """Return the file that holds ``key``; it must not be written to.

        Raises:
            MissingObject: There is none.
        """
        path = self.root / checked_key(key)
        if not path.is_file():
            raise MissingObject(str(path))
        return path


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
