"""Memory of one actor: weights, activations, and what it reads and writes, as (on the GPU, on the host)."""

from math import ceil

from pipelines.cost.rates import GIB
from pipelines.cost.shape import ModelShape
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import EncodeWork, SearchWork

PROCESS_BYTES = 0.9 * GIB
"""A worker process with torch, transformers and Ray in it."""
CUDA_CONTEXT_BYTES = 0.6 * GIB
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TRAIN_LAYER_FACTOR = 34
"""Bytes of activations a token, layer and unit of width that the backward pass needs in half precision
(arXiv 2205.05198, equation 1); attention's scores add 5 a head and pair of tokens."""
SEARCH_BLOCK_BYTES = 1024 * 16_384 * 4
"""One block of scores."""


def encode_memory(work: EncodeWork, kind: str) -> tuple[float, float]:
    """Return the bytes of one embedding actor.

    Args:
        work: What it embeds.
        kind: cuda or cpu.
    """
    size = DTYPE_BYTES[work.dtype]
    # A processor packs the layers' weights a second time.
    body = work.shape.num_layers * work.shape.layer_parameters
    weights = size * (work.shape.num_parameters + (body if kind == "cpu" else 0))
    working = weights + forward_activations(work.shape, work.token_budget, work.max_tokens, size)
    count, tokens = sum(t.count for t in work.texts), sum(t.tokens for t in work.texts)
    shard = (4.0 * tokens + 8.0 * work.dimension * count) / work.num_shards
    return _placed(working, PROCESS_BYTES + shard, kind)


def forward_activations(shape: ModelShape, tokens: int, longest: int, size: int) -> float:
    """Return the peak bytes of a forward pass that keeps nothing: one layer's states and scores.

    Args:
        shape: The model.
        tokens: Of the pass, padding counted.
        longest: Tokens of the longest text: the scores of attention are tokens x longest a head.
        size: Bytes of a number.
    """
    states = tokens * (8 * shape.hidden + 2 * shape.intermediate) * size
    return states + float(tokens) * longest * shape.num_heads * size


def search_memory(work: SearchWork, kind: str) -> tuple[float, float]:
    """Return the bytes of one searching actor: a group of documents, a range of queries, a block of scores."""
    group = min(work.group_bytes, 4.0 * work.dimension * work.num_documents)
    queries = 4.0 * work.dimension * min(work.range_queries, work.num_queries)
    found = 24.0 * min(work.range_queries, work.num_queries) * min(work.depth, work.num_documents)
    # While a group is read, its shards lie beside the array that they are put together to.
    on_host = PROCESS_BYTES + 2 * group + queries + found
    return _placed(group + queries + 2 * SEARCH_BLOCK_BYTES if kind == "cuda" else 0.0, on_host, kind)


def train_memory(work: TrainWork, kind: str) -> tuple[float, float]:
    """Return the bytes of one rank: weights, gradients and Adam's state in float32, activations of one pass."""
    parameters, trained, ranks = work.shape.num_parameters, work.trained_parameters, work.num_ranks
    frozen = parameters if work.adapter_parameters else 0
    # Weight, gradient, master copy with two moments; a stage shares all from its own place on.
    weights, gradients, optimizer = (
        size / (ranks if work.zero_stage >= stage else 1)
        for size, stage in ((4.0 * (frozen + trained), 3), (4.0 * trained, 2), (12.0 * trained, 1))
    )
    state = weights + gradients + (0.0 if work.is_offloaded else optimizer)
    beside = PROCESS_BYTES + (optimizer if work.is_offloaded else 0.0)
    texts, shared_by = (
        (work.largest_batch, ranks) if work.largest_batch else (work.texts, work.num_steps * ranks)
    )
    texts_a_rank = sum(each.count for each in texts) / shared_by
    pass_share = min(1.0, work.chunk / texts_a_rank) if work.chunk and texts_a_rank else 1.0
    tokens = pass_share * sum(each.tokens for each in texts) / shared_by
    squares = pass_share * sum(each.count * each.mean_square_tokens for each in texts) / shared_by
    shape, factor = work.shape, DTYPE_BYTES[work.dtype] / 2
    layer = factor * (TRAIN_LAYER_FACTOR * tokens * shape.hidden + 5 * shape.num_heads * squares)
    kept = shape.num_layers * factor * 2 * tokens * shape.hidden + layer
    activations = kept if work.is_checkpointed else shape.num_layers * layer
    # Every rank reads the whole model before its part is all that it keeps.
    working = max(state + activations + 4.0 * ceil(texts_a_rank) * shape.hidden, 4.0 * parameters)
    return _placed(working, beside, kind)


def _placed(working: float, beside: float, kind: str) -> tuple[float, float]:
    return (working + CUDA_CONTEXT_BYTES, beside) if kind == "cuda" else (0.0, working + beside)
