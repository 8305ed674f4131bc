import pytest

from models.errors import ModelError
from models.layout import file_digest, model_digest, tokenizer_digest
from models.prompts import Prompts
from models.release import (
    MANIFEST_NAME,
    EmbeddingsEntry,
    IndexEntry,
    ReleaseManifest,
    RescoreEntry,
    check_index,
    check_model,
    read_release,
    write_release,
)


@pytest.fixture
def release(tiny_model, tmp_path):
    (tmp_path / "index.faiss").write_bytes(b"vectors")
    digest = model_digest(tiny_model)
    index = IndexEntry(
        path="index.faiss", sha256=file_digest(tmp_path / "index.faiss"), model_digest=digest, num_documents=3
    )
    return ReleaseManifest(
        name="first",
        created_at="2026-11-21T08:30:15Z",
        model_digest=digest,
        tokenizer_digest=tokenizer_digest(tiny_model),
        pooling="mean",
        prompts=Prompts(query="query: "),
        dimension=32,
        dtype="float32",
        max_query_tokens=16,
        max_document_tokens=32,
        index=index,
        run_id="20261121-083015-demo-1f3a",
    )


def test_written_and_read(release, tmp_path, tiny_model):
    write_release(release, tmp_path)
    assert read_release(tmp_path) == release
    check_model(release, tiny_model)
    assert check_index(release, tmp_path) == tmp_path / "index.faiss"
    assert check_index(release.model_copy(update={"index": None}), tmp_path) is None


def test_foreign_or_changed_index_is_refused(release, tmp_path):
    foreign = release.model_copy(update={"model_digest": "0" * 64})
    with pytest.raises(ModelError, match="built by another model"):
        check_index(foreign, tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"others.")
    with pytest.raises(ModelError, match="changed since the release"):
        check_index(release, tmp_path)
    (tmp_path / "index.faiss").unlink()
    with pytest.raises(ModelError, match="missing"):
        check_index(release, tmp_path)


def test_the_file_of_embeddings_is_checked_as_the_index_is(release, tmp_path):
    path = tmp_path / "embeddings.npy"
    path.write_bytes(b"numbers")
    whole = EmbeddingsEntry(path=path.name, sha256=file_digest(path))
    rescore = RescoreEntry(multiplier=4, embeddings=whole, recall=None)
    index = release.index.model_copy(update={"kind": "binary", "rescore": rescore})
    of_codes = release.model_copy(update={"index": index})
    assert check_index(of_codes, tmp_path) == tmp_path / "index.faiss"
    path.write_bytes(b"others.")
    with pytest.raises(ModelError, match="the file of embeddings has changed since the release"):
        check_index(of_codes, tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match="the file of embeddings is missing"):
        check_index(of_codes, tmp_path)


@pytest.mark.parametrize("codes", [{"kind": "binary"}, {"dimension": 8}])
def test_codes_that_are_not_rescored_are_refused(release, codes):
    with pytest.raises(ValueError, match="says no `rescore`"):
        IndexEntry.model_validate({**release.index.model_dump(), **codes})


def test_foreign_model_is_refused(release, tiny_model):
    with pytest.raises(ModelError, match="the tokenizer is not the one released"):
        check_model(release.model_copy(update={"tokenizer_digest": "0" * 64}), tiny_model)


def test_bad_manifests_are_refused(release, tmp_path):
    with pytest.raises(ModelError, match="holds no release"):
        read_release(tmp_path)
    path = write_release(release, tmp_path)
    assert path.name == MANIFEST_NAME
    path.write_text(path.read_text().replace('"dimension": 32', '"dimension": 0'))
    with pytest.raises(ModelError, match="dimension"):
        read_release(tmp_path)
