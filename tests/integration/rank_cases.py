"""The ranks of test_train_ranks.py: they train a tiny model in every case and write what came of it.

python tests/integration/rank_cases.py FOLDER
"""

import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from transformers import BertConfig, BertModel

from cluster.artifacts import ArtifactStore
from models.encoder import Encoder
from models.reranking.network import load_network
from models.reranking.pair_tokens import PairTokenizer
from models.reranking.rendering import make_rendering
from models.reranking.scorers import CrossEncoder
from models.tokenization import Tokens
from pipelines.metrics import Relevance
from pipelines.train import best_weights, checkpoints
from pipelines.train.batches import rank_batch
from pipelines.train.board import History
from pipelines.train.config import TrainConfig
from pipelines.train.dev_config import DevConfig
from pipelines.train.dev_cut import DevCut
from pipelines.train.dev_metric import best
from pipelines.train.dev_watch import DevWatch
from pipelines.train.dropout import pass_seed, row_keys, seed_by_row
from pipelines.train.engine import make_trainable, set_dropout, whole_weights
from pipelines.train.gather import gather
from pipelines.train.messenger import Wish
from pipelines.train.order import Order
from pipelines.train.owner import Owner
from pipelines.train.pair_batches import pair_batch
from pipelines.train.plan import Row, mask_collisions
from pipelines.train.planning import order_table
from pipelines.train.tokens import TokenStore
from pipelines.train.turns import begin_turns
from pipelines.train.worker import take_step
from tests.rank_processes import run_worlds
from tests.tiny_rerankers import make_cross_encoder

WORLDS = (1, 2, 4)
STAGES = (1, 2, 3)
LORA = {"rank": 4, "alpha": 8, "targets": ["query", "output.dense"]}
LOSSES = {
    "partitions": {"partitions": ["q-d", "q-q", "d-d", "d-q"], "hardness": 5.0, "false_negative_margin": 0.5},
    "guide": {"guide": "words", "guide_margin": 0.1, "partitions": ["q-d", "q-q", "d-q"]},
    "own group": {"in_batch_negatives": False},
    "clp": {"name": "clp", "lam": 0.5},
    "soft labels": [
        {"false_negative_margin": 0.1},
        {"name": "soft_labels", "teacher": "judge", "weight": 2.0},
    ],
    "margin": {"name": "margin_mse", "teacher": "words"},
    "listwise": {"name": "listwise_kl", "teacher": "judge", "student_temperature": 0.1},
    "bixse": {"name": "bixse", "teacher": "judge", "sigmoid_targets": True},
    "matryoshka": [
        {"name": "matryoshka", "dimensions": [4, 16], "weights": [0.5, 1.0], "of": [{}, {"name": "clp"}]},
        {"name": "spread_out", "weight": 3.0},
    ],
}
REFERENCE = {
    **{f"zero-{stage}": {"zero_stage": stage} for stage in STAGES},
    **{f"zero-{stage} gradcache": {"zero_stage": stage, "gradcache_chunk": 3} for stage in STAGES},
    **{f"zero-{stage} offload": {"zero_stage": stage, "offload": "optimizer"} for stage in STAGES},
}
"""Cases that must equal plain torch."""
ADAPTED = {
    **{f"zero-{stage} lora": {"zero_stage": stage, "lora": LORA} for stage in STAGES},
    "zero-3 lora gradcache": {"zero_stage": 3, "lora": LORA, "gradcache_chunk": 3},
}
DROPPED = {
    "zero-1 dropout": {"dropout": 0.2},
    **{
        f"zero-{s} dropout gradcache": {"zero_stage": s, "dropout": 0.2, "gradcache_chunk": 3} for s in STAGES
    },
    "zero-3 dropout checkpointing": {"zero_stage": 3, "dropout": 0.2, "gradient_checkpointing": True},
}
"""Cases that must equal plain torch with the same masks."""
SHOWN = {
    "zero-3 few-shot": {"zero_stage": 3, "few_shot": 3, "dropout": 0.2, "gradcache_chunk": 3},
}
"""The same, where every row asks its query behind examples of its own."""
DYNAMIC = {
    "zero-1 dynamic": {},
    "zero-3 dynamic gradcache": {"zero_stage": 3, "gradcache_chunk": 3},
}
"""Cases whose negatives give way as they become easy, and that must equal plain torch with a loop over the queries."""
RATIO, MAX_SCORE = 1.01, 0.98
EPOCHS, QUICK = 5, 3e-3
"""Negatives must become easy within a few steps."""
PAIRS = {
    "pairs zero-1": {"cross_encoder": {}},
    "pairs zero-3 gradcache": {"cross_encoder": {}, "zero_stage": 3, "gradcache_chunk": 3},
}
"""Cases of a cross-encoder that must equal plain torch."""
OF_PAIRS = {
    "pairs binary zero-2 dropout": {
        "cross_encoder": {"loss": {"name": "binary_cross_entropy", "positive_weight": 2.0}},
        "zero_stage": 2,
        "dropout": 0.2,
    },
    "pairs distilled lora": {
        "cross_encoder": {
            "loss": [
                {},
                {"name": "soft_labels", "teacher": "judge"},
                {"name": "margin_mse", "teacher": "words"},
            ]
        },
        "lora": {"rank": 4, "alpha": 8},
    },
}
CASES = {
    **REFERENCE,
    **PAIRS,
    **OF_PAIRS,
    **ADAPTED,
    **DROPPED,
    **SHOWN,
    "zero-2 lora dropout": {"zero_stage": 2, "lora": {**LORA, "dropout": 0.3}},
    "zero-1 margin checkpointing": {"loss": {"false_negative_margin": 0.001}, "gradient_checkpointing": True},
    **{f"loss {name}": {"loss": loss} for name, loss in LOSSES.items()},
    "loss clp zero-3 gradcache": {"zero_stage": 3, "loss": LOSSES["clp"], "gradcache_chunk": 2},
    "zero-2 only some": {"zero_stage": 2, "only_train": ["intermediate.dense.*", "layer.1.attention.*"]},
}
ELASTIC = (
    "zero-1",
    "zero-2",
    "zero-3",
    "zero-1 lora",
    "zero-3 lora",
    "zero-2 offload",
    "zero-3 dropout checkpointing",
)
"""Begun by one rank and ended by two, and the other way round."""
MEASURED = ("zero-1", "zero-3 lora")
"""Measured on a dev cut between the steps."""
METRIC = "ndcg@50"
RESUMED = ("zero-1", "zero-2", "zero-3", "zero-3 lora gradcache")
IN_FOUR = ("zero-1", "zero-3", "zero-3 gradcache", "loss matryoshka", "zero-3 lora gradcache")
RATE = 1e-3
OWNER = Owner("f" * 20, {})


