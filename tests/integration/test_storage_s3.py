"""Storage and artifacts on an S3 endpoint."""

import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pyarrow as pa
import pyarrow.fs as fs
import pytest
from moto.server import ThreadedMotoServer

from cluster import object_storage
from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from cluster.storage import MissingObject, ObjectStorage, open_storage


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="team")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def storage(endpoint: str, tmp_path, monkeypatch) -> ObjectStorage:
    monkeypatch.setenv("STOPE_CACHE_DIR", str(tmp_path / "cache"))
    opened = open_storage(f"s3://team/{tmp_path.name}")
    assert isinstance(opened, ObjectStorage)
    return opened


def test_objects_come_back(storage):
    storage.write("a/b", b"one")
    storage.write("a/b", b"two")
    storage.write("ab", b"three")
    assert storage.read("a/b") == b"two" and storage.exists("a/b") and not storage.exists("a")
    assert storage.list("") == ["a/b", "ab"] and storage.list("a") == ["a/b"]
    with pytest.raises(MissingObject, match=r"s3://team/.*/nowhere"):
        storage.read("nowhere")
    storage.delete("a")
    storage.delete("absent")
    assert storage.list("") == ["ab"]
    storage.delete("ab")
    assert storage.list("") == []


def test_of_many_creators_one_wins(storage):
    with ThreadPoolExecutor(8) as creators:
        won = list(creators.map(lambda number: storage.create("manifest", b"%d" % number), range(16)))
    assert won.count(True) == 1
    assert storage.read("manifest") == b"%d" % won.index(True)


def test_a_creation_sent_twice_is_still_ours(storage):
    assert storage.create("m", b"same") and storage.create("m", b"same")
    assert not storage.create("m", b"other")


def test_files_are_cached_by_version(storage, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(random.Random(0).randbytes(12_000_000))
    storage.put_file("big", big)
    first = storage.get_file("big")
    assert first.read_bytes() == big.read_bytes() and storage.get_file("big") == first
    storage.write("big", b"new")
    assert storage.get_file("big").read_bytes() == b"new"
    with pytest.raises(MissingObject):
        storage.get_file("nowhere")


def test_a_file_comes_in_pieces_of_one_version(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(object_storage, "PIECE_BYTES", 5_000_000)
    big = tmp_path / "big"
    big.write_bytes(random.Random(1).randbytes(12_000_000))
    storage.put_file("pieces", big)
    pieces, whole = [], ObjectStorage._piece

    def counted(self, key, start, meta):
        pieces.append(start)
        return whole(self, key, start, meta)

    def exchanged(self, key, start, meta):
        if start:
            self.write(key, b"another")
        return whole(self, key, start, meta)

    monkeypatch.setattr(ObjectStorage, "_piece", counted)
    assert storage.get_file("pieces").read_bytes() == big.read_bytes()
    assert pieces == [0, 5_000_000, 10_000_000]
    monkeypatch.setattr(ObjectStorage, "_piece", exchanged)
    storage.put_file("exchanged", big)
    with pytest.raises(UserError, match="did not answer"):
        storage.get_file("exchanged")


def test_credentials_do_not_travel(storage, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    storage.write("a", b"1")
    pickled = pickle.dumps(open_storage(storage.uri))
    assert b"very-secret-value" not in pickled
    assert pickle.loads(pickled).read("a") == b"1"


def test_an_absent_bucket_is_told(endpoint):
    with pytest.raises((UserError, MissingObject), match="no-such-bucket"):
        open_storage("s3://no-such-bucket/x").write("a", b"1")


def test_an_artifact_lives_there(storage, endpoint, tmp_path):
    """Ray Train was there as well, and has marked its folder and all above it with empty objects."""
    store = ArtifactStore(storage.uri)
    (tmp_path / "model" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text("{1}")
    writer = store.open("train", "m", "0" * 20)
    for index in (1, 0):
        writer.write_shard("order", index, pa.table({"step": [index]}))
    writer.put_directory("model", tmp_path / "model")
    store.storage.write(f"{writer.key}/scratch/x", b"1")
    folder = f"{storage.uri.removeprefix('s3://')}/{writer.key}/scratch/ranks"
    fs.S3FileSystem(endpoint_override=endpoint).create_dir(folder)
    assert len(store.storage.list("")) == 2 * 2 + 2 * 2 + 1
    made = writer.commit(stage_version=1, num_shards={"order": 2}, identity={}, inputs={})
    again = store.open("train", "m", "0" * 20).commit(
        stage_version=1, num_shards={"order": 2}, identity={}, inputs={}
    )
    found = store.find("train", "m", "0" * 20)
    assert found is not None and found.manifest == made.manifest == again.manifest
    assert found.read("order").column("step").to_pylist() == [0, 1]
    folder = found.directory("model")
    assert (folder / "1_Pooling" / "config.json").read_text() == "{1}" and (folder / "config.json").is_file()
    assert found.directory("model") == folder
    assert not any("scratch" in key or "receipts" in key for key in store.storage.list(""))
    assert store.collect([], dry_run=False) == [writer.key] and store.storage.list("") == []
