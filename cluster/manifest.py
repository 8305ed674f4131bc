"""What an artifact is made of, as its receipts and its manifest record it."""

import hashlib
import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, JsonValue


def fingerprint(identity: Mapping[str, object]) -> str:
    """Return 20 hex digits that stand for ``identity``.

    Args:
        identity: JSON values only; the order of keys does not matter.

    Raises:
        TypeError: A value is not JSON.
        ValueError: A number is not finite.
    """
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Record):
    """One finished Parquet file of a table."""

    table: str
    """Name of the table within its artifact."""
    index: int
    """Position in the table, from 0."""
    path: str
    """File, relative to the artifact's folder."""
    rows: int
    """Number of rows."""
    sha256: str
    """Digest of the file, 64 hex digits."""
    num_bytes: int
    """Size of the file."""
    counters: dict[str, int] = {}
    """What was dropped or noted while this shard was made, by reason."""
    seconds: float = 0.0
    """Wall time it took to make."""


class ShardReceipt(_Record):
    """What is written beside a shard once it is stored: the receipt is what makes the shard finished."""

    shard: Shard
    """The shard."""
    schema_name: str
    """Name that the Arrow schema carries."""
    schema_version: int
    """Version that the Arrow schema carries."""


class StoredFile(_Record):
    """One file of an artifact that is not a table: a model, an index."""

    name: str
    """Name within the artifact, with slashes."""
    path: str
    """File, relative to the artifact's folder."""
    sha256: str
    """Digest of the file, 64 hex digits."""
    num_bytes: int
    """Size of the file."""


class TableManifest(_Record):
    """A complete table."""

    schema_name: str
    """Name that the Arrow schema carries."""
    schema_version: int
    """Version that the Arrow schema carries."""
    shards: list[Shard]
    """In order of their index, none missing."""


class Manifest(_Record):
    """The commit record of an artifact; readers open only what it lists."""

    stage: str
    """Stage that made it."""
    label: str
    """What a person recognises it by."""
    fingerprint: str
    """Hash of everything the content depends on."""
    stage_version: int
    """Version of the stage's code that decides the content."""
    tables: dict[str, TableManifest]
    """Tables by name."""
    files: list[StoredFile]
    """Other files, sorted by name."""
    identity: dict[str, JsonValue]
    """What the fingerprint was made of."""
    inputs: dict[str, str]
    """Name of an input -> key of its artifact."""
    counters: dict[str, int]
    """What was dropped, by reason: the shards' sums and the stage's own."""
    summary: dict[str, JsonValue]
    """Small facts for reports."""
    seconds: float
    """Wall time of the run that committed."""
    code_version: str
    """Installed version of the program."""
    created_at: str
    """UTC, ISO 8601."""

    @property
    def key(self) -> str:
        """Where the artifact lives under the storage root."""
        return f"{self.stage}/{self.label}-{self.fingerprint}"
