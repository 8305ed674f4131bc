"""Does the cost of search and select grow linearly with the corpus, and does the driver's memory stay flat?

    python -m tests.bench.linear BEIR_FOLDER                                   # 20,000, 80,000 and 320,000 documents
    python -m tests.bench.linear BEIR_FOLDER --documents 5000 20000 --num-queries 2000 --tiles 100

The texts are those of the folder, over and over, every copy with words of its own; the embeddings are random unit
vectors in the shards of an encode artifact. The queries are the same for every size. Each size is a process of its
own, so that its memory is its own; it searches next to nothing first, so that the start of the cluster is not in it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from cluster.artifacts import Artifact, ArtifactStore
from cluster.definition import load_definition
from cluster.session import Session
from pipelines import schemas
from pipelines.progress import Progress
from pipelines.search.config import SearchConfig
from pipelines.search.pipeline import search_step
from pipelines.select.config import SelectConfig
from pipelines.select.pipeline import select_step
from pipelines.select.texts import _document_keys
from pipelines.steps import Step, Work

SAMPLE_S = 1.0
EDIT_EVERY = 12
"""Words of a text from one edit to the next."""
SHARD_ROWS = 2048


@dataclass(frozen=True)
class Child:
    """One process of this program, from start to end.

    Args:
        seconds: Wall time.
        peak_mb: Greatest sum over the process and its children of their own memory and their share of what they
            share (PSS), sampled, MiB.
        largest_mb: Greatest resident memory of the process itself or of a child that it waited for, MiB.
    """

    seconds: float
    peak_mb: float
    largest_mb: float


def machine() -> str:
    """Return one line on the processor and the interpreter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{name}, {cores} cores, load {load:.1f} before the start, python {platform.python_version()}"


def run_child(arguments: Sequence[str], log: Path) -> Child:
    """Run a module of the repository in a process of its own, and end with its last words if it fails."""
    peak, ended = [0.0], threading.Event()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        started = perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=file, stderr=file, env=environment
        )
        sampler = threading.Thread(target=_sample, args=(child.pid, ended, peak))
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    sampler.join()
    if child.returncode:
        sys.exit(log.read_text()[-4000:])
    return Child(seconds, peak[0], usage.ru_maxrss / 1024)


def _sample(pid: int, ended: threading.Event, peak: list[float]) -> None:
    while not ended.wait(SAMPLE_S):
        held = 0
        try:
            root = psutil.Process(pid)
            tree = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in tree:
            try:
                held += process.memory_full_info().pss
            except psutil.Error:
                continue  # ended since
        peak[0] = max(peak[0], held / 2**20)


def edited(text: str, copy: int) -> str:
    """Return a text with words that only this copy of it has; copy 0 is the text."""
    words = text.split(" ")
    if copy:
        words[copy % EDIT_EVERY :: EDIT_EVERY] = [
            f"{word}{copy}" for word in words[copy % EDIT_EVERY :: EDIT_EVERY]
        ]
    return " ".join(words)


