"""The Ray graphs of encoding: read and tokenise on CPU tasks -> embed on an actor pool -> write shards; quantise."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.artifacts import Artifact
from cluster.committed import find_committed
from cluster.errors import UserError
from models.quantization import CALIBRATED
from pipelines.encode import earlier, quantize
from pipelines.encode.config import EncodeConfig
from pipelines.encode.earlier import TABLES
from pipelines.encode.shards import read_and_tokenize, write_shard
from pipelines.located_model import LocatedModel
from pipelines.model import Model
from pipelines.splits import check_splits
from pipelines.steps import Step, Work
from pipelines.waves import run_tasks, run_waves

if TYPE_CHECKING:
    from ray.data import Dataset

STAGE_VERSION = 1
CHUNKED_VERSION = 2
"""Of embeddings of chunks."""
QUANTIZE_VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")


def encode_step(data: Step, model: Model, splits: Sequence[str], config: EncodeConfig) -> Step:
    """Embed all documents of ``data``, and the queries of ``splits``, with ``model``.

    A text that an earlier artifact of the same model, dtype, device, settings and libraries holds is not embedded
    again: its embedding is copied (``config.reuse``). It differs from a fresh one by the rounding that comes from
    the texts beside it in a batch, and by nothing else.

    Args:
        data: The ingest step.
        model: What embeds.
        splits: Whose queries are embedded; () for none, as in a corpus without labels.
        config: Of precision int8, uint8, binary or ubinary, the step makes float16 embeddings, and
            ``quantize_step`` the codes.

    Returns:
        A step whose artifact has the tables `documents` and `queries` (schema `embeddings`); shard i of each
        holds ordinals of shard i of the ingest artifact's table, in the same order; a chunked document has one
        row a chunk, adjacent and in order.

    Raises:
        UserError: The chunks or the dimension do not fit the model.
    """
    _check_model(model, config)
    return Step(
        stage="encode",
        label=f"{data.label}-{model.label}",
        stage_version=CHUNKED_VERSION if config.chunk else STAGE_VERSION,
        identity={"model": model.identity, "splits": sorted(set(splits)), **config.identity},
        libraries=(*LIBRARIES, *(("bitsandbytes",) if model.config.quantize else ())),
        inputs={"data": data, **model.inputs},
        run=partial(_run, model=model, splits=tuple(sorted(set(splits))), config=config),
        count_shards=lambda artifacts: sum(artifacts["data"].num_shards(table) for table in TABLES),
    )


def _check_model(model: Model, config: EncodeConfig) -> None:
    longest = model.config.max_document_tokens
    if config.chunk is not None and config.chunk.tokens > longest:
        raise UserError(
            "a chunk is longer than the documents that the model takes",
            where="encode.chunk.tokens",
            got=str(config.chunk.tokens),
            expected=f"at most max_document_tokens, {longest}",
            fix=f"set encode.chunk.tokens={longest}, or raise max_document_tokens where the model is named",
        )
    model.check_dimension(config.dimension, "encode.dimension")


def _run(work: Work, model: Model, splits: tuple[str, ...], config: EncodeConfig) -> Artifact:
    data, writer = work.inputs["data"], work.writer
    check_splits(data, splits)
    missing = _missing(work, data)
    total = sum(data.num_rows(table) for table in TABLES)
    work.progress.total(total, "texts", done=total - sum(shard["rows"] for shard in missing))
    chosen = earlier.choose_earlier(writer, work.step.full_identity) if config.reuse else []
    if missing:
        located = model.locate(work.inputs)
        digest = None if model.trained_by else model.digest
        # One that was removed since it was chosen is done without: its texts are embedded.
        found = [find_committed(writer.storage, key) for key in chosen]
        reader = partial(
            read_and_tokenize,
            data=data,
            splits=splits,
            tokenizer=work.session.run_on("tokenize", located.tokenizer),
            config=config,
            earlier=[artifact for artifact in found if artifact is not None],
        )
        build = partial(
            _graph,
            work=work,
            num_shards=len(missing),
            reader=reader,
            embedder=(located, config, digest),
            precision=config.float_precision,
        )
        reused = 0
        for receipt in run_waves(work.session, missing, build):
            reused += receipt["reused"]
            work.progress.advance(receipt["rows_read"], note=f"{reused:,} taken over" if reused else "")
    _write_index(work, data)
    return work.commit(
        {table: data.num_shards(table) for table in TABLES}, _summary(work, model, config, chosen)
    )


def _missing(work: Work, data: Artifact) -> list[dict[str, Any]]:
    keys = set(work.writer.storage.list(f"{work.writer.key}/scratch/keys"))
    found = []
    for table in TABLES:
        open_shards = set(work.writer.missing(table, data.num_shards(table)))
        for index, shard in enumerate(data.manifest.tables[table].shards):
            if index in open_shards or earlier.keys_name(work.writer, table, index) not in keys:
                found.append({"table": table, "index": index, "rows": shard.rows})
    return found


def _write_index(work: Work, data: Artifact) -> None:
    work.progress.note("index of keys")
    shards = [(table, index) for table in TABLES for index in range(data.num_shards(table))]
    buckets = earlier.num_buckets(sum(data.num_rows(table) for table in TABLES))
    write = partial(_write_bucket, writer=work.writer, buckets=buckets, shards=shards)
    if buckets == 1:
        write({"bucket": 0})
        return
    for _ in run_tasks(work.session, [{"bucket": bucket} for bucket in range(buckets)], write):
        pass


def _write_bucket(row: dict[str, Any], **where: Any) -> dict[str, Any]:
    earlier.write_bucket(bucket=row["bucket"], **where)
    return row


def _summary(work: Work, model: Model, config: EncodeConfig, chosen: list[str]) -> dict[str, object]:
    shards = [shard for table in TABLES for shard in work.writer.finished(table).values()]
    totals = {
        name: sum(shard.counters.get(name, 0) for shard in shards)
        for name in ("tokens", "embedded", "reused")
    }
    embedding = work.writer.read_finished(shards[0]).schema.field("embedding").type
    return {
        "dimension": embedding.list_size,
        "precision": config.float_precision,
        "chunk": config.chunk.model_dump() if config.chunk else None,
        **totals,
        "reused_from": chosen if totals["reused"] else [],
        "embed_seconds": round(sum(shard.seconds for shard in shards), 3),
        "dtype": model.dtype,
        "device": model.device,
    }


def _graph(
    shards: "Dataset",
    work: Work,
    num_shards: int,
    reader: Callable[[dict[str, Any]], dict[str, Any]],
    embedder: tuple[LocatedModel, EncodeConfig, str | None],
    precision: str,
) -> "Dataset":
    from ray.data import ActorPoolStrategy

    from pipelines.encode.embedder import Embedder

    smallest, largest = (min(size, num_shards) for size in work.session.pool("encode"))
    beside = work.session.resources("tokenize") | {"concurrency": work.session.pool("tokenize")[1]}
    return (
        shards.map(reader, **beside)
        .map(
            Embedder,
            fn_constructor_args=embedder,
            compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
            **work.session.resources("encode"),
        )
        .map(partial(write_shard, writer=work.writer, precision=precision), **beside)
    )


def quantize_step(embeddings: Step, precision: str) -> Step:
    """Store the embeddings of an encode step as int8, uint8, binary or ubinary.

    Codes are those of ``sentence_transformers.util.quantize_embeddings`` of the float embeddings; the ranges of
    int8 and uint8 are those of all documents, and serve for the queries too.

    Returns:
        A step whose artifact has the tables `documents` and `queries`, row for row those of ``embeddings``, and
        `ranges` for int8 and uint8.
    """
    return Step(
        stage="encode",
        label=f"{embeddings.label}-{precision}",
        stage_version=QUANTIZE_VERSION,
        identity={"precision": precision},
        libraries=(),
        inputs={"embeddings": embeddings},
        run=partial(_run_quantize, precision=precision),
        count_shards=lambda artifacts: (
            sum(artifacts["embeddings"].num_shards(table) for table in TABLES) + (precision in CALIBRATED)
        ),
    )


def _run_quantize(work: Work, precision: str) -> Artifact:
    embeddings, writer = work.inputs["embeddings"], work.writer
    ranges_2D: np.ndarray | None = None
    if precision in CALIBRATED:
        if writer.missing("ranges", 1):
            _measure(work, embeddings)
        ranges_2D = quantize.read_ranges(writer)
    counts = {table: embeddings.num_shards(table) for table in TABLES}
    rows = [{"table": table, "index": i} for table in TABLES for i in writer.missing(table, counts[table])]
    work.progress.total(sum(counts.values()), "shards", done=sum(counts.values()) - len(rows))
    function = partial(
        quantize.quantize_shard,
        writer=writer,
        embeddings=embeddings,
        precision=precision,
        ranges_2D=ranges_2D,
    )
    _map(work, rows, function)
    summary = {"dimension": embeddings.manifest.summary["dimension"], "precision": precision}
    return work.commit(counts | ({"ranges": 1} if ranges_2D is not None else {}), summary)


def _measure(work: Work, embeddings: Artifact) -> None:
    shards = embeddings.manifest.tables["documents"].shards
    indices = [index for index, shard in enumerate(shards) if shard.rows]
    done = set(work.writer.storage.list(f"{work.writer.key}/scratch/ranges"))
    rows = [{"index": index} for index in indices if quantize.ranges_name(work.writer, index) not in done]
    work.progress.total(len(indices), "shards measured", done=len(indices) - len(rows))
    _map(work, rows, partial(quantize.measure_shard, writer=work.writer, embeddings=embeddings))
    quantize.write_ranges(work.writer, indices)


def _map(
    work: Work, rows: list[dict[str, Any]], function: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    for _ in run_tasks(work.session, rows, function):
        work.progress.advance()
