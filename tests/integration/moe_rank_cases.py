"""The ranks of test_moe_ranks.py: they train a tiny encoder with experts in every case and write what came of it.

python tests/integration/moe_rank_cases.py FOLDER
"""

import os
import sys
from itertools import product
from pathlib import Path

import deepspeed
import numpy as np
import torch
from deepspeed.moe.layer import MoE
from torch import distributed

from models.moe.upcycle import Upcycling, moe_blocks, upcycle
from pipelines.train.config import TrainConfig
from pipelines.train.expert_parallel import share_out
from tests.integration.rank_cases import RATE, outcome, small_plan, tiny_encoder, train
from tests.rank_processes import run_worlds
from tests.unit.models.moe.tiny_backbones import FAMILIES, make_encoder, make_texts

WORLDS = (1, 2, 4)
NUM_EXPERTS = 4
MOE = {"where": "ffn", "num_experts": NUM_EXPERTS, "load_balancing_loss": 0.3}
# Otherwise weights as small as these are never shared out.
ALL_SHARED = {
    "zero_optimization": {"stage3_param_persistence_threshold": 0, "stage3_model_persistence_threshold": 0}
}
LORA = {"rank": 2, "alpha": 4, "targets": ["*"]}


def settings_of(stage, lora, gradcache, checkpointing):
    return {
        "zero_stage": stage,
        "moe": MOE,
        "gradient_checkpointing": checkpointing,
        **({"deepspeed": ALL_SHARED} if stage == 3 else {}),
        **({"lora": LORA} if lora else {}),
        **({"gradcache_chunk": 3} if gradcache else {}),
    }


def name_of(stage, lora, gradcache, checkpointing):
    parts = ((lora, "lora"), (gradcache, "gradcache"), (checkpointing, "checkpointing"))
    return " ".join([f"zero-{stage}", *(name for on, name in parts if on)])


CHECKPOINTED = ((1, False, False, True), (3, False, True, True), (3, True, True, True))
MATRIX = {
    name_of(*each): settings_of(*each)
    for each in (*product((1, 2, 3), (False, True), (False, True), (False,)), *CHECKPOINTED)
}
"""Every ZeRO stage, with adapters and without, in one pass and in many; some with activations computed again."""
CASES = {
    **MATRIX,
    "intermediate": {"moe": {**MOE, "only_train": "intermediate"}, "zero_stage": 2},
    "router": {"moe": {**MOE, "only_train": "router"}},
    "no balance": {"moe": {**MOE, "load_balancing_loss": 0.0}},
    "clp": {"moe": {**MOE, "router": "clp", "load_balancing_loss": 0.0}},
    "two of four": {
        "moe": {**MOE, "where": "up", "experts_per_token": 2, "layers": [-1]},
        "gradcache_chunk": 3,
    },
}
SHARED = {
    f"{name} shared": {**settings, "moe": {**MOE, "engine": "deepspeed"}}
    for name, settings in MATRIX.items()
    if "lora" not in name and settings["zero_stage"] < 3
}
"""The same with experts shared among the ranks."""
PAIRED = {
    "two experts": {"moe": {**MOE, "num_experts": 2}, "zero_stage": 2},
    "two a token": {"moe": {**MOE, "experts_per_token": 2}, "gradcache_chunk": 3},
}
CASES |= (
    SHARED
    | PAIRED
    | {
        "intermediate shared": {
            "moe": {**MOE, "only_train": "intermediate", "engine": "deepspeed"},
            "zero_stage": 2,
        },
        **{
            f"{name} shared": {**each, "moe": {**each["moe"], "engine": "deepspeed"}}
            for name, each in PAIRED.items()
        },
    }
)
IN_FOUR = ("zero-2 shared", "zero-1 gradcache shared", "two experts shared", "two a token shared")
"""Cases of four ranks; with two experts each is held by two of them."""
RESUMED = ("zero-2", "zero-3 lora", "zero-2 shared", "zero-1 shared")


