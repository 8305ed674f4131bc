"""The HTTP routes. A route reads a body, asks the replica, writes the answer; it holds no state."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from models.quantization import truncate
from serve.config import ServeConfig
from serve.embedder import Embedded, Inputs
from serve.errors import ApiError, error_response
from serve.guard import Access, Guard
from serve.protocol import (
    EmbeddingsRequest,
    SearchRequest,
    SearchResult,
    Truncate,
    check_dimensions,
    check_model,
    embeddings_answer,
    parse,
    parse_input,
    search_answer,
)

PAGE = Path(__file__).parent / "page.html"
_MESSAGES = {
    404: "no such path; see /v1/embeddings, /v1/search, /v1/models, /health, /ready",
    405: "this path does not answer this method",
}
router = APIRouter()


class Replica(Protocol):
    """What the routes need of the process that holds model and index."""

    config: ServeConfig
    model: str
    dimensions: tuple[int, ...]
    """All components of an embedding, then the shorter lengths that the model was trained for."""

    @property
    def is_ready(self) -> bool:
        """Whether model and index are loaded and batches are being run."""

    def describe(self) -> dict[str, object]:
        """Return the model's entry of /v1/models."""

    async def embed(self, inputs: Inputs) -> Embedded:
        """Embed the texts, or token ids, of one request."""

    async def search(
        self, queries: list[str], k: int, truncate: Truncate, task: str = ""
    ) -> tuple[list[list[SearchResult]], int]:
        """Return the k best documents of each query, and the tokens of all queries."""


def build_api(replica: Replica, access: Access) -> ASGIApp:
    """Return the guarded ASGI application of one replica.

    Args:
        replica: Answers the routes.
        access: Who may ask for what.
    """
    # No generated documentation pages: they load scripts from a foreign host.
    api = FastAPI(title="Stope", docs_url=None, redoc_url=None, openapi_url=None)
    api.state.replica = replica
    api.include_router(router)
    api.add_exception_handler(ApiError, _refuse)
    api.add_exception_handler(HTTPException, _refuse)
    api.add_exception_handler(Exception, _refuse)
    return Guard(api, access)


async def _refuse(_request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return error_response(error)
    if not isinstance(error, HTTPException):
        # It is raised again after this answer, and the guard logs it.
        return error_response(
            ApiError(500, "the server failed; its log has the trace", code="internal_error")
        )
    message = _MESSAGES.get(error.status_code, error.detail)
    return error_response(ApiError(error.status_code, message), dict(error.headers or {}))


def _replica(request: Request) -> Replica:
    replica: Replica = request.app.state.replica
    if not replica.is_ready:
        raise ApiError(503, "the replica is not ready", retry_after_s=1)
    return replica


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


@router.post("/v1/embeddings")
async def embeddings(request: Request) -> Response:
    """Embed texts, as OpenAI's endpoint of that name does."""
    replica = _replica(request)
    asked = parse(await request.body(), EmbeddingsRequest)
    check_model(asked.model, replica.model)
    dimension = check_dimensions(asked.dimensions, replica.dimensions)
    texts, ids = parse_input(asked.input, replica.config.max_inputs)
    done = await replica.embed(Inputs(texts, asked.input_type, asked.truncate, ids, asked.task))
    whole = dimension == replica.dimensions[0]
    embeddings_ND = done.embeddings_ND if whole else truncate(done.embeddings_ND, dimension)
    return _json(embeddings_answer(embeddings_ND, asked.encoding_format, replica.model, done.num_tokens))


@router.post("/v1/search")
async def search(request: Request) -> Response:
    """Find the documents of the release that are nearest to a query."""
    replica = _replica(request)
    asked = parse(await request.body(), SearchRequest)
    check_model(asked.model, replica.model)
    if asked.k > replica.config.max_results:
        raise ApiError(400, f"k is at most {replica.config.max_results}, got {asked.k}", "k", "invalid_value")
    queries, ids = parse_input(asked.query, replica.config.max_inputs, "query")
    if len(queries) * asked.k > replica.config.max_request_results:
        most = replica.config.max_request_results
        raise ApiError(
            400, f"{len(queries)} queries x k {asked.k} exceed {most} documents", "k", "invalid_value"
        )
    if ids is not None:
        raise ApiError(400, "query must be a string or a list of strings", "query", "invalid_value")
    found, num_tokens = await replica.search(queries, asked.k, asked.truncate, asked.task)
    return _json(search_answer(found, isinstance(asked.query, str), replica.model, num_tokens))


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """List the one model that is served."""
    return _json(orjson.dumps({"object": "list", "data": [_replica(request).describe()]}))


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    """Describe the model that is served."""
    replica = _replica(request)
    check_model(name, replica.model)
    return _json(orjson.dumps(replica.describe()))


@router.get("/health")
async def health() -> Response:
    """Tell that the process lives."""
    return _json(b'{"status":"alive"}')


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Tell whether model and index are loaded."""
    _replica(request)
    return _json(b'{"status":"ready"}')


@router.get("/")
async def page() -> Response:
    """Return the search page."""
    return Response(PAGE.read_bytes(), media_type="text/html; charset=utf-8", headers=_page_headers())


def _page_headers() -> dict[str, str]:
    text = PAGE.read_text(encoding="utf-8")
    allowed = []
    for tag in ("script", "style"):
        body = text.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
        allowed.append(f"{tag}-src 'sha256-{b64encode(sha256(body.encode()).digest()).decode()}'")
    policy = [
        "default-src 'none'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    policy += ["frame-ancestors 'none'", *allowed]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
