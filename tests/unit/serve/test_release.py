"""A release in one process: every text within its limits is answered."""

import asyncio
from datetime import UTC, datetime

import pytest

from models.layout import model_digest, tokenizer_digest
from models.prompts import Prompts
from models.release import ReleaseManifest, write_release
from serve import release
from serve.config import ServeConfig
from serve.embedder import Inputs
from tests.tiny_training import make_model


@pytest.fixture
def directory(tmp_path):
    make_model(tmp_path / "model")
    manifest = ReleaseManifest(
        name="long",
        created_at=datetime.now(UTC).isoformat(),
        model_digest=model_digest(tmp_path / "model"),
        tokenizer_digest=tokenizer_digest(tmp_path / "model"),
        pooling="mean",
        prompts=Prompts(),
        dimension=32,
        dtype="float32",
        max_query_tokens=16,
        max_document_tokens=64,
    )
    write_release(manifest, tmp_path)
    return tmp_path


def test_the_longest_text_fits_a_forward_pass_where_no_budget_is_named(directory, monkeypatch):
    monkeypatch.setattr(release, "_TOKEN_BUDGETS", {"cpu": 16})

    async def embed(text):
        served = release.ServedRelease(directory, ServeConfig(device="cpu"))
        try:
            return await served.embed(Inputs([text], "document", "NONE"))
        finally:
            await served.close()

    found = asyncio.run(embed(" ".join(f"w{number}" for number in range(62))))
    assert found.embeddings_ND.shape == (1, 32)