def reference(plan):
    """Three steps in plain torch: one process, text by text, the balance by loops over tokens."""
    order, queries, documents = plan
    encoder = tiny_encoder()
    upcycle(encoder, Upcycling(where="ffn", num_experts=NUM_EXPERTS), TrainConfig().seed)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    matrices = [p for name, p in encoder.named_parameters() if p.ndim >= 2 and not name.endswith("bias")]
    others = [p for name, p in encoder.named_parameters() if p.ndim < 2 or name.endswith("bias")]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=RATE
    )
    logits: list[list[torch.Tensor]] = [[], []]
    for layer, block in enumerate(each.intermediate for each in encoder.backbone.encoder.layer):
        block.router.register_forward_hook(lambda _, __, out, layer=layer: logits[layer].append(out))
    losses, norms, shares = [], [], []

    def embed(store, ordinal):
        return encoder(*store.tokens.take(store.rows(np.asarray([ordinal]))).pad(1))[0]

    for step in range(order.num_steps):
        for of_layer in logits:
            of_layer.clear()
        rows = range(order.first_rows[step], order.first_rows[step + 1])
        negatives = {row: order.negatives[row].as_py() for row in rows}
        present = sorted(
            {*order.positives[list(rows)].tolist(), *(n for some in negatives.values() for n in some)}
        )
        embedded = {document: embed(documents, document) for document in present}
        # What a negative answers is embedded too, whether a loss needs it or not, so its tokens count.
        for query in order.answered(rows):
            embed(queries, query)
        total = 0.0
        for row in rows:
            query, own = embed(queries, order.queries[row]), int(order.positives[row])
            terms = [
                query @ embedded[d] / 0.2
                for d in present
                if d == own or d not in order.masked[row].as_py()
                for _ in range(max(1, negatives[row].count(d)))
            ]
            total = total + torch.logsumexp(torch.stack(terms), 0) - query @ embedded[own] / 0.2
        loss, even, largest = total / len(rows), 0.0, 0.0
        for of_layer in logits:
            every_ME = torch.cat(of_layer)
            for expert in range(NUM_EXPERTS):
                share = sum(int(row.argmax()) == expert for row in every_ME) / len(every_ME)
                even = even + NUM_EXPERTS * share * every_ME.softmax(-1)[:, expert].mean()
                largest = max(largest, share)
        optimizer.zero_grad()
        (loss + MOE["load_balancing_loss"] * even).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
        shares.append(largest)
    return {name: p.detach() for name, p in encoder.named_parameters()}, losses, norms, shares


def run(settings, plan, resume_at=None):
    weights, history = train(settings, plan, resume_at)
    return *outcome(weights, history), [record.largest_expert_share for record in history.steps]


def sharing_out(rank):
    """Return how far the embeddings of this rank's texts move, family by family, when experts are shared out."""
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    moved = {}
    for family in FAMILIES:
        encoder, texts = make_encoder(family), make_texts(5 - rank, 12, seed=rank)
        upcycle(encoder, Upcycling(where="ffn", num_experts=NUM_EXPERTS, experts_per_token=2), 0)
        generator = torch.Generator().manual_seed(0)
        for block in moe_blocks(encoder):
            for weight in (*block.up.parameters(), *block.down.parameters()):
                weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
        with torch.no_grad():
            expected_BD = encoder(*texts)
            share_out(encoder.backbone)
            for module in encoder.modules():
                if isinstance(module, MoE):
                    module.set_deepspeed_parallelism()
            moved[family] = float((encoder(*texts) - expected_BD).abs().max())
    every = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, moved)
    return every


def run_rank(rank, world, folder):
    """Run every case as one of ``world`` ranks; rank 0 writes what came of it."""
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    plan = small_plan()
    results = {"sharing out": sharing_out(rank)}
    for case, settings in CASES.items():
        if world == 4 and case not in IN_FOUR:
            continue
        results[case] = run(settings, plan)
        if world == 2 and case in RESUMED:
            results[f"{case} resumed"] = run(settings, plan, resume_at=2)
            results[f"{case} again"] = run(settings, plan)
    if world == 1:
        results["reference"] = reference(plan)
        encoder = tiny_encoder()
        upcycle(encoder, Upcycling(where="ffn", num_experts=NUM_EXPERTS), TrainConfig().seed)
        results["start"] = encoder.state_dict()
    if rank == 0:
        torch.save(results, folder / "results.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def main():
    run_worlds(run_rank, {str(world): world for world in WORLDS}, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
