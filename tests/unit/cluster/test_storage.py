"""Local storage: whole objects or none, exclusive creation, keys that stay below the root."""

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.storage import LocalStorage, MissingObject, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(str(tmp_path / "root"))


def test_objects_come_back(storage):
    storage.write("a/b.bin", b"one")
    storage.write("a/b.bin", b"two")
    assert storage.read("a/b.bin") == b"two"
    assert storage.exists("a/b.bin") and not storage.exists("a")
    assert storage.get_file("a/b.bin").read_bytes() == b"two"


def test_an_absent_object_is_named(storage):
    with pytest.raises(MissingObject, match="root/nowhere"):
        storage.read("nowhere")


def test_listing_is_recursive_sorted_and_without_temporary_names(storage):
    for key in ("b/2", "b/1", "b/c/3", "bb/4"):
        storage.write(key, b"")
    (storage.root / "b" / ".tmp-1-ab").write_bytes(b"torn")
    assert storage.list("b") == ["b/1", "b/2", "b/c/3"]
    assert storage.list("") == ["b/1", "b/2", "b/c/3", "bb/4"]
    assert storage.list("absent") == []


def test_delete_takes_a_folder_or_an_object(storage):
    for key in ("b/1", "b/c/3", "bb"):
        storage.write(key, b"")
    storage.delete("b")
    storage.delete("absent")
    assert storage.list("") == ["bb"]
    storage.delete("bb")
    assert storage.list("") == []


def test_of_many_creators_one_wins(storage):
    with ThreadPoolExecutor(8) as creators:
        won = list(creators.map(lambda number: storage.create("manifest", b"%d" % number), range(32)))
    assert won.count(True) == 1
    assert storage.read("manifest") == b"%d" % won.index(True)
    assert storage.list("") == ["manifest"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../../b"])
def test_a_key_cannot_leave_the_root(storage, key):
    with pytest.raises(ValueError, match="not a storage key"):
        storage.write(key, b"")


def test_a_file_is_copied_in(storage, tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    storage.put_file("files/model", tmp_path / "model")
    (tmp_path / "model").write_bytes(b"changed")
    assert storage.read("files/model") == b"weights"


def test_a_full_disk_is_told_with_path_and_free_space(storage, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"root/a: the disk is full\n.*MiB free"):
        storage.write("a", b"x")
    assert storage.list("") == [] and list(storage.root.iterdir()) == []


def test_a_failed_write_leaves_the_old_object(storage, monkeypatch):
    storage.write("a", b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="bad disk"):
        storage.write("a", b"new")
    assert storage.read("a") == b"old" and storage.list("") == ["a"]


def test_paths_are_resolved_when_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = open_storage("work")
    monkeypatch.chdir("/")
    assert relative.uri == str(tmp_path / "work")
    assert open_storage(f"file://{tmp_path}").uri == str(tmp_path)
    assert open_storage("~/x").uri == str(Path.home() / "x")


def test_storage_travels(storage):
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


def test_an_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="unknown kind of storage"):
        open_storage("ftp://host/x")
