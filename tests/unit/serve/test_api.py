"""Routes over a stand-in replica: the shape of every error, keys, limits, the page."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from starlette.testclient import TestClient

from serve.api import build_api
from serve.config import ServeConfig
from serve.embedder import Embedded, Inputs
from serve.errors import OverloadError
from serve.guard import Access
from serve.keys import _digest
from serve.protocol import SearchResult, Truncate

OPEN = Access((), False, 1000)


@dataclass
class StandIn:
    """Embeds a text as its length; fails as told."""

    config: ServeConfig = field(default_factory=lambda: ServeConfig(max_inputs=3, max_results=5))
    model: str = "squad-1"
    dimensions: tuple[int, ...] = (2,)
    is_ready: bool = True
    failure: Exception | None = None

    def describe(self) -> dict[str, object]:
        return {"id": self.model, "object": "model"}

    async def embed(self, inputs: Inputs) -> Embedded:
        if self.failure:
            raise self.failure
        return Embedded(np.array([[len(text), 0] for text in inputs.texts], np.float32), 4)

    async def search(
        self, queries: list[str], k: int, truncate: Truncate, task: str = ""
    ) -> tuple[list[list[SearchResult]], int]:
        return [[SearchResult(doc_id="d1", score=0.5, title="T", text="<b>")] for _ in queries], 3


def client(replica: StandIn | None = None, access: Access = OPEN) -> TestClient:
    return TestClient(build_api(replica or StandIn(), access), raise_server_exceptions=False)


def test_embeddings_and_search_answer() -> None:
    answer = client().post("/v1/embeddings", json={"model": "squad-1", "input": ["a", "abc"]})
    assert answer.status_code == 200
    assert [row["embedding"] for row in answer.json()["data"]] == [[1.0, 0.0], [3.0, 0.0]]
    found = client().post("/v1/search", json={"query": "a", "k": 1}).json()["results"]
    assert found == [{"doc_id": "d1", "score": 0.5, "title": "T", "text": "<b>"}]
    assert client().get("/v1/models").json()["data"][0]["id"] == "squad-1"
    assert client().get("/v1/models/squad-1").json()["id"] == "squad-1"


@pytest.mark.parametrize(
    ("status", "ask"),
    [
        (400, lambda http: http.post("/v1/embeddings", json={"model": "squad-1", "input": []})),
        (400, lambda http: http.post("/v1/embeddings", json={"model": "squad-1", "input": ["a"] * 4})),
        (400, lambda http: http.post("/v1/search", json={"query": "a", "k": 6})),
        (400, lambda http: http.post("/v1/search", json={"query": [1, 2]})),
        (
            400,
            lambda http: http.post("/v1/search", content=b"{", headers={"content-type": "application/json"}),
        ),
        (404, lambda http: http.post("/v1/embeddings", json={"model": "gpt", "input": "a"})),
        (404, lambda http: http.get("/v1/models/gpt")),
        (404, lambda http: http.get("/docs")),
        (405, lambda http: http.get("/v1/embeddings")),
        (413, lambda http: http.post("/v1/search", json={"query": "a" * 1001})),
        (415, lambda http: http.post("/v1/search", content=b"{}")),
    ],
)
def test_every_error_has_the_same_form(status: int, ask: Callable[[TestClient], object]) -> None:
    answer = ask(client())
    assert answer.status_code == status  # type: ignore[attr-defined]
    error = answer.json()["error"]  # type: ignore[attr-defined]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] == "invalid_request_error" and error["code"]


def test_a_body_without_length_is_counted() -> None:
    headers = {"content-type": "application/json"}
    answer = client().post("/v1/search", content=(b"x" * 100 for _ in range(20)), headers=headers)
    assert answer.status_code == 413


def test_overload_is_429() -> None:
    answer = client(StandIn(failure=OverloadError(9, 10, 3))).post(
        "/v1/embeddings", json={"model": "squad-1", "input": "a"}
    )
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


def test_a_failure_is_logged_without_texts(caplog: pytest.LogCaptureFixture) -> None:
    failing = StandIn(failure=RuntimeError("private text"))
    answer = client(failing).post("/v1/embeddings", json={"model": "squad-1", "input": "private text"})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "private text" not in answer.text
    assert "RuntimeError" in caplog.text
    assert "private text" not in caplog.text


def test_health_and_readiness_differ() -> None:
    http = client(StandIn(is_ready=False))
    assert http.get("/health").status_code == 200
    assert http.get("/ready").status_code == 503
    assert http.get("/ready").json()["error"]["code"] == "not_ready"
    assert client().get("/ready").status_code == 200


def test_keys_guard_all_but_page_and_health() -> None:
    http = client(access=Access((_digest("stope-k"),), False, 1000))
    for path in ("/", "/health", "/ready"):
        assert http.get(path).status_code == 200
    refused = http.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert http.get("/nowhere").status_code == 401
    assert http.get("/v1/models", headers={"Authorization": "Bearer stope-k"}).status_code == 200
    assert http.get("/v1/models", headers={"Authorization": "Bearer stope-x"}).status_code == 401


def test_a_foreign_host_name_is_refused_on_loopback() -> None:
    http = client(access=Access((), True, 1000))
    assert http.get("/health", headers={"host": "evil.example:8000"}).status_code == 421
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert http.get("/health", headers={"host": host}).status_code == 200


def test_the_page_loads_nothing_from_elsewhere() -> None:
    answer = client().get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe-inline" not in answer.headers["content-security-policy"]
    assert not re.search(r"https?://", answer.text)
    assert "innerHTML" not in answer.text
