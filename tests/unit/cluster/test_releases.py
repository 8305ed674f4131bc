"""Releases: recorded once, found by name, opened as one folder, and kept by garbage collection."""

import pyarrow as pa
import pytest

from cluster import releases
from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from cluster.roots import rooted_keys

FP = "0" * 20
FILES = {"index.faiss": "codes", "embeddings.npy": "numbers", "documents.parquet": "texts"}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path / "store"))


def artifact(store, stage, files, tmp_path):
    writer = store.open(stage, "x", FP)
    for name, text in files.items():
        path = tmp_path / "upload"
        path.write_text(text)
        writer.put_file(name, path)
    writer.write_shard("rows", 0, pa.table({"a": [1]}))
    return writer.commit(stage_version=1, num_shards={"rows": 1}, identity={}, inputs={}).key


@pytest.fixture
def made(store, tmp_path):
    model = artifact(store, "train", {"model/config.json": "{}"}, tmp_path)
    index = artifact(store, "index", FILES, tmp_path)
    return releases.create(store, "demo", "run-1", {"model": model, "index": index}, {"dimension": 3})


def test_it_opens_as_one_folder_that_goes_away(store, made):
    with releases.opened(store, releases.find(store, "latest")) as folder:
        names = {str(path.relative_to(folder)) for path in folder.glob("**/*")} | {"model/config.json"}
        assert names >= {"release.json", "model/config.json", *FILES}
        assert (folder / "model" / "config.json").read_text() == "{}"
        assert made.name in (folder / "release.json").read_text()
    assert not folder.exists()


def test_the_same_parts_are_not_released_twice(store, made):
    again = releases.create(store, "demo", "run-2", made.artifacts, {"dimension": 3})
    assert again == made and releases.listed(store) == [made]


def test_what_a_release_needs_is_rooted(store, made):
    assert rooted_keys(store, None) == set(made.artifacts.values())
    assert store.collect(rooted_keys(store, 0), dry_run=False) == []


def test_a_release_whose_index_was_damaged_is_refused(store, made):
    (path,) = [key for key in store.storage.list("index") if key.endswith("index.faiss")]
    store.storage.write(path, b"other")
    with pytest.raises(UserError, match="differs"), releases.opened(store, made):
        pass


def test_an_unknown_name_lists_what_there_is(store, made):
    with pytest.raises(UserError, match=made.name):
        releases.find(store, "no-such-release")
