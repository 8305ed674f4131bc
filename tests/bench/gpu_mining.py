"""How near encoding and search come to what one device can do; needs torch and transformers, and what they bring.

    python -m tests.bench.gpu_mining --json result.json
    python -m tests.bench.gpu_mining --tiny             # seconds on a processor: that it runs, not how fast

Peaks are measured, not looked up: a large matrix product in each dtype, a copy of a gigabyte. Encoding: random weights
of two shapes, `embed` from token ids in host memory to embeddings in host memory, beside the forward pass alone over
batches that are on the device. Its operations are 2 x non-embedding parameters x real tokens, padding not counted;
the share with attention adds 4 x layers x width x length for each token. Search: `top_k` (the fused backend with exact
scores, ties in order), the fused backend alone, and the whole matrix of scores with topk behind it, which writes and
reads every score and so cannot beat the copy limit. bfloat16 scores do not order candidates as float32 ones do.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import transformers
from transformers import BertConfig, BertModel

from models.encoder import Encoder
from models.inference import embed, plan_batches
from models.precision import resolve_dtype
from models.search.backends import search_torch
from models.search.exact import Documents
from models.tokenization import Tokens

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SHAPES = {
    "bert-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "minilm-6": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
}
"""Name -> what a BERT of this shape is made of; bert-large has 335M parameters, minilm-6 22.7M."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        product: Rows and columns of the square matrices of a product.
        copy_mb: MiB of a copy.
        texts: Texts of 512 tokens; short ones get four times as many.
        token_budget: Of one forward pass.
        shapes: Names in SHAPES.
        queries: Of a search.
        documents: Of a search.
        dimensions: Of embeddings.
        depth: Documents kept for each query.
        rounds: Repetitions; medians are shown, the first is left out.
    """

    product: int = 8192
    copy_mb: int = 1024
    texts: int = 2048
    token_budget: int = 65_536
    shapes: tuple[str, ...] = ("bert-large", "minilm-6")
    queries: int = 16_384
    documents: int = 1_000_000
    dimensions: tuple[int, ...] = (384, 768, 1024)
    depth: int = 100
    rounds: int = 5


TINY = Sizes(512, 16, 16, 2048, ("tiny",), 256, 8192, (32, 64), 10, 2)


class Clock:
    """Seconds of calls on a device, medians of several.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
        rounds: Measured calls, after one that is not.
    """

    def __init__(self, device: str, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def median(self, call: Callable[[], object]) -> float:
        """Return the median of a call that ends on the host or the device; both are waited for."""
        call()
        seconds = []
        for _ in range(self.rounds):
            self._wait()
            started = perf_counter()
            call()
            self._wait()
            seconds.append(perf_counter() - started)
        return statistics.median(seconds)

    def on_device(self, call: Callable[[], object], repeats: int = 10) -> float:
        """Return the median of a call that only queues work, timed by the device's own events where it has them."""
        if self.device == "cpu":
            return self.median(call)
        call()
        seconds = []
        for _ in range(self.rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(repeats):
                call()
            end.record()
            torch.cuda.synchronize()
            seconds.append(start.elapsed_time(end) / 1000 / repeats)
        return statistics.median(seconds)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Peaks:
    """What the device does at its best.

    Args:
        flops: dtype -> operations a second of a square matrix product.
        copy_bytes: Bytes a second that a copy reads and writes, together.
    """

    flops: dict[str, float]
    copy_bytes: float


def measure_peaks(clock: Clock, sizes: Sizes) -> Peaks:
    """Measure matrix products and a copy."""
    n, flops = sizes.product, {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(n, n, device=clock.device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        flops[name] = 2.0 * n**3 / clock.on_device(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
    source = torch.empty(sizes.copy_mb * 2**20, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    return Peaks(flops, 2.0 * len(source) / clock.on_device(lambda: target.copy_(source)))


def make_encoder(shape: str, device: str) -> Encoder:
    """Return an encoder of random weights in the dtype that the device multiplies fastest."""
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(**SHAPES[shape]), add_pooling_layer=False)
    return Encoder(backbone.to(device, DTYPES[resolve_dtype("auto", device)])).eval()


def random_tokens(lengths: np.ndarray) -> Tokens:
    """Return texts of random tokens."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(0).integers(1000, 30_000, offsets[-1]).astype(np.int32)
    return Tokens(ids, offsets, np.zeros(len(lengths), np.int32))


def encode_rows(clock: Clock, sizes: Sizes, peaks: Peaks) -> list[dict[str, object]]:
    """Measure encoding: every shape, at one length and at lengths as paragraphs have them."""
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(0)
    # A median of 140 and a tail up to the limit, as encyclopedia paragraphs in word pieces.
    mixed = np.clip(rng.lognormal(np.log(140), 0.5, 4 * sizes.texts), 16, 512).astype(np.int64)
    for shape in sizes.shapes:
        encoder = make_encoder(shape, clock.device)
        config, dtype = encoder.backbone.config, str(encoder.dtype).removeprefix("torch.")
        weights = sum(p.numel() for name, p in encoder.named_parameters() if "embeddings." not in name)
        for lengths, what in ((np.full(sizes.texts, 512), "512"), (mixed, "16 to 512")):
            tokens = random_tokens(lengths)
            batches = [
                tokens.take(rows_B).pad(16, 512) for rows_B in plan_batches(lengths, sizes.token_budget)
            ]
            on_device = [[each.to(clock.device) for each in batch] for batch in batches]
            whole = clock.median(lambda e=encoder, t=tokens: embed(e, t, sizes.token_budget))
            bare = clock.median(lambda e=encoder, b=on_device: _forward(e, b))
            total = int(lengths.sum())
            attention = 4.0 * config.num_hidden_layers * config.hidden_size * float((lengths**2).sum())
            rows.append({
                "shape": shape, "parameters": sum(p.numel() for p in encoder.parameters()), "dtype": dtype,
                "tokens a text": what, "tokens_per_s": total / whole, "forward_tokens_per_s": total / bare,
                "share_of_peak": 2.0 * weights * total / whole / peaks.flops[dtype],
                "share_of_peak_with_attention":
                    (2.0 * weights * total + attention) / whole / peaks.flops[dtype],
            })  # fmt: skip
    return rows


@torch.inference_mode()
def _forward(encoder: Encoder, batches: list[list[torch.Tensor]]) -> None:
    for batch in batches:
        encoder(*batch)


def unit_vectors(rows: int, dimension: int, seed: int) -> np.ndarray:
    """Return random directions that float16 holds exactly, float32 [rows, dimension]."""
    x_ND = np.random.default_rng(seed).standard_normal((rows, dimension), dtype=np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND.astype(np.float16).astype(np.float32)


@torch.inference_mode()
def search_unfused(doc_ND: torch.Tensor, q_QD: torch.Tensor, depth: int, block: int = 1024) -> torch.Tensor:
    """Return the rows of the best ``depth`` documents, int64 [Q, depth], by whole rows of scores and topk."""
    parts = [
        (q_QD[start : start + block] @ doc_ND.T).topk(depth).indices for start in range(0, len(q_QD), block)
    ]
    return torch.cat(parts)


def search_fused(documents: Documents, q_QD: np.ndarray, depth: int, block: int = 1024) -> None:
    """Search with the fused backend alone: its survivors are neither scored exactly nor put in order."""
    for start in range(0, len(q_QD), block):
        search_torch(documents, q_QD[start : start + block], documents.survivors(depth))


def search_rows(clock: Clock, sizes: Sizes, peaks: Peaks, dimension: int) -> list[dict[str, object]]:
    """Measure search: fused and unfused, beside the product's peak and the copy limit of an unfused search."""
    documents = Documents(unit_vectors(sizes.documents, dimension, 0), device=clock.device)
    q_QD, depth = unit_vectors(sizes.queries, dimension, 1), sizes.depth
    exact_QK = documents.top_k(q_QD[:256], depth, "torch")[1]
    rows: list[dict[str, object]] = []

    def add(name: str, dtype: str, call: Callable[[], object], found_QK: np.ndarray | None = None) -> None:
        # An unfused search writes each score once and reads it once.
        limit = peaks.copy_bytes / (2.0 * DTYPES[dtype].itemsize) * 2.0 * dimension
        rate = 2.0 * sizes.queries * sizes.documents * dimension / clock.median(call)
        row = {"search": name, "dimension": dimension, "dtype": dtype, "flops_per_s": rate}
        row |= {"of_peak": rate / peaks.flops[dtype], "copy_limit": limit, "of_copy_limit": rate / limit}
        rows.append(row | {"as_exact": None if found_QK is None else _overlap(exact_QK, found_QK)})

    add("top_k, exact and in order", "float32", lambda: documents.top_k(q_QD, depth, "torch"))
    add("fused backend alone", "float32", lambda: search_fused(documents, q_QD, depth))
    for name, dtype in DTYPES.items():
        doc_ND, on_device = documents.tensor_ND.to(dtype), torch.from_numpy(q_QD).to(clock.device, dtype)
        found_QK = search_unfused(doc_ND, on_device[:256], depth).cpu().numpy()
        add("unfused", name, partial(search_unfused, doc_ND, on_device, depth), found_QK)
    return rows


def _overlap(exact_QK: np.ndarray, found_QK: np.ndarray) -> float:
    """Return the share of the exact candidates that were found."""
    pairs = zip(exact_QK, found_QK, strict=True)
    return float(np.mean([len(np.intersect1d(exact, found)) / len(exact) for exact, found in pairs]))


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    tera, peaks = 1e12, result["peaks"]
    print(result["machine"])
    rates = ", ".join(f"{name} {rate / tera:.2f} TFLOP/s" for name, rate in peaks["flops"].items())
    print(f"peaks: {rates}; copy {peaks['copy_bytes'] / 1e9:.0f} GB/s read and written")
    print(f"\n{'encode':34} {'tokens/s':>12} {'forward alone':>14} {'of peak':>8} {'with attention':>15}")
    for row in result["encode"]:
        name = f"{row['shape']} {row['parameters'] / 1e6:.0f}M {row['dtype']}, {row['tokens a text']}"
        print(f"  {name:32} {row['tokens_per_s']:12,.0f} {row['forward_tokens_per_s']:14,.0f} "
              f"{row['share_of_peak']:8.1%} {row['share_of_peak_with_attention']:15.1%}")  # fmt: skip
    print(f"\n{'search':48} {'TFLOP/s':>9} {'of peak':>8} {'copy limit':>11} {'of it':>6} {'as exact':>9}")
    for row in result["search"]:
        name = f"d = {row['dimension']}, {row['search']}, {row['dtype']}"
        same = "" if row["as_exact"] is None else f"{row['as_exact']:.2%}"
        print(f"  {name:46} {row['flops_per_s'] / tera:9.3f} {row['of_peak']:8.1%} "
              f"{row['copy_limit'] / tera:11.3f} {row['of_copy_limit']:6.2f} {same:>9}")  # fmt: skip


def machine(device: str) -> str:
    """Return one line on the device and the libraries."""
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.processor() or platform.machine()}, "
    )
    threads = "" if device == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{name}{threads}, torch {torch.__version__}, transformers {transformers.__version__}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small enough for a processor")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = TINY if args.tiny else Sizes()
    clock = Clock(device, sizes.rounds)
    peaks = measure_peaks(clock, sizes)
    result: dict[str, object] = {"machine": machine(device), "sizes": asdict(sizes), "peaks": asdict(peaks)}
    result["encode"] = encode_rows(clock, sizes, peaks)
    result["search"] = [row for d in sizes.dimensions for row in search_rows(clock, sizes, peaks, d)]
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
