"""How near a training step comes to what one device can do; needs torch, transformers and peft, and what they bring.

    python -m tests.bench.gpu_training --json result.json
    python -m tests.bench.gpu_training --tiny           # seconds on a processor: that it runs, not how fast

The peak is measured: a large matrix product in the dtype of the step. Two models of random weights: an encoder of
335M parameters, all of them trained (float32 weights, products in bfloat16), and a decoder shaped as a 7B one,
bidirectional, frozen in bfloat16 but for LoRA adapters of its linear layers, activations computed again in the backward
pass. A step is forward, InfoNCE over all documents of the batch, backward, clipping and AdamW. GradCache takes a batch
several times as large through passes of the plain step's size.

Operations are those that the gradient needs, whatever is computed twice: 6 x non-embedding parameters x real tokens,
4 x where the weights are frozen (no gradient of theirs).
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertModel, MistralConfig, MistralModel

from models.adapters import Lora, add_lora
from models.encoder import Encoder
from models.losses.batch import LossBatch
from models.losses.infonce import infonce
from pipelines.train.gradcache import backward_passes, embed_passes
from tests.bench.gpu_mining import Clock, machine

LORA = Lora(
    rank=16,
    alpha=32.0,
    dropout=0.0,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
TEMPERATURE = 0.02
NEGATIVES = 1

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A model and a batch.

    Args:
        name: In the table.
        config: Of the backbone.
        lora: Whether only adapters are trained.
        rows: Queries of the plain step, each with a positive and a negative.
        chunks: How many times as many GradCache takes.
        query_tokens: Of every query.
        document_tokens: Of every document.
    """

    name: str
    config: dict[str, int]
    lora: bool
    rows: int
    chunks: int
    query_tokens: int
    document_tokens: int


BERT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
MISTRAL_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "vocab_size": 32_000,
}
TINY_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
TINY_MISTRAL = {**TINY_BERT, "num_key_value_heads": 2, "vocab_size": 500}
CASES = (
    Case("encoder 335M, all weights", BERT_LARGE, False, 64, 8, 64, 512),
    Case("decoder 7B, LoRA 16", MISTRAL_7B, True, 16, 8, 192, 512),
)
TINY = (
    Case("encoder, all weights", TINY_BERT, False, 4, 2, 8, 16),
    Case("decoder, LoRA 16", TINY_MISTRAL, True, 4, 2, 8, 16),
)