def text_shards(texts: Sequence[str], total: int, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the shards of the table `documents` or `queries`: the texts over and over, edited."""
    ordinal, name, *_ = schema.names
    for start in range(0, total, SHARD_ROWS):
        rows = range(start, min(start + SHARD_ROWS, total))
        copies = [edited(texts[row % len(texts)], row // len(texts)) for row in rows]
        columns = {ordinal: list(rows), name: [f"{ordinal}{row}" for row in rows], "text": copies}
        for other in schema.names:
            fixed = {"dataset": "copies", "task": "retrieval"}.get(other)
            columns.setdefault(other, pa.array([fixed] * len(rows), pa.string()))
        yield schemas.conform(pa.table(columns), schema)


def unit_vectors(first: int, rows: int, dimension: int, seed: int) -> np.ndarray:
    """Return random directions, float32 [rows, dimension]; the same for the same arguments."""
    x_ND = np.random.default_rng((seed, first)).standard_normal((rows, dimension), dtype=np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


def embedding_shards(blocks: Iterable[np.ndarray], dimension: int) -> Iterator[pa.Table]:
    """Yield a shard of float16 embeddings for every block, float32 [rows, dimension]."""
    schema, first = schemas.embeddings(dimension, "float16"), 0
    for x_ND in blocks:
        column = pa.FixedSizeListArray.from_arrays(pa.array(x_ND.astype(np.float16).ravel()), dimension)
        yield schemas.conform(
            pa.table({"id": np.arange(first, first + len(x_ND)), "embedding": column}), schema
        )
        first += len(x_ND)


def document_blocks(total: int, dimension: int) -> Iterator[np.ndarray]:
    """Yield the embeddings of documents, random directions, block by block."""
    for start in range(0, total, SHARD_ROWS):
        yield unit_vectors(start, min(SHARD_ROWS, total - start), dimension, 0)


def query_blocks(total: int, dimension: int, positives: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the embeddings of queries, each at a cosine of about .8 to its positive (int64 [Q] ascending)."""
    starts = range(0, total, SHARD_ROWS)
    rows = [positives[(positives >= start) & (positives < start + SHARD_ROWS)] - start for start in starts]
    blocks = zip(document_blocks(total, dimension), rows, strict=True)
    q_QD = np.concatenate([x_ND[near] for x_ND, near in blocks])
    q_QD += 0.75 * unit_vectors(0, len(q_QD), dimension, 1)
    q_QD /= np.linalg.norm(q_QD, axis=1, keepdims=True)
    for start in range(0, len(q_QD), SHARD_ROWS):
        yield q_QD[start : start + SHARD_ROWS]


def given_steps(total: int, num_queries: int, dimension: int, folder: Path) -> tuple[Step, Step]:
    """Return an ingest and an encode step over copies of the texts of a BEIR folder."""
    positives = np.arange(num_queries) * total // num_queries
    ones, split = np.ones(num_queries), ["train"] * num_queries
    qrels = {"query": np.arange(num_queries), "doc": positives, "relevance": ones, "split": split}

    def texts(name: str) -> list[str]:
        return list(pq.read_table(folder / f"{name}.parquet", columns=["text"]).column("text").to_pylist())

    def ingest() -> dict[str, Iterable[pa.Table]]:
        return {
            "documents": text_shards(texts("corpus"), total, schemas.DOCUMENTS),
            "queries": text_shards(texts("queries"), num_queries, schemas.QUERIES),
            "qrels": [schemas.conform(pa.table(qrels), schemas.QRELS)],
        }

    def encode() -> dict[str, Iterable[pa.Table]]:
        blocks = document_blocks(total, dimension), query_blocks(total, dimension, positives)
        documents, queries = (embedding_shards(each, dimension) for each in blocks)
        return {"documents": documents, "queries": queries}

    label = f"copies{total}x{num_queries}"
    return _given("ingest", label, ingest, {}), _given("encode", label, encode, {"dimension": dimension})


def _given(
    stage: str,
    label: str,
    tables: Callable[[], Mapping[str, Iterable[pa.Table]]],
    facts: Mapping[str, object],
) -> Step:
    def run(work: Work) -> Artifact:
        counts = {}
        for table, shards in tables().items():
            for index, shard in enumerate(shards):
                work.writer.write_shard(table, index, shard)
                counts[table] = index + 1
        return work.commit(counts, facts)

    return Step(stage, label, 1, {}, (), {}, run)


class TimedWork(Work):
    """A step at work that keeps the seconds of its tiles: the commit sweeps their receipts away."""

    tile_seconds: Sequence[float] = ()

    def commit(self, *args: Any, **kwargs: Any) -> Artifact:
        """Read the receipts, then commit."""
        keys = self.writer.storage.list(self.writer.key)
        tables = {key.rpartition("/")[2].partition("-")[0] for key in keys if "/tiles_" in key}
        shards = [shard for table in tables for shard in self.writer.finished(table).values()]
        self.tile_seconds = [shard.seconds for shard in shards]
        return super().commit(*args, **kwargs)


def run_step(step: Step, store: ArtifactStore, session: Session | None) -> tuple[float, Sequence[float]]:
    """Compute a step anew; return its seconds and those of its tiles."""
    store.storage.delete(step.key)
    inputs = {name: store.get(of.key) for name, of in step.inputs.items()}
    writer = store.open(step.stage, step.label, step.fingerprint)
    work = TimedWork(step, inputs, writer, session, Progress(Console(quiet=True)))  # type: ignore[arg-type]
    started = perf_counter()
    step.run(work)
    return perf_counter() - started, work.tile_seconds


class Memory:
    """The resident memory of this process, sampled; MiB."""

    def __init__(self) -> None:
        self._process, self.peak_mb = psutil.Process(), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> float:
        """Return what is held now."""
        return float(self._process.memory_info().rss) / 2**20

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, self.now())
            sleep(0.02)


