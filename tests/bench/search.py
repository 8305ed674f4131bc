"""How fast exact search is beside plain ``faiss.knn``, on the same arrays in the same run.

    python -m tests.bench.search                    # 3e12 operations, a minute or two
    python -m tests.bench.search --num-queries 65536 --num-documents 1000000     # 5e13 operations

In memory: the two backends, canonical scores and ties included, beside ``faiss.knn``, which has neither. End to
end: the search step on a local session, shards of float16 embeddings read and candidates written. Rounds alternate,
so that other load falls on all alike.
"""

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console

from cluster.artifacts import Artifact, ArtifactStore
from cluster.definition import load_definition
from cluster.session import Session
from pipelines import schemas
from pipelines.progress import Progress
from pipelines.search.config import SearchConfig
from pipelines.search.pipeline import search_step
from pipelines.steps import Step, Work

SHARD_ROWS = 8192


def name_the_processor() -> str:
    """Tell OpenBLAS, which faiss brings, what it runs on: one that does not know the processor is five times slower.

    Returns:
        One line on the processor and the kernels.
    """
    with open("/proc/cpuinfo") as file:
        lines = file.read().splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    if "avx2" in flags:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX" if "avx512f" in flags else "HASWELL")
    kernels = os.environ.get("OPENBLAS_CORETYPE", "as OpenBLAS finds")
    return (
        f"{name}, {len(os.sched_getaffinity(0))} cores, kernels {kernels}, python {platform.python_version()}"
    )


def unit_vectors(rows: int, dimension: int, seed: int) -> np.ndarray:
    """Return random embeddings that float16 holds exactly, float32 [rows, dimension]."""
    rng = np.random.default_rng(seed)
    x_ND = np.empty((rows, dimension), np.float32)
    for start in range(0, rows, SHARD_ROWS):
        block = rng.standard_normal((min(SHARD_ROWS, rows - start), dimension), dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        x_ND[start : start + SHARD_ROWS] = block.astype(np.float16)
    return x_ND


class Store:
    """A store with ingest and encode artifacts of random content.

    Args:
        root: Its folder.
        session: The cluster.
    """

    def __init__(self, root: Path, session: Session) -> None:
        self._store, self._session = ArtifactStore(str(root)), session

    def run(self, step: Step) -> Artifact:
        """Run a step over what is in the store."""
        inputs = {name: self._store.get(of.key) for name, of in step.inputs.items()}
        writer = self._store.open(step.stage, step.label, step.fingerprint)
        return step.run(Work(step, inputs, writer, self._session, Progress(Console(quiet=True))))

    def agreement(self, step: Step, expected: np.ndarray) -> float:
        """Return in how many places the candidates name the document that ``expected`` (int64 [Q, k]) does."""
        found = self._store.get(step.key)
        same = first = 0
        for index in range(found.num_shards("candidates")):
            shard = found.read_shard("candidates", index)
            docs = shard.column("doc").to_numpy()[shard.column("rank").to_numpy() > 0]
            docs_QK = docs.reshape(-1, expected.shape[1])
            same += int((docs_QK == expected[first : first + len(docs_QK)]).sum())
            first += len(docs_QK)
        return same / expected.size

    def forget(self, step: Step) -> None:
        """Remove the artifact, so that the next round computes it again."""
        self._store.storage.delete(step.key)

    def ingest(self, label: str, num_queries: int) -> Step:
        """Commit queries that have one positive each."""
        ordinals = np.arange(num_queries)
        names = pa.array([f"q{query}" for query in range(num_queries)])
        columns = {"query": ordinals, "query_id": names, "text": names, "dataset": names, "task": names}
        queries = pa.table({**columns, "language": pa.nulls(num_queries, pa.string())})
        split = pa.repeat(pa.scalar("train", pa.string()), num_queries)
        qrels = {
            "query": ordinals,
            "doc": ordinals,
            "relevance": np.ones(num_queries, np.float32),
            "split": split,
        }
        tables = {
            "queries": [
                schemas.conform(queries.slice(start, SHARD_ROWS), schemas.QUERIES)
                for start in range(0, num_queries, SHARD_ROWS)
            ],
            "qrels": [schemas.conform(pa.table(qrels), schemas.QRELS)],
        }
        return self._commit("ingest", label, tables, {})

    def encode(self, label: str, doc_ND: np.ndarray, q_QD: np.ndarray) -> Step:
        """Commit embeddings in float16 shards."""
        dimension = doc_ND.shape[1]
        schema = schemas.embeddings(dimension, "float16")
        tables: dict[str, list[pa.Table]] = {"documents": [], "queries": []}
        for name, x_ND in (("documents", doc_ND), ("queries", q_QD)):
            for start in range(0, len(x_ND), SHARD_ROWS):
                values = x_ND[start : start + SHARD_ROWS].astype(np.float16)
                column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dimension)
                ids = np.arange(start, start + len(values))
                tables[name].append(schemas.conform(pa.table({"id": ids, "embedding": column}), schema))
        return self._commit("encode", label, tables, {"dimension": dimension})

    def _commit(
        self, stage: str, label: str, tables: dict[str, list[pa.Table]], summary: dict[str, object]
    ) -> Step:
        def run(work: Work) -> Artifact:
            for table, shards in tables.items():
                for index, shard in enumerate(shards):
                    work.writer.write_shard(table, index, shard)
            return work.commit({table: len(shards) for table, shards in tables.items()}, summary)

        step = Step(stage, label, 1, {}, (), {}, run)
        self.run(step)
        return step


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = perf_counter()
    call()
    return perf_counter() - started