class Step(nn.Module):
    """One model under training, with the calls of an engine that GradCache makes.

    Args:
        case: Model and batch.
        device: ``"cuda"`` or ``"cpu"``.
    """

    def __init__(self, case: Case, device: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case, self.device = case, torch.device(device)
        self.encoder = make_encoder(case, device)
        trained = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        self.trained = trained
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def forward(self, passes: Sequence[Inputs], _seeds: Sequence[int] = ()) -> list[torch.Tensor]:
        """Embed batches; products in bfloat16."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            return [self.encoder(*inputs) for inputs in passes]

    def backward(self, loss: torch.Tensor) -> None:
        """Add up gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        """Gradients stay where they are: there is one device."""

    def inputs(self, rows: int) -> list[Inputs]:
        """Return random queries and documents of ``rows`` rows."""
        case, vocabulary = self.case, int(self.encoder.backbone.config.vocab_size)
        sizes = ((rows, case.query_tokens), (rows * (1 + NEGATIVES), case.document_tokens))
        ids = [torch.randint(5, vocabulary, size, device=self.device) for size in sizes]
        return [(each, torch.ones_like(each), torch.ones_like(each)) for each in ids]

    def plain(self, inputs: list[Inputs]) -> None:
        """Do one step with the whole batch at once."""
        q_BD, doc_ND = self(inputs)
        self.backward(loss_of(q_BD, doc_ND))
        self.update()

    def cached(self, passes: list[Inputs], num_queries: int) -> None:
        """Do one step through GradCache: ``num_queries`` passes of queries, then those of documents."""
        cache = embed_passes(self, list(passes), [0] * len(passes))
        q_BD = torch.cat(cache.embedded[:num_queries])
        doc_ND = torch.cat(cache.embedded[num_queries:])
        backward_passes(self, cache, loss_of(q_BD, doc_ND))
        self.update()

    def update(self) -> None:
        """Clip, take AdamW's step, drop the gradients."""
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def flops(self, rows: int) -> float:
        """Return the operations that the gradient of ``rows`` rows needs."""
        case = self.case
        tokens = rows * (case.query_tokens + (1 + NEGATIVES) * case.document_tokens)
        weights = sum(
            parameter.numel()
            for name, parameter in self.encoder.named_parameters()
            if "embed" not in name and "lora" not in name
        )
        return (4.0 if case.lora else 6.0) * weights * tokens


def make_encoder(case: Case, device: str) -> Encoder:
    """Return the model of a case, ready to be trained."""
    if not case.lora:
        backbone: nn.Module = BertModel(BertConfig(**case.config), add_pooling_layer=False)
        return Encoder(backbone.to(device)).train()
    with torch.device(device):
        config = MistralConfig(**case.config, sliding_window=None, use_cache=False)
        config.is_causal = False
        torch.set_default_dtype(torch.bfloat16)
        try:
            backbone = MistralModel(config)
        finally:
            torch.set_default_dtype(torch.float32)
        add_lora(backbone, LORA, seed=0)
    backbone.gradient_checkpointing_enable({"use_reentrant": False})
    return Encoder(backbone.to(device)).train()


def loss_of(q_BD: torch.Tensor, doc_ND: torch.Tensor) -> torch.Tensor:
    """Return InfoNCE: a row's positive stands before its negative, all documents are negatives of the others."""
    rows = len(q_BD)
    positive_B = torch.arange(rows, device=q_BD.device) * (1 + NEGATIVES)
    mask_BN = torch.ones(rows, len(doc_ND), dtype=torch.bool, device=q_BD.device)
    weights_B = torch.ones(rows, device=q_BD.device)
    batch = LossBatch(q_BD, doc_ND, positive_B, mask_BN, weights_B, rows)
    return infonce(batch, temperature=TEMPERATURE)


def peak_flops(clock: Clock, size: int) -> float:
    """Return the operations a second of a square product in bfloat16."""
    a, b = (torch.randn(size, size, device=clock.device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2.0 * size**3 / clock.on_device(lambda: torch.mm(a, b, out=out))


def measure(clock: Clock, case: Case, peak: float) -> list[dict[str, object]]:
    """Time the plain step, and GradCache on a batch ``case.chunks`` times as large, seconds a plain batch."""
    step, rows = Step(case, clock.device), []

    def add(name: str, num_rows: int, call: Callable[[], object]) -> None:
        if clock.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = clock.median(call)
        memory = torch.cuda.max_memory_allocated() / 2**30 if clock.device == "cuda" else float("nan")
        tokens = num_rows * (case.query_tokens + (1 + NEGATIVES) * case.document_tokens)
        rows.append({
            "case": case.name, "step": name, "rows": num_rows, "seconds": seconds, "memory_gb": memory,
            "tokens_per_s": tokens / seconds, "of_peak": step.flops(num_rows) / seconds / peak,
            "seconds_a_plain_batch": seconds * case.rows / num_rows,
        })  # fmt: skip

    inputs = step.inputs(case.rows)
    add("plain", case.rows, partial(step.plain, inputs))
    pieces = [step.inputs(case.rows) for _ in range(case.chunks)]
    passes = [piece[0] for piece in pieces] + [piece[1] for piece in pieces]
    add("GradCache", case.rows * case.chunks, partial(step.cached, passes, case.chunks))
    return rows


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{result['machine']}; peak {result['peak'] / 1e12:.2f} TFLOP/s in bfloat16")
    print(f"\n{'':42} {'queries':>8} {'s a step':>9} {'tokens/s':>10} {'of peak':>8} {'GiB':>7}")
    for row in result["steps"]:
        print(f"  {row['case'] + ', ' + row['step']:40} {row['rows']:8,} {row['seconds']:9.3f} "
              f"{row['tokens_per_s']:10,.0f} {row['of_peak']:8.1%} {row['memory_gb']:7.1f}")  # fmt: skip
    by_case: dict[str, list[float]] = {}
    for row in result["steps"]:
        by_case.setdefault(row["case"], []).append(row["seconds_a_plain_batch"])
    for case, (plain, cached) in by_case.items():
        print(f"  {case}: GradCache takes {cached / plain:.2f} of the plain step's time a query")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small enough for a processor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = Clock(device, args.rounds)
    peak = peak_flops(clock, 512 if args.tiny else 8192)
    steps: list[dict[str, object]] = []
    cases = TINY if args.tiny else CASES
    for case in cases:
        steps += measure(clock, case, peak)
    result = {
        "machine": machine(device),
        "peak": peak,
        "cases": [asdict(each) for each in cases],
        "steps": steps,
    }
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
