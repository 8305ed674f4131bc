"""Embeddings that an earlier artifact holds already: found by the hash of a text, taken instead of made again.

Every encode artifact carries an index: files ``keys/<bucket>.npy``, uint64 [3, N], sorted by a 128-bit hash of the
rendered text and its kind; the third row says where the embedding lies (`place_codes`). Workers map the files into
memory, so a lookup touches a few pages, and nobody holds the keys of a corpus: 24 bytes a text on disk.

Shapes: N texts, M embeddings (several a text where documents are chunked), D dimensions.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.committed import find_committed
from pipelines.keys import find_keys, sort_keys

TABLES = ("documents", "queries")
BUCKET_KEYS = 1 << 22
"""Keys of one bucket: what one task sorts, about 400 MB of memory with its copies."""
MAX_EARLIER = 4
"""Artifacts that one run takes embeddings from."""
MAX_SHARDS_READ = 32
"""Earlier shards read for one new shard. A corpus that only grew needs two or three; one that was shuffled would
need all, and reading a shard for the sake of a few texts takes longer than to embed them."""
_SHARD_BITS, _ROW_BITS = 31, 32


def place_codes(table: str, shard: int, first_rows: np.ndarray) -> np.ndarray:
    """Return uint64 [N]: table, shard and first row of each text's embeddings in one number."""
    base = np.uint64((TABLES.index(table) << _SHARD_BITS | shard) << _ROW_BITS)
    return base | first_rows.astype(np.uint64)


