"""Mining on failing machines: the artifacts are those of an undisturbed run, or the error says what to do."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from cluster.artifacts import ArtifactStore
from tests.faults.conftest import RunningStope
from tests.tiny_mining import digests, write_inputs

RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Models, recipe and collection, large enough that a fault finds something under way."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, num_documents=1200, num_queries=180)
    return folder


@pytest.fixture(scope="module")
def calm(inputs):
    """What one undisturbed run makes."""
    RunningStope(inputs, "mine", "run", "recipe.yaml").finish()
    return digests(inputs / "store")


@pytest.fixture
def place(inputs, tmp_path):
    """A folder with a store of its own; the recipe's paths are those of the inputs."""
    recipe = (inputs / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(
        recipe.replace("path: collection", f"path: {inputs / 'collection'}")
    )
    return tmp_path


def mine(start, place: Path) -> RunningStope:
    return start(place, "mine", "run", "recipe.yaml")


def receipts(place: Path, stage: str, table: str) -> int:
    """Shards of a table written for the stage that is under way."""
    return len(list((place / "store" / stage).glob(f"*/{table}*-*.json")))


def test_killed_workers_of_every_stage_change_nothing(start, place, calm):
    run = mine(start, place)
    for stage, table, actor, written in (
        ("encode", "documents", "Embedder", 2),
        ("search", "tiles", "Searcher", 2),
        # A tiny one has scored everything before the first scores are written.
        ("score", "scored", "Scorer", 0),
    ):
        run.wait_for(lambda: receipts(place, stage, table) >= written and bool(run.workers(actor)))  # noqa: B023
        run.kill_worker(actor)
    run.finish()
    assert digests(place / "store") == calm


def test_one_of_two_runs_is_killed_and_the_other_goes_on(start, place, calm):
    doomed, other = mine(start, place), mine(start, place)
    doomed.wait_for(lambda: receipts(place, "encode", "documents") >= 2)
    doomed.kill_driver()
    other.finish()
    assert digests(place / "store") == calm


def test_two_runs_at_once_make_one_set_of_artifacts(start, place, calm):
    runs = [mine(start, place), mine(start, place)]
    for run in runs:
        run.finish()
    assert digests(place / "store") == calm
    store = ArtifactStore(str(place / "store"))
    for manifest in store.list():
        artifact = store.get(manifest.key)
        for table in manifest.tables:
            artifact.read(table)
        for stored in manifest.files:
            artifact.file(stored.name)
    records = [json.loads(path.read_text()) for path in (place / "store" / "runs").glob("*/run.json")]
    assert [record["state"] for record in records] == ["done", "done"]
    assert len({tuple(stage["key"] for stage in record["stages"]) for record in records}) == 1


@pytest.fixture
def disk(place):
    """A file system of its own for the store, whose size a test may set in KiB."""
    folder = place / "store"
    folder.mkdir()

    def resize(kib: int) -> None:
        options = f"size={kib}k" if not os.path.ismount(folder) else f"remount,size={kib}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, (
            f"a full disk needs the right to mount a file system: {done.stderr.strip()}"
        )

    yield resize
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_space(start, place, calm, inputs, disk):
    needed = sum(path.stat().st_size for path in (inputs / "store").rglob("*") if path.is_file()) // 1024
    finished = 0
    for share in (0.2, 0.7):
        disk(int(share * needed))
        run = mine(start, place)
        assert run.process.wait(200) == 1
        said = run.log.read_text()
        assert "the disk is full" in said and "free space" in said and str(place / "store") in said
        assert "Traceback" not in said
        kept = len(list((place / "store").rglob("*.parquet")))
        assert kept > finished, "nothing of the attempt is kept"
        finished = kept
    disk(64 * 1024)
    mine(start, place).finish()
    assert digests(place / "store") == calm


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it, as a machine that is switched off does."""
    if process.poll() is None:
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        for each in family:
            each.kill()
        psutil.wait_procs(family, timeout=20)
    process.wait(10)


class SmallCluster:
    """A head and two worker nodes on loopback addresses of their own, as machines that are there already.

    Args:
        folder: For logs and Ray's own files.
    """

    HEAD, WORKERS = "127.0.0.2", ("127.0.0.3", "127.0.0.4")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Sockets do not fit below a longer path.
        self.temporary = tempfile.mkdtemp(prefix="stope-nodes-")
        with socket.socket() as probe:
            probe.bind((self.HEAD, 0))
            self.address = f"{self.HEAD}:{probe.getsockname()[1]}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        port = self.address.partition(":")[2]
        head = ("--head", "--port", port, "--temp-dir", self.temporary, "--include-dashboard", "false")
        self.add(self.HEAD, "--num-cpus", "1", "--labels", "ray.io/node-group=head", *head)
        for worker in self.WORKERS:
            label = ("--labels", "ray.io/node-group=work")
            self.add(worker, "--num-cpus", "1", *label, "--address", self.address)

    def add(self, address: str, *arguments: str) -> None:
        """Start a node and wait for it: two that start at once take each other's sockets."""
        memory = ("--memory", str(2 * 2**30), "--object-store-memory", str(100 * 2**20))
        command = [
            RAY,
            "start",
            "--block",
            "--disable-usage-stats",
            "--node-ip-address",
            address,
            *memory,
            *arguments,
        ]
        log = self.folder / f"{address}.log"
        with log.open("wb") as file:
            self.nodes[address] = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while b"block forever" not in log.read_bytes():
            assert self.nodes[address].poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        for node in reversed(self.nodes.values()):
            kill_all(node)
        shutil.rmtree(self.temporary, ignore_errors=True)


DEFINITION = """
name: small
provider: {kind: on_premise, head: 127.0.0.2, hosts: [127.0.0.3, 127.0.0.4], ssh_user: nobody}
storage: store
head: {cpus: 1, memory: 2Gi}
workers:
  - {name: work, cpus: 1, memory: 2Gi, min: 2, max: 2}
roles:
  tokenize: {group: work, cpus: 0.25}
  encode:   {group: work, cpus: 0.75}
  search:   {group: work, cpus: 0.75}
  score:    {group: work, cpus: 0.75}
  train:    {group: work, cpus: 0.75, workers: 2}
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    made = SmallCluster(tmp_path)
    for name, value in {**made.environment, "RAY_ADDRESS": made.address}.items():
        monkeypatch.setenv(name, value)
    yield made
    made.stop()


def test_a_node_that_is_lost_during_a_search_changes_nothing(start, place, calm, cluster):
    (place / "small.yaml").write_text(DEFINITION)
    run = start(place, "mine", "run", "recipe.yaml", "--definition", "small.yaml")
    run.wait_for(lambda: receipts(place, "search", "tiles") >= 2)
    assert receipts(place, "search", "candidates") == 0, "the search is over"
    kill_all(cluster.nodes[cluster.WORKERS[0]])
    run.finish()
    assert digests(place / "store") == calm