def tiny_encoder():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, attn_implementation="sdpa", initializer_range=0.3,
    )  # fmt: skip
    return Encoder(BertModel(config, add_pooling_layer=False), "mean")


def pair_tokenizer():
    """Return the tokenizer of the tiny cross-encoder, which lies where the script was told to work."""
    rendering = make_rendering("cross_encoder", max_query_tokens=30, max_document_tokens=40)
    return PairTokenizer(Path(sys.argv[1]) / "cross_encoder", rendering)


def tiny_cross_encoder():
    tokenizer = pair_tokenizer()
    return CrossEncoder(load_network(tokenizer.directory, "cross_encoder", "float32", "cpu"), tokenizer)


def texts(ordinals, seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 30, size=len(ordinals))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(1, 50, size=offsets[-1]).astype(np.int32)
    tokens = Tokens(ids, offsets, (np.arange(len(ordinals)) % 2).astype(np.int32))
    vectors = generator.normal(size=(len(ordinals), 4)).astype(np.float16)
    return TokenStore(np.asarray(ordinals), tokens, vectors)


def small_plan():
    """Three batches: whole; ragged, with missing and repeated negatives; one row, fewer than there are ranks."""
    known = {query: frozenset({100 + query}) for query in range(20)}
    known[2] = frozenset({102, 103})
    batches = [
        [Row(query, 100 + query, (120 + query, 130 + query % 3)) for query in range(8)],
        [
            Row(8, 108, ()),
            Row(9, 109, (121,)),
            Row(2, 102, (131, 132)),
            Row(3, 103, (133, 134, 133)),
            Row(10, 110, ()),
        ],
        [Row(11, 111, (122,))],
    ]
    batches = [mask_collisions([with_scores(row) for row in batch], known) for batch in batches]
    order = Order.from_table(order_table(batches), ("words", "judge"))
    return order, texts(range(20), 1), texts(range(100, 150), 2)


def dynamic_plan():
    """Five epochs of two batches; some queries have many negatives left, some a few, some none."""
    known = {query: frozenset({100 + query}) for query in range(9)}
    # What is in the reserve of query 4 must never be pushed away from query 1.
    known[1] = frozenset({101, 124})
    mined = {query: tuple(110 + (7 * query + 4 * place) % 40 for place in range(query)) for query in range(9)}
    mined[4] = (118, 122, 124, 130, 135, 140)
    batches = []
    for epoch in range(EPOCHS):
        drawn = np.random.default_rng((9, epoch)).permutation(9).tolist()
        rows = [Row(q, 100 + q, mined[q][:2], reserve=mined[q][2:], group=q) for q in drawn]
        batches += [mask_collisions(part, known) for part in (rows[:5], rows[5:])]
    return Order.from_table(order_table(batches)), texts(range(9), 1), texts(range(100, 150), 2)