def places(codes_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return int64 [N] each: the table's number, the shard and the row of every code."""
    shards_N = (codes_N >> np.uint64(_ROW_BITS)).astype(np.int64)
    rows_N = (codes_N & np.uint64((1 << _ROW_BITS) - 1)).astype(np.int64)
    return shards_N >> _SHARD_BITS, shards_N & ((1 << _SHARD_BITS) - 1), rows_N


def buckets_of(high_N: np.ndarray, num_buckets: int) -> np.ndarray:
    """Return int64 [N]: the bucket of each key, rising with the key."""
    return ((high_N >> np.uint64(32)) * np.uint64(num_buckets) >> np.uint64(32)).astype(np.int64)


def choose_earlier(writer: ArtifactWriter, identity: Mapping[str, object]) -> list[str]:
    """Return the keys of the artifacts whose embeddings this one takes, best first; the same after a restart.

    The choice is stored beside the shards before the first of them is written: what was committed meanwhile does
    not change it. Of the artifacts with the same model, settings and libraries those of the same label come
    first, newer before older.

    Args:
        writer: The open artifact.
        identity: Of the step, as its manifest will record it.
    """
    stored = f"{writer.key}/scratch/earlier.json"
    if not writer.storage.exists(stored):
        manifests = []
        for name in writer.storage.list(writer.stage):
            key = name.removesuffix("/manifest.json")
            found = find_committed(writer.storage, key) if key != name and key != writer.key else None
            if found is not None and _is_alike(found.manifest.identity, identity) and _num_buckets(found):
                manifests.append(found.manifest)
        manifests.sort(key=lambda made: (made.label == writer.label, made.created_at, made.key), reverse=True)
        chosen = [made.key for made in manifests[:MAX_EARLIER]]
        # Of two runs at once the first decides.
        writer.storage.create(stored, json.dumps(chosen).encode())
    keys: list[str] = json.loads(writer.storage.read(stored))
    return keys


def _is_alike(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return _compared(one) == _compared(json.loads(json.dumps(other)))


def _compared(identity: Mapping[str, object]) -> dict[str, object]:
    config = identity.get("config")
    settings = dict(config) if isinstance(config, Mapping) else {}
    for name in ("splits", "reuse"):
        settings.pop(name, None)
    return {"config": settings, **{name: identity.get(name) for name in ("stage_version", "libraries")}}


def _num_buckets(artifact: Artifact) -> int:
    return sum(stored.name.startswith("keys/") for stored in artifact.manifest.files)


_maps: dict[tuple[str, str], np.ndarray] = {}


def _bucket(artifact: Artifact, bucket: int) -> np.ndarray:
    # Kept for the life of the process: checking a file's bytes costs more than all lookups of a shard.
    name = f"keys/{bucket:05d}.npy"
    if (artifact.uri, name) not in _maps:
        keys_3N: np.ndarray = np.load(artifact.file(name), mmap_mode="r")
        _maps[artifact.uri, name] = keys_3N
    return _maps[artifact.uri, name]


def find_places(artifact: Artifact, keys_2N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look texts up in the index of an artifact.

    Args:
        artifact: An encode artifact.
        keys_2N: uint64 [2, N], ``hash_keys`` of rendered texts.

    Returns:
        Which texts it holds, int64 [F] ascending, and their place codes, uint64 [F].
    """
    buckets_N = buckets_of(keys_2N[0], _num_buckets(artifact))
    found, codes = [], []
    for bucket in np.unique(buckets_N).tolist():
        keys_3K = _bucket(artifact, bucket)
        rows = np.flatnonzero(buckets_N == bucket)
        place = find_keys(keys_3K, keys_2N[:, rows])
        found.append(rows[place >= 0])
        codes.append(keys_3K[2, place[place >= 0]])
    rows_F = np.concatenate([np.zeros(0, np.int64), *found])
    order = np.argsort(rows_F, kind="stable")
    return rows_F[order], np.concatenate([np.zeros(0, np.uint64), *codes])[order]


def take_embeddings(artifact: Artifact, codes_F: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the embeddings at given places, from the MAX_SHARDS_READ shards that hold most of them.

    Args:
        artifact: An encode artifact.
        codes_F: uint64 [F], place codes.

    Returns:
        Which of the places were read, int64 [R] ascending; how many embeddings each has, int64 [R]; and the
        embeddings [M, D] in that order, of the artifact's own dtype. Without any, D is 0.
    """
    tables_F, shards_F, rows_F = places(codes_F)
    files, counts = np.unique(tables_F << _SHARD_BITS | shards_F, return_counts=True)
    chosen = np.sort(files[np.argsort(-counts, kind="stable")[:MAX_SHARDS_READ]])
    which, sizes, vectors = [], [], []
    for file in chosen.tolist():
        mine = np.flatnonzero((tables_F << _SHARD_BITS | shards_F) == file)
        table = TABLES[file >> _SHARD_BITS]
        shard = artifact.read_shard(table, file & ((1 << _SHARD_BITS) - 1))
        column = shard.column("embedding").combine_chunks()
        emb_KD = column.values.to_numpy().reshape(-1, column.type.list_size)
        starts, ends = run_bounds(shard.column("id").to_numpy())
        run = np.searchsorted(starts, rows_F[mine])
        which.append(mine)
        sizes.append(ends[run] - starts[run])
        vectors.append([emb_KD[starts[each] : ends[each]] for each in run.tolist()])
    if not which:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    where_R = np.concatenate(which)
    order = np.argsort(where_R, kind="stable")
    parts = [part for group in vectors for part in group]
    emb_MD = np.concatenate([parts[each] for each in order.tolist()])
    return where_R[order], np.concatenate(sizes)[order], emb_MD


def run_bounds(ids_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each run of equal ids starts and ends (half-open), int64 [N] each."""
    changes = np.flatnonzero(ids_M[1:] != ids_M[:-1]) + 1
    if not len(ids_M):
        return changes, changes
    return np.concatenate([[0], changes]), np.concatenate([changes, [len(ids_M)]])


def keys_name(writer: ArtifactWriter, table: str, shard: int) -> str:
    """Return where the keys of one finished shard wait for the index."""
    return f"{writer.key}/scratch/keys/{table}-{shard:05d}.npy"


def write_keys(
    writer: ArtifactWriter, table: str, shard: int, keys_2N: np.ndarray, counts_N: np.ndarray
) -> None:
    """Store the keys of a shard; before the shard itself, so that a finished shard always has them.

    Args:
        writer: The open artifact.
        table: Name of the table.
        shard: Index of the shard.
        keys_2N: uint64 [2, N] of its texts, in order.
        counts_N: int64 [N], embeddings of each text.
    """
    codes_N = place_codes(table, shard, np.cumsum(counts_N) - counts_N)
    content = BytesIO()
    np.save(content, np.concatenate([keys_2N, codes_N[None]]))
    writer.storage.write(keys_name(writer, table, shard), content.getvalue())


def num_buckets(num_texts: int) -> int:
    """Return how many buckets hold the keys of ``num_texts`` texts."""
    return max(1, -(-num_texts // BUCKET_KEYS))


def write_bucket(
    writer: ArtifactWriter, bucket: int, buckets: int, shards: Sequence[tuple[str, int]]
) -> None:
    """Sort the keys of one bucket and store them as a file of the artifact.

    Args:
        writer: The open artifact; the file is committed by a copy of this very writer.
        bucket: Which bucket.
        buckets: How many there are.
        shards: (table, index) of all shards.
    """
    read = partial(_read_keys, writer, bucket, buckets)
    parts = [read(table, index) for table, index in shards]
    keys_3N = sort_keys(np.concatenate([np.zeros((3, 0), np.uint64), *parts], axis=1))
    with TemporaryDirectory(prefix="stope-keys-") as folder:
        path = Path(folder) / "keys.npy"
        np.save(path, keys_3N)
        writer.put_file(f"keys/{bucket:05d}.npy", path)


def _read_keys(writer: ArtifactWriter, bucket: int, buckets: int, table: str, index: int) -> np.ndarray:
    keys_3N: np.ndarray = np.load(BytesIO(writer.storage.read(keys_name(writer, table, index))))
    return keys_3N[:, buckets_of(keys_3N[0], buckets) == bucket]
