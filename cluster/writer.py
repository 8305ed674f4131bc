"""An artifact in the making: shards with receipts, files, and the manifest that commits them."""

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue, TypeAdapter

from cluster.committed import Artifact, file_sha256, find_committed, read_checked
from cluster.errors import UserError
from cluster.manifest import Manifest, Shard, ShardReceipt, StoredFile, TableManifest
from cluster.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

_JSON_OBJECT = TypeAdapter(dict[str, JsonValue])


def _installed_version() -> str:
    try:
        return version("stope")
    except PackageNotFoundError:
        return "0"


class ArtifactWriter:
    """An artifact in the making; travels to workers, and all copies of one writer share its attempt.

    Args:
        storage: Where it is stored.
        stage: Stage that makes it.
        label: What a person recognises it by.
        fp: Its fingerprint.
    """

    def __init__(self, storage: Storage, stage: str, label: str, fp: str) -> None:
        self.storage = storage
        self.stage, self.label, self.fingerprint = stage, label, fp
        self.key = f"{stage}/{label}-{fp}"
        # Attempts sort by the time they began, so the lowest is the first.
        self.attempt = f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(3)}"

    @property
    def scratch_uri(self) -> str:
        """Folder for what only this artifact's making needs; removed after the commit."""
        return self.storage.locate(f"{self.key}/scratch")

    def write_shard(
        self,
        table: str,
        index: int,
        data: "pa.Table",
        counters: Mapping[str, int] | None = None,
        seconds: float = 0.0,
    ) -> Shard:
        """Store one shard, then its receipt.

        Args:
            table: Name of the table.
            index: Position of the shard, from 0.
            data: Its rows; the schema's metadata carries ``stope.table`` and ``stope.version``.
            counters: What was dropped while it was made, by reason.
            seconds: Wall time it took.
        """
        content = _parquet_bytes(data)
        digest = hashlib.sha256(content).hexdigest()
        # A task that is retried within one attempt may produce other bytes: the digest keeps a receipt and
        # its bytes together.
        stem = f"{table}-{index:05d}.{self.attempt}-{digest[:8]}"
        shard = Shard(
            table=table,
            index=index,
            path=f"{stem}.parquet",
            rows=data.num_rows,
            sha256=digest,
            num_bytes=len(content),
            counters=dict(counters or {}),
            seconds=seconds,
        )
        metadata = data.schema.metadata or {}
        receipt = ShardReceipt(
            shard=shard,
            schema_name=metadata.get(b"stope.table", table.encode()).decode(),
            schema_version=int(metadata.get(b"stope.version", b"0")),
        )
        self.storage.write(f"{self.key}/{stem}.parquet", content)
        self.storage.write(f"{self.key}/{stem}.json", receipt.model_dump_json().encode())
        return shard

    def discard_shards(self) -> None:
        """Remove the shards of this attempt, receipts first; what other attempts made stays."""
        for key in self.storage.list(self.key):
            if f".{self.attempt}-" in key.rpartition("/")[2]:
                self.storage.delete(key)

    def _receipts(self, table: str) -> dict[int, ShardReceipt]:
        pattern = re.compile(re.escape(table) + r"-\d{5,}\.[0-9a-f]+-[0-9a-f]{8}\.json")
        names = {key.removeprefix(f"{self.key}/") for key in self.storage.list(self.key)}
        wanted = sorted(
            name
            for name in names
            if pattern.fullmatch(name) and f"{name.removesuffix('.json')}.parquet" in names
        )
        with ThreadPoolExecutor(16) as readers:
            contents = readers.map(lambda name: self.storage.read(f"{self.key}/{name}"), wanted)
            found: dict[int, ShardReceipt] = {}
            for content in contents:
                receipt = ShardReceipt.model_validate_json(content)
                found.setdefault(receipt.shard.index, receipt)
        return found

    def finished(self, table: str) -> dict[int, Shard]:
        """Return the shards that have a receipt, by index; of several attempts the first counts."""
        return {index: receipt.shard for index, receipt in sorted(self._receipts(table).items())}

    def missing(self, table: str, num_shards: int) -> list[int]:
        """Return which of ``num_shards`` indices have no receipt."""
        done = self._receipts(table)
        return [index for index in range(num_shards) if index not in done]

    def read_finished(self, shard: Shard) -> "pa.Table":
        """Return the rows of a finished shard of an artifact that is not committed yet."""
        return read_checked(self.storage, self.key, shard)

    def num_finished(self) -> int:
        """Return how many shards of all tables have a receipt."""
        receipt = re.compile(r"\w+-\d{5,}\.[0-9a-f]+-[0-9a-f]{8}\.json")
        return len(
            {
                key.split("/")[-1].split(".")[0]
                for key in self.storage.list(self.key)
                if receipt.fullmatch(key.split("/")[-1])
            }
        )

    def put_file(self, name: str, path: Path) -> StoredFile:
        """Store a local file as ``name``; it is committed only by a copy of this very writer."""
        stored = StoredFile(
            name=name,
            path=f"files/{self.attempt}/{name}",
            sha256=file_sha256(path),
            num_bytes=path.stat().st_size,
        )
        self.storage.put_file(f"{self.key}/{stored.path}", path)
        self.storage.write(
            f"{self.key}/receipts/{self.attempt}/{name}.json", stored.model_dump_json().encode()
        )
        return stored

    def put_directory(self, prefix: str, path: Path) -> list[StoredFile]:
        """Store every file below the local folder ``path`` as ``prefix/<relative name>``."""
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [
            self.put_file(f"{prefix.strip('/')}/{file.relative_to(path).as_posix()}", file) for file in files
        ]

    def commit(
        self,
        *,
        stage_version: int,
        num_shards: Mapping[str, int],
        identity: Mapping[str, object],
        inputs: Mapping[str, str],
        summary: Mapping[str, object] | None = None,
        counters: Mapping[str, int] | None = None,
        seconds: float = 0.0,
    ) -> Artifact:
        """Write the manifest, unless another writer has: then return what that one committed.

        Args:
            stage_version: Version of the stage.
            num_shards: Table -> shards that a complete table has, at least one.
            identity: What the fingerprint was made of.
            inputs: Name -> key of an input's artifact.
            summary: Small JSON facts.
            counters: What was dropped, by reason, beyond the shards' own counters.
            seconds: Wall time of the stage.

        Raises:
            UserError: A shard is missing.
        """
        committed = find_committed(self.storage, self.key)
        if committed is not None:
            return committed
        tables = {table: self._complete(table, count) for table, count in num_shards.items()}
        total = Counter(counters or {})
        for made in tables.values():
            for shard in made.shards:
                total.update(shard.counters)
        receipts = [
            key for key in self.storage.list(f"{self.key}/receipts/{self.attempt}") if key.endswith(".json")
        ]
        files = [StoredFile.model_validate_json(self.storage.read(key)) for key in receipts]
        manifest = Manifest(
            stage=self.stage,
            label=self.label,
            fingerprint=self.fingerprint,
            stage_version=stage_version,
            tables=tables,
            files=sorted(files, key=lambda stored: stored.name),
            identity=_JSON_OBJECT.validate_python(dict(identity)),
            inputs=dict(inputs),
            counters=dict(sorted(total.items())),
            summary=_JSON_OBJECT.validate_python(dict(summary or {})),
            seconds=seconds,
            code_version=_installed_version(),
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        content = manifest.model_dump_json(indent=1).encode()
        if not self.storage.create(f"{self.key}/manifest.json", content):
            adopted = find_committed(self.storage, self.key)
            if adopted is None:
                raise UserError(
                    "the artifact was removed while it was being committed",
                    where=self.storage.locate(self.key),
                    fix="run again",
                )
            return adopted
        self._sweep(manifest)
        return Artifact(self.storage, manifest)

    def _complete(self, table: str, num_shards: int) -> TableManifest:
        found = self._receipts(table)
        absent = [index for index in range(num_shards) if index not in found]
        if absent or num_shards < 1:
            raise UserError(
                "a table is not complete",
                where=f"{self.key}, table {table}",
                got=f"{num_shards - len(absent)} of {num_shards} shards; missing {absent[:10]}",
                expected="every shard, and at least one",
                fix="run the stage again: only the missing shards are made",
            )
        chosen = [found[index] for index in range(num_shards)]
        return TableManifest(
            schema_name=chosen[0].schema_name,
            schema_version=chosen[0].schema_version,
            shards=[receipt.shard for receipt in chosen],
        )

    def _sweep(self, manifest: Manifest) -> None:
        listed = {f"{self.key}/manifest.json"}
        listed |= {f"{self.key}/{stored.path}" for stored in manifest.files}
        for made in manifest.tables.values():
            listed |= {f"{self.key}/{shard.path}" for shard in made.shards}
        self.storage.delete(f"{self.key}/scratch")
        for key in self.storage.list(self.key):
            if key not in listed:
                self.storage.delete(key)


def _parquet_bytes(data: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Dictionaries of embedding components only cost time: no two rows share a vector.
    plain = [field.name for field in data.schema if not pa.types.is_fixed_size_list(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink, compression="zstd", use_dictionary=plain)
    return sink.getvalue().to_pybytes()
