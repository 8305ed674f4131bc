"""A release in memory, answering requests: model, tokenizer, index and documents of one directory."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster.errors import UserError
from models.checkpoint import load_encoder
from models.inference import BATCH_MULTIPLE
from models.precision import resolve_device, resolve_dtype
from models.release import ReleaseManifest, check_index, check_model, read_release
from models.tokenization import TextTokenizer, padded_length
from serve.config import ServeConfig
from serve.embedder import Embedded, Inputs, RequestEmbedder
from serve.errors import ApiError
from serve.protocol import SearchResult, Truncate
from serve.retrieval import DOCUMENTS_FILE, Retrieval

MODEL_DIRECTORY = "model"
_TOKEN_BUDGETS = {"cpu": 4_096, "cuda": 32_768}


@dataclass(frozen=True)
class ReleaseFiles:
    """A release whose parts were found to belong together."""

    manifest: ReleaseManifest
    model: Path
    index: Path | None
    documents: Path


def check_release(directory: Path, config: ServeConfig) -> ReleaseFiles:
    """Refuse a release that cannot be served, before a model is loaded.

    Args:
        directory: Holds release.json, model/, the index and documents.parquet.
        config: How it is to be served.

    Raises:
        ModelError: No release there; model, tokenizer or index are not those that it binds.
        UserError: A part is missing, or the settings do not fit the model.
    """
    manifest = read_release(directory)
    files = ReleaseFiles(
        manifest, directory / MODEL_DIRECTORY, check_index(manifest, directory), directory / DOCUMENTS_FILE
    )
    if not files.model.is_dir():
        raise UserError("the release has no model", str(files.model), fix="create the release again")
    check_model(manifest, files.model)
    if files.index is not None and not files.documents.is_file():
        raise UserError("the release has no documents", str(files.documents), fix="create the release again")
    longest = _longest(manifest)
    if config.token_budget is not None and config.token_budget < longest:
        raise UserError(
            "the token budget does not hold one text", "serve.token_budget", got=str(config.token_budget),
            expected=f"at least {longest}, the longest text, padded", fix=f"set token_budget to {longest}",
        )  # fmt: skip
    return files


def _longest(manifest: ReleaseManifest) -> int:
    """Return the tokens of the longest text that the release takes, padded."""
    return padded_length(max(manifest.max_query_tokens, manifest.max_document_tokens), BATCH_MULTIPLE)


class ServedRelease:
    """Embeds and searches for concurrent requests; to be made and used inside one running event loop.

    Args:
        directory: Of the release.
        config: How it is served.

    Raises:
        ModelError: The parts of the release do not belong together.
        UserError: A part is missing, or the settings do not fit the model.
    """

    def __init__(self, directory: Path, config: ServeConfig) -> None:
        files = check_release(directory, config)
        manifest = files.manifest
        device = resolve_device(config.device)
        dtype = resolve_dtype(config.dtype or manifest.dtype, device)
        tokenizer = TextTokenizer.load(
            files.model, manifest.prompts, manifest.max_query_tokens, manifest.max_document_tokens
        )
        self.config = config
        self.manifest = manifest
        self.model = manifest.name
        self.dimensions = (manifest.dimension, *manifest.shorter)
        self._dtype = dtype
        self._retrieval = Retrieval(manifest, directory, device) if manifest.index else None
        self._embedder = RequestEmbedder(
            load_encoder(files.model, dtype, device, manifest.pooling, trusted=manifest.trust_remote_code),
            tokenizer,
            config.token_budget or max(_TOKEN_BUDGETS[device.split(":")[0]], _longest(manifest)),
            config.max_queued_tokens,
            config.request_token_limit,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")

    @property
    def is_ready(self) -> bool:
        """Whether requests are being worked on; model and index are loaded since the release was made."""
        return self._embedder.is_alive

    def describe(self) -> dict[str, object]:
        """Return the model's entry of /v1/models."""
        return {
            "id": self.model,
            "object": "model",
            "created": int(datetime.fromisoformat(self.manifest.created_at).timestamp()),
            "owned_by": "stope",
            "dimension": self.manifest.dimension,
            "dimensions": sorted(self.dimensions),
            "dtype": self._dtype,
            "max_query_tokens": self.manifest.max_query_tokens,
            "max_document_tokens": self.manifest.max_document_tokens,
            "num_documents": len(self._retrieval.documents) if self._retrieval else 0,
        }

    async def embed(self, inputs: Inputs) -> Embedded:
        """Embed the texts, or token ids, of one request.

        Raises:
            ApiError: A text is over the limit, the request is too large, or the queue is full.
        """
        return await self._embedder.embed(inputs)

    async def search(
        self, queries: list[str], k: int, truncate: Truncate, task: str = ""
    ) -> tuple[list[list[SearchResult]], int]:
        """Return the k best documents of each query, and the tokens of all queries.

        Raises:
            ApiError: As ``embed``; 404 where the release has no index.
        """
        if self._retrieval is None:
            raise ApiError(404, f"release {self.model} has no index", code="no_index")
        embedded = await self._embedder.embed(Inputs(queries, "query", truncate, task=task, param="query"))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, self._retrieval.find, embedded.embeddings_ND, k
        ), embedded.num_tokens

    async def close(self) -> None:
        """Stop; requests that still wait are cancelled."""
        await self._embedder.close()
        self._thread.shutdown(wait=True, cancel_futures=True)
