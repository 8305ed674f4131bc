"""The cost model: what one step's work asks of a device, of processors, of memory and of storage.

Times are of the work alone; how many actors share it, and how long they take to start, is said in ``seats.py``.
"""

from collections.abc import Callable
from math import ceil
from typing import Any

from pipelines.cost.flops import (
    CHECKPOINTED_PASSES,
    FORWARD_PASSES,
    exact_flops,
    forward_flops,
    ivf_flops,
)
from pipelines.cost.load import Load
from pipelines.cost.memory import DTYPE_BYTES, encode_memory, search_memory, train_memory
from pipelines.cost.rates import GIB, PROCESSOR_FLOPS, Rates
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import (
    EncodeWork,
    EvaluateWork,
    GenerateWork,
    IndexWork,
    IngestWork,
    LexicalWork,
    ListWork,
    PlanWork,
    ScoreWork,
    SearchWork,
    SelectWork,
    Work,
    row_bytes,
)

TOKENISE_BYTES_S = 2.3e6
"""Bytes of text that one core tokenises in a second (BERT's WordPiece, what lies beyond the limit included)."""
INGEST_BYTES_S = 1.7e7
"""Bytes of text that one core reads, checks, hashes and writes in a second."""
BM25_BYTES_S = 7.0e6
"""Bytes of text that one core splits into words and indexes in a second."""
BM25_SCORES_S = 3.0e7
"""Documents that one core looks at in a second while it ranks them for queries."""
CANDIDATES_S = 5.0e5
"""Candidate rows that one core filters, merges or ranks in a second."""
RESAMPLES_S = 4.0e7
"""Per-query values that one core resamples in a second."""
PLAN_ROWS_S = 5.0e3
CANDIDATE_BYTES = 7.0
"""Stored bytes of one row of candidates: compressed, as measured."""
PARTIAL_BYTES = 14.0
GROUP_BYTES = 9.0
"""Stored bytes of one document of a group."""
TEXT_COMPRESSION = 0.4
"""Stored bytes of a byte of text."""
PLAN_TOKEN_BYTES = 4
SCORE_BYTES = 8
"""Bytes that one score moves where it is not selected in the kernel that computes it: written once, read once."""
SCAN_PASSES = 3
"""Times that a GPU moves an embedding of a scanned list: read and written by the gather, read by the product."""
QUERY_BLOCK = 1024
"""Queries that one pass over a group of documents serves."""
STATE_BYTES = 12
"""Of one parameter in a checkpoint: float32 weight and the two moments of Adam."""
KEPT_CHECKPOINTS = 2


def cost_of(work: Work, rates: Rates) -> Load:
    """Return what ``work`` asks for on devices of these rates."""
    return COSTS[type(work)](work, rates)


def _ingest(work: IngestWork, rates: Rates) -> Load:  # noqa: ARG001 (one signature)
    num_bytes = sum(texts.num_bytes for texts in work.texts)
    kept = TEXT_COMPRESSION * num_bytes
    return Load(core_seconds=num_bytes / INGEST_BYTES_S, moved_bytes=num_bytes + kept, storage_bytes=kept)


def _encode(work: EncodeWork, rates: Rates) -> Load:
    flops = sum(forward_flops(work.shape, texts) for texts in work.texts)
    count = sum(texts.count for texts in work.texts)
    text_bytes = sum(texts.num_bytes for texts in work.texts)
    stored = count * row_bytes(work.dimension, work.precision)
    tokens = sum(texts.tokens for texts in work.texts) / work.num_shards
    on_device, on_host = encode_memory(work, rates.kind)
    return Load(
        flops=flops,
        device_seconds=flops / (rates.of(work.dtype) * rates.shares.encode),
        bound="matmul",
        core_seconds=text_bytes / TOKENISE_BYTES_S,
        moved_bytes=TEXT_COMPRESSION * text_bytes + stored,
        storage_bytes=stored,
        device_memory=on_device,
        host_memory=on_host,
        object_store_bytes=2 * (PLAN_TOKEN_BYTES * tokens + stored / work.num_shards),
        num_tasks=work.num_shards,
    )


