"""A whole run on an S3 endpoint, checkpoints of Ray Train included: the same results as on a disk."""

import os
import subprocess

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cluster.artifacts import ArtifactStore
from tests.faults.conftest import STOPE
from tests.faults.test_kill import RECIPE, digests


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("STOPE_CACHE_DIR", str(tmp_path / "cache"))
    boto3.client("s3").create_bucket(Bucket="team")
    yield "s3://team/stope"
    server.stop()


def run(folder, storage):
    command = [STOPE, "run", "recipe.yaml", "--storage", storage]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return digests(ArtifactStore(storage))


def test_a_bucket_holds_what_a_disk_would(bucket, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    on_disk = run(tmp_path, str(tmp_path / "store"))
    assert len(on_disk) > 10
    assert run(tmp_path, bucket) == on_disk