def shown_queries(order):
    """Return the tokens of every row's query behind examples."""
    return texts(range(order.first_rows[-1]), 6)


def with_scores(row):
    """Return the row with scores of two teachers, some missing, and queries that some negatives answer."""
    scores = tuple(
        (round(np.sin(row.query + document), 3), None if document % 7 == 3 else (document % 5) / 2)
        for document in row.documents
    )
    answers = tuple((12, 15, 16)[: negative % 4] for negative in row.negatives)
    return replace(row, scores=scores, answers=answers)


def train(settings, plan, resume_at=None, begun=None, handed_on=None, measured_in=None):
    """Return weights and what is behind them after all steps.

    Args:
        settings: Of the recipe.
        plan: Order and tokens.
        resume_at: A step before which everything is written, thrown away and read again.
        begun: Folder of a checkpoint to begin from.
        handed_on: Folder for a checkpoint in the middle.
        measured_in: Folder for the best weights; measures before and after each step.
    """
    order, queries, documents = plan
    pairs = "cross_encoder" in settings
    temperature = {} if pairs else {"temperature": 0.2}
    config = TrainConfig(**{"learning_rate": RATE, **settings}, **temperature)
    dynamic = config.dynamic_negatives
    rank, world = distributed.get_rank(), distributed.get_world_size()

    def make(reads_universal):
        encoder = tiny_cross_encoder() if pairs else tiny_encoder()
        return make_trainable(encoder, config, "float32", reads_universal)

    if begun:
        trainable, history = checkpoints.restore(begun, OWNER, make, "here")
        groups = trainable.engine.optimizer.param_groups
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0][: len(groups)]
    else:
        trainable, history = make(False), History()
    measure = watched(trainable, history, plan, measured_in) if measured_in else None
    shown = shown_queries(order) if config.few_shot else None
    history.turns = history.turns or (begin_turns(order) if dynamic else None)
    for step in range(len(history.steps), order.num_steps):
        if measure:
            measure()
        if step == order.num_steps // 2 and handed_on:
            checkpoints.write(trainable.engine, history, OWNER, handed_on)
        if step == resume_at:
            with tempfile.TemporaryDirectory() as own:
                folders = [None] * world
                distributed.all_gather_object(folders, own)
                # What Ray Train does: every rank reports a folder, and the files of all are put together.
                checkpoints.write(trainable.engine, history, OWNER, Path(folders[0] if rank % 2 else own))
                distributed.barrier()
                merge(folders, rank)
                trainable, history = checkpoints.restore(Path(folders[0]), OWNER, make, "here")
                distributed.barrier()
        turns = history.turns
        share = (turns.taken(order, step) if turns else order, step, rank, world, queries, documents)
        if pairs:
            batch = pair_batch(*share, pair_tokenizer(), config.gradcache_chunk)
        else:
            batch = rank_batch(*share, config.gradcache_chunk, shown)
        wish = Wish.SAVE if (rank, step) == (0, 1) else Wish.NOTHING
        note = partial(turns.note, order, step, dynamic) if turns else None
        record, agreed = take_step(trainable, batch, step, config.learning_rate, config, wish, note)
        assert agreed is (Wish.SAVE if step == 1 else Wish.NOTHING)
        history.steps.append(record)
    if measure:
        measure()
    return whole_weights(trainable), history


def watched(trainable, history, plan, folder):
    """Return what measures, and sees to it that the best weights are kept and no more than need be."""
    writer = ArtifactStore(str(folder)).open("train", "tiny", "0" * 20)
    dev = DevWatch(trainable, small_cut(plan), DevConfig(metric=METRIC, every_steps=1), writer, history)
    seen = {}

    def measure():
        assert dev.measure_if_due(3) == history.evaluations[-1:] and not dev.measure_if_due(3)
        seen[len(history.steps)] = whole_weights(trainable)
        dev.saved()
        found = best(history.evaluations)
        if distributed.get_rank() == 0 and found:
            kept = best_weights.load(writer, found.steps)
            assert kept.keys() == {n for n, p in trainable.encoder.named_parameters() if p.requires_grad}
            assert all(torch.equal(weight, seen[found.steps][name]) for name, weight in kept.items())
            courses = (history.evaluations[:end] for end in range(len(seen) - 2, len(seen) + 1) if end > 0)
            needed = {each.steps for each in map(best, courses) if each}
            assert len(writer.storage.list(writer.key)) == len(needed)

    return measure