def search_grid(work: SearchWork) -> tuple[int, int]:
    """Return the number of document groups and of query ranges."""
    group_rows = max(1, int(work.group_bytes // (4 * work.dimension)))
    return ceil(work.num_documents / group_rows), ceil(work.num_queries / work.range_queries)


def _search(work: SearchWork, rates: Rates) -> Load:
    groups, ranges = search_grid(work)
    queries, documents = work.num_queries, work.num_documents
    moved = trained = 0.0
    if work.index == "ivf":
        ivf = ivf_flops(
            queries, documents, work.dimension, work.num_lists, work.num_probes, work.training_sample
        )
        flops = ivf.training + ivf.assigning + ivf.scanning
        products = ivf.assigning / (rates.of(work.dtype) * rates.shares.search)
        trained = ivf.training / PROCESSOR_FLOPS["float32"]
        if rates.kind == "cuda":
            moved = SCAN_PASSES * 2.0 * ivf.scanning
        else:
            products += ivf.scanning / (rates.of(work.dtype) * rates.shares.ivf)
    else:
        flops = exact_flops(queries, documents, work.dimension)
        products = flops / (rates.of(work.dtype) * rates.shares.search)
        passes = ceil(queries / QUERY_BLOCK)
        moved = 4.0 * work.dimension * documents * passes
        # On a processor a block of scores stays in its cache.
        if rates.kind == "cuda" and not work.is_fused:
            moved += float(SCORE_BYTES) * queries * documents
    memory = moved / rates.memory_bytes_s if rates.kind == "cuda" else 0.0
    depth = min(work.depth, documents)
    partial = PARTIAL_BYTES * groups * queries * depth
    on_device, on_host = search_memory(work, rates.kind)
    # An actor goes through all ranges of a group that it has loaded.
    embeddings = work.embedding_bytes * (documents + queries * groups)
    return Load(
        flops=flops,
        # Products and memory traffic of one block overlap only where they are fused.
        device_seconds=max(products, memory) if work.index == "exact" else products + memory,
        bound="memory" if memory > products else "matmul",
        core_seconds=trained + float(queries) * depth * groups / CANDIDATES_S,
        moved_bytes=embeddings + 2 * partial,
        storage_bytes=CANDIDATE_BYTES * queries * depth,
        temporary_bytes=partial,
        device_memory=on_device,
        host_memory=on_host,
        num_tasks=max(1, groups * ranges),
    )


def _lexical(work: LexicalWork, rates: Rates) -> Load:  # noqa: ARG001
    ranking = float(work.num_queries) * work.documents.count / BM25_SCORES_S
    depth = min(work.depth, work.documents.count)
    return Load(
        core_seconds=work.documents.num_bytes / BM25_BYTES_S + ranking,
        storage_bytes=CANDIDATE_BYTES * work.num_queries * depth,
        # The words of every document as numbers, and the postings.
        host_memory=0.5 * GIB + 3.0 * work.documents.num_bytes,
    )


def _score(work: ScoreWork, rates: Rates) -> Load:
    flops = forward_flops(work.shape, work.pairs) + work.pairs.count * work.head_flops
    stored = CANDIDATE_BYTES * work.pairs.count
    encode = EncodeWork(
        work.shape,
        work.dtype,
        (work.pairs,),
        work.token_budget,
        work.max_tokens,
        1,
        "float32",
        work.num_tasks,
    )
    on_device, on_host = encode_memory(encode, rates.kind)
    return Load(
        flops=flops,
        device_seconds=flops / (rates.of(work.dtype) * rates.shares.encode),
        bound="matmul",
        core_seconds=work.pairs.num_bytes / TOKENISE_BYTES_S,
        moved_bytes=stored + TEXT_COMPRESSION * work.pairs.num_bytes,
        storage_bytes=stored,
        device_memory=on_device,
        host_memory=on_host,
        object_store_bytes=2 * PLAN_TOKEN_BYTES * work.pairs.tokens / work.num_tasks,
        num_tasks=work.num_tasks,
    )


def _generate(work: GenerateWork, rates: Rates) -> Load:
    prompts, shape = work.prompts, work.shape
    head = 2.0 * shape.hidden * shape.vocabulary
    written = prompts.count * work.written_tokens
    flops = forward_flops(shape, prompts) + written * (2.0 * shape.active_body + head) + prompts.count * head
    # All weights are read for each token that a batch writes.
    together = max(1.0, work.token_budget / (prompts.mean_tokens + work.written_tokens))
    read = written / together * DTYPE_BYTES[work.dtype] * shape.num_parameters
    products = flops / (rates.of(work.dtype) * rates.shares.encode)
    memory = read / rates.memory_bytes_s
    whole = EncodeWork(
        shape, work.dtype, (prompts,), work.token_budget, work.max_tokens, 1, "float32", work.num_tasks
    )
    on_device, on_host = encode_memory(whole, rates.kind)
    return Load(
        flops=flops,
        device_seconds=products + memory,
        bound="memory" if memory > products else "matmul",
        core_seconds=prompts.num_bytes / TOKENISE_BYTES_S,
        moved_bytes=TEXT_COMPRESSION * prompts.num_bytes,
        storage_bytes=GROUP_BYTES * prompts.count,
        device_memory=on_device,
        host_memory=on_host,
        object_store_bytes=2 * PLAN_TOKEN_BYTES * prompts.tokens / work.num_tasks,
        num_tasks=work.num_tasks,
    )


def _list(work: ListWork, rates: Rates) -> Load:  # noqa: ARG001
    return Load(core_seconds=work.num_rows / CANDIDATES_S, storage_bytes=CANDIDATE_BYTES * work.num_rows)


def _select(work: SelectWork, rates: Rates) -> Load:  # noqa: ARG001
    stored = GROUP_BYTES * work.num_queries * (work.num_negatives + 1)
    moved = CANDIDATE_BYTES * work.num_candidates + stored
    return Load(core_seconds=work.num_candidates / CANDIDATES_S, moved_bytes=moved, storage_bytes=stored)


def _plan(work: PlanWork, rates: Rates) -> Load:  # noqa: ARG001
    text_bytes = sum(texts.num_bytes for texts in work.texts)
    stored = PLAN_TOKEN_BYTES * sum(texts.tokens for texts in work.texts) + GROUP_BYTES * work.num_documents
    return Load(
        core_seconds=text_bytes / TOKENISE_BYTES_S + work.num_rows / PLAN_ROWS_S,
        moved_bytes=stored,
        storage_bytes=stored,
    )


def _train(work: TrainWork, rates: Rates) -> Load:
    passes = CHECKPOINTED_PASSES if work.is_checkpointed else FORWARD_PASSES
    # Frozen weights have no gradient of their own; GradCache embeds everything once more.
    passes += (-1 if work.adapter_parameters else 0) + (1 if work.chunk else 0)
    flops = passes * sum(forward_flops(work.shape, texts) for texts in work.texts)
    parameters, trained = work.shape.num_parameters, work.trained_parameters
    on_device, on_host = train_memory(work, rates.kind)
    written = STATE_BYTES * trained * work.num_checkpoints
    return Load(
        flops=flops,
        device_seconds=flops / (rates.of(work.dtype) * rates.shares.train),
        bound="matmul",
        moved_bytes=written + 4 * parameters,
        storage_bytes=4 * parameters,
        temporary_bytes=STATE_BYTES * trained * min(KEPT_CHECKPOINTS, work.num_checkpoints),
        device_memory=on_device,
        host_memory=on_host,
        num_tasks=work.num_ranks,
    )


def _evaluate(work: EvaluateWork, rates: Rates) -> Load:  # noqa: ARG001
    return Load(core_seconds=work.num_rows / CANDIDATES_S + work.num_resamples / RESAMPLES_S)


def _index(work: IndexWork, rates: Rates) -> Load:
    held = work.held_bytes * work.documents.count
    stored = held + work.mapped_bytes * work.documents.count + TEXT_COMPRESSION * work.documents.num_bytes
    products = work.recall_flops / (rates.of("float32") * rates.shares.search)
    return Load(
        core_seconds=work.documents.num_bytes / INGEST_BYTES_S + products,
        moved_bytes=stored + TEXT_COMPRESSION * work.documents.num_bytes,
        storage_bytes=stored,
        host_memory=held,
    )


COSTS: dict[type, Callable[[Any, Rates], Load]] = {
    IngestWork: _ingest,
    EncodeWork: _encode,
    SearchWork: _search,
    LexicalWork: _lexical,
    ScoreWork: _score,
    GenerateWork: _generate,
    ListWork: _list,
    SelectWork: _select,
    PlanWork: _plan,
    TrainWork: _train,
    EvaluateWork: _evaluate,
    IndexWork: _index,
}
"""Kind of work -> its cost."""