def show(work: float, seconds: dict[str, list[float]], reference: str) -> None:
    """Print medians, rates and ratios."""
    best = min(seconds[reference])
    for name, each in seconds.items():
        median = statistics.median(each)
        print(
            f"  {name:34} {median:8.2f} s {work / median / 1e9:8.0f} GFLOP/s   "
            f"{statistics.median(seconds[reference]) / median:5.2f} of faiss.knn   best {best / min(each):5.2f}"
        )


def in_memory(num_queries: int, num_documents: int, depth: int, rounds: int) -> None:
    """Print how the backends compare with faiss.knn in this process, on all its cores."""
    import faiss
    import torch

    from models.search.exact import Documents

    cores = len(os.sched_getaffinity(0))
    faiss.omp_set_num_threads(cores)
    torch.set_num_threads(cores)
    for dimension in (384, 768):
        doc_ND, q_QD = unit_vectors(num_documents, dimension, 0), unit_vectors(num_queries, dimension, 1)
        documents = Documents(doc_ND)
        calls: dict[str, Callable[[], object]] = {
            "faiss.knn": partial(faiss.knn, q_QD, doc_ND, depth, metric=faiss.METRIC_INNER_PRODUCT),
            "top_k, faiss": partial(documents.top_k, q_QD, depth, "faiss"),
            "top_k, torch": partial(documents.top_k, q_QD, depth, "torch"),
        }
        print(
            f"\nin memory: {num_queries:,} queries, {num_documents:,} documents, d = {dimension}, k = {depth}"
        )
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(timed(call))
        show(2.0 * num_queries * num_documents * dimension, seconds, "faiss.knn")


def end_to_end(args: argparse.Namespace, folder: Path) -> None:
    """Print how the search step compares with faiss.knn on arrays that are in memory already."""
    import faiss

    doc_ND = unit_vectors(args.num_documents, args.dimension, 0)
    q_QD = unit_vectors(args.num_queries, args.dimension, 1)
    work = 2.0 * args.num_queries * args.num_documents * args.dimension
    print(
        f"\nend to end: {args.num_queries:,} queries, {args.num_documents:,} documents, d = {args.dimension}, "
        f"k = {args.depth}, {work:.1e} operations"
    )
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    with Session(load_definition("local")) as session:
        store = Store(folder, session)
        data, warm_data = store.ingest("full", args.num_queries), store.ingest("warm", 64)
        embeddings = store.encode("full", doc_ND, q_QD)
        warm = store.encode("warm", doc_ND[:512], q_QD[:64])
        config = SearchConfig(retrieval_depth=args.depth, group_mb=args.group_mb)
        first = timed(partial(store.run, search_step(warm_data, warm, "train", config)))
        print(f"  the first search of a session, of nearly nothing: {first:.2f} s")
        seconds: dict[str, list[float]] = {"faiss.knn": []}
        process = psutil.Process()
        for _ in range(args.rounds):
            started = perf_counter()
            _, expected = faiss.knn(q_QD, doc_ND, args.depth, metric=faiss.METRIC_INNER_PRODUCT)
            seconds["faiss.knn"].append(perf_counter() - started)
            for backend in args.backends.split(","):
                chosen = config.model_copy(update={"backend": backend})
                step = search_step(data, embeddings, "train", chosen)
                before = process.memory_info().rss
                seconds.setdefault(f"search step, {backend}", []).append(timed(partial(store.run, step)))
                grown = (process.memory_info().rss - before) / 2**20
                same = store.agreement(step, expected)
                print(
                    f"  {backend}: {same:.3%} of the places as faiss.knn, the driver grew by {grown:.0f} MiB"
                )
                store.forget(step)
        show(work, seconds, "faiss.knn")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-queries", type=int, default=20_000)
    parser.add_argument("--num-documents", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--group-mb", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backends", default="torch,faiss")
    parser.add_argument("--skip-memory", action="store_true", help="only end to end")
    args = parser.parse_args()
    print(name_the_processor())
    if not args.skip_memory:
        in_memory(min(4096, args.num_queries), min(100_000, args.num_documents), args.depth, 3)
    with tempfile.TemporaryDirectory(prefix="stope-bench-") as folder:
        end_to_end(args, Path(folder))


if __name__ == "__main__":
    main()
