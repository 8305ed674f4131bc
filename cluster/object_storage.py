"""Objects of a bucket through obstore, and this node's cache of those that are needed as files."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UserError
from cluster.local_storage import TEMPORARY_PREFIX, MissingObject, checked_key, explain_disk_errors

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

PIECE_BYTES = 64 * 2**20
"""Of a file that is downloaded. The time that a request may take counts for each piece, not for the whole."""


def cache_directory() -> Path:
    """Return this node's folder for downloaded objects: ``$STOPE_CACHE_DIR``, else ``~/.cache/stope``."""
    chosen = os.environ.get("STOPE_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stope"


class ObjectStorage:
    """Objects of a bucket below one prefix; credentials stay in the environment and are never pickled.

    Args:
        uri: ``s3://bucket/prefix``, ``gs://...`` or ``az://...``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._store = _connect(self.uri)

    def __reduce__(self) -> tuple[type["ObjectStorage"], tuple[str]]:
        return ObjectStorage, (self.uri,)

    def locate(self, key: str) -> str:
        """Return where ``key`` lives, for messages."""
        return f"{self.uri}/{checked_key(key, empty=True)}".rstrip("/")

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        import obstore.exceptions

        try:
            yield
        except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
            raise MissingObject(self.locate(key)) from error
        except obstore.exceptions.AlreadyExistsError:
            raise
        except (obstore.exceptions.BaseError, PermissionError) as error:
            raise UserError(
                "the object store refused or did not answer",
                where=self.locate(key),
                got=" ".join(str(error).split())[:400],
                fix="check the bucket's name, and the credentials, region and endpoint of the environment",
            ) from error

    def write(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key`` in one PUT, replacing what is there."""
        with self._explained(key):
            # Multipart uploads would leave parts behind when the process is killed; a shard fits one PUT.
            self._store.put(checked_key(key), data, use_multipart=False)

    def create(self, key: str, data: bytes) -> bool:
        """Store ``data`` only if nobody has stored ``key`` before; return whether it was stored."""
        import obstore.exceptions

        try:
            with self._explained(key):
                self._store.put(checked_key(key), data, mode="create", use_multipart=False)
        except obstore.exceptions.AlreadyExistsError:
            # A PUT whose answer was lost is sent again and then meets its own object.
            return self.read(key) == data
        return True

    def read(self, key: str) -> bytes:
        """Return the bytes of ``key``.

        Raises:
            MissingObject: There is none.
        """
        with self._explained(key):
            return bytes(self._store.get(checked_key(key)).bytes())

    def exists(self, key: str) -> bool:
        """Return whether ``key`` is stored."""
        try:
            with self._explained(key):
                self._store.head(checked_key(key))
        except MissingObject:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        """Return the keys in the folder ``prefix`` and all below it, sorted.

        Empty objects are left out: other clients, Ray Train's among them, mark folders with one, whose key reads like
        the folder's own.
        """
        with self._explained(prefix):
            batches = self._store.list(checked_key(prefix, empty=True) or None)
            return sorted(meta["path"] for batch in batches for meta in batch if meta["size"])

    def delete(self, prefix: str) -> None:
        """Remove the object ``prefix``, or the folder of that name and all below it; absent is fine."""
        for key in [*self.list(prefix), checked_key(prefix)]:
            try:
                with self._explained(key):
                    self._store.delete(key)
            except MissingObject:
                continue

    def put_file(self, key: str, path: Path) -> None:
        """Store a copy of the local file ``path`` under ``key``, in parts when it is large."""
        with self._explained(key):
            self._store.put(checked_key(key), path)

    def get_file(self, key: str) -> Path:
        """Return a copy of ``key`` in this node's cache, downloaded unless this very version is there.

        Raises:
            MissingObject: There is none.
        """
        with self._explained(key):
            meta = self._store.head(checked_key(key))
        version = f"{self.locate(key)}\n{meta['e_tag']}\n{meta['size']}"
        name = hashlib.sha256(version.encode()).hexdigest()[:32]
        target = cache_directory() / "objects" / name[:2] / name
        if target.is_file() and target.stat().st_size == meta["size"]:
            return target
        temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        with explain_disk_errors(target):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with self._explained(key), temporary.open("xb") as file:
                    for start in range(0, meta["size"], PIECE_BYTES):
                        file.write(self._piece(key, start, meta))
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        return target

    def _piece(self, key: str, start: int, meta: "ObjectMeta") -> bytes:
        """Return the bytes from ``start`` on of the version ``meta`` of an object, at most PIECE_BYTES."""
        stop = min(start + PIECE_BYTES, meta["size"])
        options: GetOptions = {"range": (start, stop)}
        if meta["e_tag"] is not None:
            options["if_match"] = meta["e_tag"]
        return bytes(self._store.get(checked_key(key), options=options).bytes())


def _connect(uri: str) -> "ObjectStore":
    from datetime import timedelta

    try:
        from obstore.store import from_url
    except ImportError as error:
        raise UserError("obstore is not installed", where=uri, fix="pip install obstore") from error
    # The endpoint decides: plain http is refused by the client unless allowed, and only tests and
    # stores inside a cluster speak it.
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    return from_url(
        uri,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": "5s",
            "timeout": "120s",
        },
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
    )