def bounds(args: argparse.Namespace) -> dict[str, int]:
    """Return bounds that cut the search into about ``args.tiles`` tiles, as many groups as parts; else none."""
    if args.side != "tiles":
        return {}
    groups = min(isqrt(args.tiles), -(-args.documents[0] // SHARD_ROWS))
    held = args.documents[0] * args.dimension * 4 / 2**20
    return {
        "group_mb": max(1, int(held / groups)),
        "tile_queries": max(1, args.num_queries * groups // args.tiles),
    }


def mine(args: argparse.Namespace) -> dict[str, object]:
    """Search and select at one size; in a process of its own."""
    store, (total,) = ArtifactStore(str(args.work)), args.documents
    steps = given_steps(total, args.num_queries, args.dimension, args.path)
    if args.side == "make":
        for step in (*steps, *given_steps(512, 64, args.dimension, args.path)):
            run_step(step, store, None)
        return {}
    search = search_step(*steps, "train", SearchConfig(retrieval_depth=args.depth, **bounds(args)))
    select = select_step(steps[0], {"model": search}, SelectConfig())
    told: dict[str, list[Any]] = {"search": [], "select": [], "held_mb": [], "tiles": []}
    with Session(load_definition("local")) as session:
        warm = given_steps(512, 64, args.dimension, args.path)
        run_step(search_step(*warm, "train", SearchConfig(retrieval_depth=4)), store, session)
        memory = Memory()
        for _ in range(args.rounds):
            memory.peak_mb = before = memory.now()
            seconds, tiles = run_step(search, store, session)
            told["search"].append(seconds)
            told["tiles"].append(tiles)
            told["held_mb"].append((before, memory.peak_mb))
            _document_keys.cache_clear()
            told["select"].append(run_step(select, store, session)[0])
            told["held_mb"][-1] += (memory.peak_mb,)
    return dict(told)


def child(args: argparse.Namespace, side: str, total: int, work: Path) -> tuple[dict[str, Any], Child]:
    """Run one side at one size in a process of its own."""
    command = [
        "tests.bench.linear",
        str(args.path),
        f"--side={side}",
        f"--work={work}",
        f"--documents={total}",
    ]
    for name in ("num_queries", "dimension", "depth", "rounds", "tiles"):
        command.append(f"--{name.replace('_', '-')}={getattr(args, name)}")
    ended = run_child(command, work / "log")
    return json.loads((work / "told.json").read_text()), ended


def show_growth(sizes: Sequence[int], told: Sequence[Mapping[str, Any]], children: Sequence[Child]) -> None:
    """Print a row a size, and how far the times lie from a straight line."""
    print(
        f"{'documents':>10} {'search':>9} {'select':>9} {'both a document':>16}   driver: held, +search, +select"
    )
    both = []
    for total, each, ended in zip(sizes, told, children, strict=True):
        search, select = (statistics.median(each[name]) for name in ("search", "select"))
        both.append(search + select)
        ratio = both[-1] / total / (both[0] / sizes[0])
        before, searched, selected = each["held_mb"][-1]
        print(
            f"{total:10,} {search:7.2f} s {select:7.2f} s {both[-1] / total * 1e6:9.1f} us {ratio:4.2f}"
            f"   {before:6.0f}, +{searched - before:.0f}, +{selected - before:.0f} MiB;"
            f" with children at most {ended.peak_mb:,.0f} MiB"
        )
    if len(sizes) > 2:
        slope, start = np.polyfit(sizes, both, 1, w=1 / np.array(both))
        off = max(abs(start + slope * total - took) / took for total, took in zip(sizes, both, strict=True))
        print(
            f"  a straight line: {start:.2f} s and {slope * 1e6:.1f} us a document; at most {off:.1%} off it"
        )


def show_tail(seconds: Sequence[float]) -> None:
    """Print how the seconds of shards are spread."""
    marks = np.quantile(seconds, (0.01, 0.5, 0.9, 0.99, 1.0))
    names = ("1%", "median", "90%", "99%", "slowest")
    shown = ", ".join(f"{name} {mark:.3f}" for name, mark in zip(names, marks, strict=True))
    slow = sum(each > 2 * marks[1] for each in seconds)
    print(f"  {len(seconds):,} tiles, seconds each: {shown}; {slow} took more than twice the median")
    print("  (the first tile of a group of documents on an actor loads the group)")


def main() -> None:
    """Print the tables; with --side do one size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="a folder in BEIR's layout, in Parquet")
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 80_000, 320_000])
    parser.add_argument("--num-queries", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--tiles", type=int, default=1000, help="of one more search at the largest size; 0: none"
    )
    parser.add_argument("--side", choices=("make", "mine", "tiles"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        (args.work / "told.json").write_text(json.dumps(mine(args)))
        return
    print(
        f"{machine()}\n{args.num_queries:,} queries, d = {args.dimension}, k = {args.depth}, {args.rounds} round(s)"
    )
    with tempfile.TemporaryDirectory(prefix="stope-bench-") as name:
        told, children, work = [], [], Path(name)
        for total in sorted(args.documents):
            child(args, "make", total, work)
            answer, ended = child(args, "mine", total, work)
            told.append(answer)
            children.append(ended)
        show_growth(sorted(args.documents), told, children)
        if args.tiles:
            answer, _ = child(args, "tiles", max(args.documents), work)
            show_tail(answer["tiles"][-1])


if __name__ == "__main__":
    main()