def outcome(weights, history):
    return (
        weights,
        [record.loss for record in history.steps],
        [record.gradient_norm for record in history.steps],
    )


def quick_settings(case):
    bounds = {"ratio": RATIO, "max_score": MAX_SCORE}
    return {**DYNAMIC[case], "epochs": EPOCHS, "dynamic_negatives": bounds, "learning_rate": QUICK}


def replacing(weights, history):
    return *outcome(weights, history), [record.replaced_negatives for record in history.steps]


def small_cut(plan):
    """Return all texts of the plan as a dev cut, a few documents relevant to each query."""
    _, queries, documents = plan
    generator = np.random.default_rng(5)
    query = np.repeat(queries.ordinals, 3)
    relevance = Relevance(query, generator.choice(documents.ordinals, 60), np.ones(60))
    return DevCut(queries, documents, relevance, np.zeros((0, 2), np.int64))


def measured(plan):
    """Return the metric of the untrained encoder: text by text, cosine by cosine, rank by rank."""
    cut, encoder = small_cut(plan), tiny_encoder().eval()

    def embed(store):
        rows = range(len(store.ordinals))
        with torch.no_grad():
            return torch.cat([encoder(*store.tokens.take(np.asarray([row])).pad(1)) for row in rows]).numpy()

    q_QD, doc_ND, gains = embed(cut.queries), embed(cut.documents), []
    for query, embedding in zip(cut.queries.ordinals, q_QD, strict=True):
        relevant = set(cut.relevance.doc[cut.relevance.query == query].tolist())
        ranked = cut.documents.ordinals[np.argsort(-(doc_ND @ embedding), kind="stable")]
        found = sum(1 / np.log2(place + 2) for place, doc in enumerate(ranked) if doc in relevant)
        gains.append(found / sum(1 / np.log2(place + 2) for place in range(len(relevant))))
    return float(np.mean(gains))


def merge(folders, rank):
    if rank == 0:
        for folder in folders[1:]:
            for path in Path(folder).rglob("*.pt"):
                target = Path(folders[0]) / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    distributed.barrier()


def reference(plan, dropout=0.0, shown=False, rate=RATE):
    """The same steps in plain torch: one process, no DeepSpeed, text by text, loop by loop."""
    order, queries, documents = plan
    asked = shown_queries(order) if shown else queries
    encoder = tiny_encoder().train()
    set_dropout(encoder, dropout)
    dropped = seed_by_row(encoder.backbone)
    matrices = [p for p in encoder.parameters() if p.ndim >= 2]
    others = [p for p in encoder.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=rate
    )
    losses, norms, replaced = [], [], []
    starts, first_scores = dict.fromkeys(order.groups.tolist(), 0), {}

    def embed(store, ordinal, step, kind):
        inputs = store.tokens.take(store.rows(np.asarray([ordinal]))).pad(1)
        with dropped.passing(row_keys(inputs, pass_seed(0, step, kind))):
            return encoder(*inputs)[0]

    for step in range(order.num_steps):
        rows = range(order.first_rows[step], order.first_rows[step + 1])
        start = {row: starts[order.groups[row]] for row in rows}
        negatives = {row: order.negatives[row].as_py()[start[row] :][: order.taken[row]] for row in rows}
        present = sorted(
            {*order.positives[list(rows)].tolist(), *(n for some in negatives.values() for n in some)}
        )
        embedded = {document: embed(documents, document, step, 1) for document in present}
        total, gone = 0.0, 0
        for row in rows:
            query = embed(asked, row if shown else order.queries[row], step, 0)
            own = int(order.positives[row])
            terms = [
                query @ embedded[d] / 0.2
                for d in present
                if d == own or d not in order.masked[row].as_py()
                for _ in range(max(1, negatives[row].count(d)))
            ]
            total = total + torch.logsumexp(torch.stack(terms), 0) - query @ embedded[own] / 0.2
            group, mined, count = int(order.groups[row]), order.negatives[row].as_py(), int(order.taken[row])
            scores = [float((query @ embedded[d]).detach()) for d in negatives[row]]
            mean = sum(scores) / max(1, len(scores))
            first = first_scores.setdefault((group, start[row]), mean)
            if mean + (RATIO - 1) * abs(mean) < first and abs(mean) < MAX_SCORE:
                starts[group] = min(start[row] + count, len(mined) - count)
                gone += starts[group] - start[row]
        loss = total / len(rows)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
        replaced.append(gone)
    return {name: p.detach() for name, p in encoder.named_parameters()}, losses, norms, replaced


