"""The artifact store: what was computed, found by fingerprint, listed and collected.

``<root>/<stage>/<label>-<fingerprint>/`` holds ``<table>-00003.<attempt>.parquet`` with its
receipt (``.json``), ``files/<attempt>/...`` and, last of all, ``manifest.json``. For a reader nothing
exists without a manifest.
"""

import re
from collections.abc import Iterable

from cluster.committed import Artifact, find_committed
from cluster.definition import load_definition
from cluster.errors import UserError
from cluster.manifest import Manifest, Shard, StoredFile, TableManifest, fingerprint
from cluster.storage import open_storage
from cluster.writer import ArtifactWriter

__all__ = [
    "Artifact",
    "ArtifactStore",
    "ArtifactWriter",
    "Manifest",
    "Shard",
    "StoredFile",
    "TableManifest",
    "fingerprint",
]

_NOT_ARTIFACTS = ("runs", "releases", "code", "scores")
_NAME = re.compile(r".+-[0-9a-f]{20}")
"""``label-fp``, an artifact's folder within that of its stage: other people's folders stay."""


def open_store(definition: str, storage: str | None) -> "ArtifactStore":
    """Return the store of a cluster definition, by its name or file, or the one at the root ``storage``."""
    return ArtifactStore(storage or load_definition(definition).storage)


class ArtifactStore:
    """All artifacts below one storage root.

    Args:
        root: URI of the storage.
    """

    def __init__(self, root: str) -> None:
        self.storage = open_storage(root)

    def find(self, stage: str, label: str, fp: str) -> Artifact | None:
        """Return the committed artifact of this fingerprint, if any."""
        return find_committed(self.storage, f"{stage}/{label}-{fp}")

    def get(self, key: str) -> Artifact:
        """Return the committed artifact ``stage/label-fp``.

        Raises:
            UserError: It is not there, or not committed.
        """
        artifact = find_committed(self.storage, key)
        if artifact is None:
            raise UserError(
                "no such artifact", where=self.storage.locate(key), fix="run the recipe that makes it again"
            )
        return artifact

    def open(self, stage: str, label: str, fp: str) -> ArtifactWriter:
        """Return a writer with an attempt of its own; shards of earlier attempts count as finished."""
        return ArtifactWriter(self.storage, stage, label, fp)

    def _folders(self) -> dict[str, bool]:
        """Every artifact key -> whether it is committed."""
        folders: dict[str, bool] = {}
        for key in self.storage.list(""):
            parts = key.split("/")
            if len(parts) >= 3 and parts[0] not in _NOT_ARTIFACTS and _NAME.fullmatch(parts[1]):
                folder = "/".join(parts[:2])
                folders[folder] = folders.get(folder, False) or parts[2:] == ["manifest.json"]
        return folders

    def collect(self, keep: Iterable[str], dry_run: bool) -> list[str]:
        """Remove the artifacts that nothing kept reaches, finished or not.

        Args:
            keep: Keys (``stage/label-fp``) of the roots; their inputs are kept as well.
            dry_run: Only say what would go.

        Returns:
            The keys removed, sorted.
        """
        folders = self._folders()
        inputs = {made.key: made.inputs.values() for made in self.list()}
        kept: set[str] = set()
        waiting = list(keep)
        while waiting:
            key = waiting.pop()
            if key not in kept:
                kept.add(key)
                waiting += inputs.get(key, [])
        doomed = sorted(key for key in folders if key not in kept)
        if not dry_run:
            for key in doomed:
                # The manifest goes first: a removal cut short leaves nothing that looks complete.
                self.storage.delete(f"{key}/manifest.json")
                self.storage.delete(key)
        return doomed

    def list(self) -> list[Manifest]:
        """Return the manifests of all committed artifacts, oldest first."""
        found = (find_committed(self.storage, key) for key, done in self._folders().items() if done)
        return sorted((artifact.manifest for artifact in found if artifact), key=lambda made: made.created_at)
