"""The Ray graph of encoding: read and tokenise on CPU tasks -> embed on an actor pool -> write shards."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.errors import UserError
from models.prompts import Kind
from pipelines import schemas
from pipelines.encode.config import EncodeConfig
from pipelines.model import LocatedModel, Model
from pipelines.steps import Step, Work
from pipelines.waves import run_waves

if TYPE_CHECKING:
    from ray.data import Dataset

STAGE_VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")
TABLES = ("documents", "queries")


def encode_step(data: Step, model: Model, splits: Sequence[str], config: EncodeConfig) -> Step:
    """Embed all documents of ``data``, and the queries of ``splits``, with ``model``.

    Returns:
        A step whose artifact has the tables `documents` and `queries` (schema `embeddings`); shard i of each
        holds ordinals of shard i of the ingest artifact's table, in the same order.
    """
    return Step(
        stage="encode",
        label=f"{data.label}-{model.label}",
        stage_version=STAGE_VERSION,
        identity={"model": model.identity, "splits": sorted(set(splits)), **config.model_dump(mode="json")},
        libraries=LIBRARIES,
        inputs={"data": data, **model.inputs},
        run=partial(_run, model=model, splits=tuple(sorted(set(splits))), config=config),
        count_shards=lambda artifacts: sum(artifacts["data"].num_shards(table) for table in TABLES),
    )


def _run(work: Work, model: Model, splits: tuple[str, ...], config: EncodeConfig) -> Artifact:
    data = work.inputs["data"]
    _check_splits(data, splits)
    missing: list[dict[str, Any]] = [
        {"table": table, "index": index, "rows": data.manifest.tables[table].shards[index].rows}
        for table in TABLES
        for index in work.writer.missing(table, data.num_shards(table))
    ]
    total = sum(data.num_rows(table) for table in TABLES)
    work.progress.total(total, "texts", done=total - sum(shard["rows"] for shard in missing))
    if missing:
        reader = partial(read_and_tokenize, data=data, splits=splits, model=model.locate(work.inputs))
        build = partial(
            _graph,
            work=work,
            num_shards=len(missing),
            reader=reader,
            model=model.locate(work.inputs),
            config=config,
        )
        for receipt in run_waves(work.session, missing, build):
            work.progress.advance(receipt["rows_read"])
    shards = [shard for table in TABLES for shard in work.writer.finished(table).values()]
    tokens, seconds = (sum(s.counters.get("tokens", 0) for s in shards), sum(s.seconds for s in shards))
    embedding = work.writer.read_finished(shards[0]).schema.field("embedding").type
    summary = {
        "dimension": embedding.list_size,
        "tokens": tokens,
        "embed_seconds": round(seconds, 3),
        "dtype": model.dtype,
        "device": model.device,
    }
    return work.commit({table: data.num_shards(table) for table in TABLES}, summary)


def _check_splits(data: Artifact, splits: tuple[str, ...]) -> None:
    present = set(data.read("qrels", columns=["split"]).column("split").to_pylist())
    for split in splits:
        if split not in present:
            raise UserError(
                "the data has no labelled query in a split that the recipe uses",
                where=f"mine.split or evaluate.split = {split}",
                expected=", ".join(sorted(present)),
                fix="name a split that is there, or give the data one",
            )


def _graph(
    shards: "Dataset",
    work: Work,
    num_shards: int,
    reader: Callable[[dict[str, Any]], dict[str, Any]],
    model: LocatedModel,
    config: EncodeConfig,
) -> "Dataset":
    from ray.data import ActorPoolStrategy

    from pipelines.encode.embedder import Embedder

    smallest, largest = (min(size, num_shards) for size in work.session.pool("encode"))
    tokenize_resources = work.session.resources("tokenize")
    return (
        shards.map(reader, **tokenize_resources)
        .map(
            Embedder,
            fn_constructor_args=(model, config),
            compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
            **work.session.resources("encode"),
        )
        .map(partial(write_shard, writer=work.writer), **tokenize_resources)
    )


def read_and_tokenize(
    row: dict[str, Any], data: Artifact, splits: tuple[str, ...], model: LocatedModel
) -> dict[str, Any]:
    """Read one shard of texts, queries of ``splits`` only, and return their ordinals and token ids."""
    table, index = row["table"], row["index"]
    kind: Kind = "document" if table == "documents" else "query"
    ordinal, columns = ("doc", ["title"]) if kind == "document" else ("query", [])
    shard = data.read_shard(table, index, columns=[ordinal, *columns, "text"])
    if kind == "query":
        qrels = data.read("qrels", columns=["query", "split"])
        wanted = qrels.filter(pc.is_in(qrels.column("split"), pa.array(splits))).column("query").unique()
        shard = shard.filter(pc.is_in(shard.column("query"), wanted))
    texts = schemas.rendered_texts(shard)
    tokens = model.tokenizer().tokenize(texts, kind)
    return {
        "table": table,
        "index": index,
        "rows_read": row["rows"],
        "ordinals": shard.column(ordinal).to_numpy().tobytes(),
        "ids": tokens.ids.tobytes(),
        "offsets": tokens.offsets.tobytes(),
        "pool_starts": tokens.pool_starts.tobytes(),
    }


def write_shard(row: dict[str, Any], writer: ArtifactWriter) -> dict[str, Any]:
    """Write one shard of embeddings and return its receipt."""
    schema = schemas.embeddings(row["dimension"], row["precision"])
    ordinals = np.frombuffer(row["ordinals"], dtype=np.int64)
    values = pa.array(np.frombuffer(row["embeddings"], dtype=row["precision"]))
    embedding = pa.FixedSizeListArray.from_arrays(values, row["dimension"])
    table = schemas.conform(pa.table({"id": ordinals, "embedding": embedding}), schema)
    counters = {"tokens": row["tokens"]}
    shard = writer.write_shard(row["table"], row["index"], table, counters=counters, seconds=row["seconds"])
    return {"rows": shard.rows, "rows_read": row["rows_read"]}