def reference_of_pairs(plan):
    """The three steps of a cross-encoder in plain torch: one process, pair by pair, group by group."""
    order, queries, documents = plan
    scorer, tokenizer = tiny_cross_encoder().train(), pair_tokenizer()
    set_dropout(scorer, 0.0)
    matrices, others = ([p for p in scorer.parameters() if (p.ndim >= 2) is wide] for wide in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=RATE
    )
    losses, norms = [], []

    def ids(store, ordinal):
        return store.tokens.take(store.rows(np.asarray([ordinal]))).ids.tolist()

    def score(query, document):
        joined, start = tokenizer.join(ids(queries, query), ids(documents, document))
        types = torch.tensor([[int(place >= start) for place in range(len(joined))]])
        return scorer.network(input_ids=torch.tensor([joined]), token_type_ids=types).logits[0, 0]

    for step in range(order.num_steps):
        rows = order.rows(step)
        total = 0.0
        for row in rows:
            scores = [score(int(order.queries[row]), document) for document in order.own_group(row)]
            total = total + torch.logsumexp(torch.stack(scores), 0) - scores[0]
        loss = total / len(rows)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    return {name: p.detach() for name, p in scorer.named_parameters()}, losses, norms


def gathered_gradient():
    """Gradient of one rank's rows where every rank weighs the gathered rows differently."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    own_nD = torch.full((2, 3), float(rank), requires_grad=True)
    all_ND = gather(own_nD)
    assert torch.equal(
        all_ND.detach(), torch.arange(world).repeat_interleave(2)[:, None].expand(-1, 3).float()
    )
    ((all_ND**2).sum() * (rank + 1)).backward()
    expected = 2.0 * rank * sum(range(1, world + 1))
    assert torch.equal(own_nD.grad, torch.full((2, 3), expected))


def run_rank(rank, world, folder):
    """Run every case as one of ``world`` ranks; rank 0 writes what came of it.

    A folder called `again` is for the cases that another number of ranks has begun.
    """
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    gathered_gradient()
    plan = small_plan()
    results = {}
    if folder.name != "again":
        run_cases(world, folder, plan, results)
    for case in (*ELASTIC, *DYNAMIC) if folder.name in ("2", "again") else ():
        begun = handed_on(folder, case, 3 - world)
        if case in DYNAMIC:
            results[f"{case} taken over"] = replacing(
                *train(quick_settings(case), dynamic_plan(), begun=begun)
            )
        else:
            results[f"{case} taken over"] = outcome(*train(CASES[case], plan, begun=begun))
    if rank == 0:
        torch.save(results, folder / "results.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def handed_on(folder, case, world):
    return folder.parent / f"{case} of {world}"


def run_cases(world, folder, plan, results):
    """Run the cases that begin with the first step."""
    for case, settings in CASES.items():
        if world < 4 or case in IN_FOUR:
            keep = handed_on(folder, case, world) if world < 4 and case in ELASTIC else None
            results[case] = outcome(*train(settings, plan, handed_on=keep))
        if case in MEASURED and world < 4:
            weights, history = train(settings, plan, measured_in=folder / case)
            results[f"{case} measured"] = outcome(weights, history)
            results[f"{case} metric"] = [each.value for each in history.evaluations]
        # At once: DeepSpeed's stage 3 replaces torch's linear for good, which changes the last bit of later cases.
        if world == 2 and case in RESUMED:
            results[f"{case} resumed"] = outcome(*train(settings, plan, resume_at=2))
            results[f"{case} again"] = outcome(*train(settings, plan))
    for case in DYNAMIC if world < 4 else ():
        keep = handed_on(folder, case, world)
        results[case] = replacing(*train(quick_settings(case), dynamic_plan(), handed_on=keep))
        results[f"{case} resumed"] = replacing(*train(quick_settings(case), dynamic_plan(), resume_at=7))
    if world == 1:
        results["reference"] = reference(plan)[:3]
        results["pairs reference"] = reference_of_pairs(plan)
        results["dropout reference"] = reference(plan, dropout=0.2)[:3]
        results["few-shot reference"] = reference(plan, dropout=0.2, shown=True)[:3]
        results["dynamic reference"] = reference(dynamic_plan(), rate=QUICK)
        results["metric"] = measured(plan)
        results["start"] = tiny_encoder().state_dict()


def main():
    make_cross_encoder(Path(sys.argv[1]) / "cross_encoder")
    run_worlds(run_rank, {**{str(world): world for world in WORLDS}, "again": 1}, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
