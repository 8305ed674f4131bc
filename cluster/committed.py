"""A committed artifact, open for reading; every byte is checked against the manifest."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cluster.errors import UserError
from cluster.local_storage import explain_disk_errors
from cluster.manifest import Manifest, Shard, StoredFile, TableManifest, fingerprint
from cluster.object_storage import cache_directory
from cluster.storage import MissingObject, Storage

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Artifact:
    """A committed artifact, open for reading.

    Args:
        storage: Where it is stored.
        manifest: Its manifest.
    """

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self.storage = storage
        self.manifest = manifest
        self.key = manifest.key
        self.uri = storage.locate(self.key)
        self._verified: set[str] = set()

    def _table(self, table: str) -> TableManifest:
        if table not in self.manifest.tables:
            raise UserError(
                "the artifact has no such table",
                where=self.key,
                got=table,
                expected=", ".join(self.manifest.tables),
            )
        return self.manifest.tables[table]

    def num_rows(self, table: str) -> int:
        """Return the number of rows of ``table``."""
        return sum(shard.rows for shard in self._table(table).shards)

    def num_shards(self, table: str) -> int:
        """Return the number of shards of ``table``."""
        return len(self._table(table).shards)

    def first_rows(self, table: str) -> "np.ndarray":
        """Return int64 [num_shards + 1]: the row each shard begins with, and the total."""
        import numpy as np

        rows = [shard.rows for shard in self._table(table).shards]
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(rows, np.int64))])

    def read_shard(self, table: str, index: int, columns: Sequence[str] | None = None) -> "pa.Table":
        """Return one shard, after checking that its bytes are those that were committed.

        Raises:
            UserError: The file is gone or differs from the manifest.
        """
        return read_checked(self.storage, self.key, self._table(table).shards[index], columns)

    def read(self, table: str, columns: Sequence[str] | None = None) -> "pa.Table":
        """Return a whole table; meant for tables that fit memory."""
        import pyarrow as pa

        shards = range(self.num_shards(table))
        return pa.concat_tables([self.read_shard(table, index, columns) for index in shards])

    def file(self, name: str) -> Path:
        """Return a local path of the file ``name``, checked against the manifest once per process.

        Raises:
            UserError: There is no such file, or it differs from the manifest.
        """
        for stored in self.manifest.files:
            if stored.name == name:
                return self._verify(stored)
        names = ", ".join(stored.name for stored in self.manifest.files)
        raise UserError("the artifact has no such file", where=self.key, got=name, expected=names)

    def directory(self, prefix: str) -> Path:
        """Return a local folder that holds the files below ``prefix`` under their own names."""
        head = f"{prefix.strip('/')}/"
        chosen = [stored for stored in self.manifest.files if stored.name.startswith(head)]
        if not chosen:
            raise UserError("the artifact has no such folder of files", where=self.key, got=prefix)
        paths = {stored.name.removeprefix(head): self._verify(stored) for stored in chosen}
        first = chosen[0].name.removeprefix(head)
        folder = Path(str(paths[first]).removesuffix(first))
        if all(path == folder / name for name, path in paths.items()):
            return folder
        digest = fingerprint({"key": self.uri, "files": {stored.name: stored.sha256 for stored in chosen}})
        return _assemble(cache_directory() / "folders" / digest, paths)

    def _verify(self, stored: StoredFile) -> Path:
        try:
            path = self.storage.get_file(f"{self.key}/{stored.path}")
        except MissingObject as error:
            raise _corrupt(self.storage, self.key, stored.path, "the file is gone") from error
        if stored.name not in self._verified:
            if path.stat().st_size != stored.num_bytes or file_sha256(path) != stored.sha256:
                raise _corrupt(
                    self.storage, self.key, stored.path, f"{path.stat().st_size} bytes of another sha256"
                )
            self._verified.add(stored.name)
        return path


def read_checked(
    storage: Storage, key: str, shard: Shard, columns: Sequence[str] | None = None
) -> "pa.Table":
    """Return the rows of a stored shard, after checking its bytes against its sha256.

    Args:
        storage: Where it is stored.
        key: Of the artifact, committed or in the making.
        shard: Path and sha256.
        columns: Which to read; None for all.

    Raises:
        UserError: The file is gone or has other bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = storage.read(f"{key}/{shard.path}")
    except MissingObject as error:
        raise _corrupt(storage, key, shard.path, "the file is gone") from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise _corrupt(storage, key, shard.path, f"{len(content)} bytes of another sha256")
    return pq.read_table(pa.BufferReader(content), columns=None if columns is None else list(columns))


def _corrupt(storage: Storage, key: str, path: str, got: str) -> UserError:
    return UserError(
        "a file differs from what the artifact recorded",
        where=storage.locate(f"{key}/{path}"),
        got=got,
        expected="the bytes that were written",
        fix=f"delete {storage.locate(key)} and run again (only this stage is recomputed)",
    )


def _assemble(target: Path, paths: Mapping[str, Path]) -> Path:
    if target.is_dir():
        return target
    building = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(6)}"
    with explain_disk_errors(target):
        try:
            for name, path in paths.items():
                (building / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.link(path, building / name)
            building.rename(target)
        except OSError:
            # Another process assembled the same folder first.
            if not target.is_dir():
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def file_sha256(path: Path) -> str:
    """Return the digest of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_committed(storage: Storage, key: str) -> Artifact | None:
    """Return the committed artifact at ``key`` (``stage/label-fp``), if any.

    Raises:
        UserError: Its manifest cannot be read.
    """
    try:
        content = storage.read(f"{key}/manifest.json")
    except MissingObject:
        return None
    try:
        return Artifact(storage, Manifest.model_validate_json(content))
    except ValidationError as error:
        raise UserError(
            "the artifact's manifest cannot be read",
            where=storage.locate(f"{key}/manifest.json"),
            got=f"{error.error_count()} errors, first: {error.errors()[0]['msg']}",
            fix=f"delete {storage.locate(key)} and run again",
        ) from error
