"""BEIR's own layout: JSON lines and TSV, or Parquet."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.exchange.columns import named_roles, number
from pipelines.exchange.config import ImportConfig
from pipelines.exchange.dataset import CORPUS, PAIRS, QUERIES, DataSet
from pipelines.exchange.judged import Judged
from pipelines.exchange.lookup import Lookup
from pipelines.exchange.references import judge, read_corpus, read_queries
from pipelines.ingest.beir import beir_files
from pipelines.ingest.config import SPLITS, BeirConfig
from pipelines.ingest.readers import read_records
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import RowError, bad_row, identifier
from pipelines.schemas import Split

TABLES = {
    "documents": ("corpus", {"doc_id": "_id", "title": "title", "text": "text"}, CORPUS),
    "queries": ("queries", {"query_id": "_id", "text": "text"}, QUERIES),
}
"""Table of an ingest artifact -> file, names of its columns, schema."""


def read_beir_directory(config: ImportConfig, dataset: DataSet, advance: Callable[[int], None]) -> list[str]:
    """Add directories in BEIR's layout; judged not relevant becomes a negative.

    Raises:
        UserError: A file is missing or lacks a column.
    """
    named_roles(config.columns, ())
    for source in config.files:
        if source.split:
            raise UserError(
                "a BEIR directory names its splits itself",
                where=str(source.path),
                got=f"{source.split}={source.path}",
                expected="the directory alone; its qrels/ hold one file a split",
            )
        files = beir_files(BeirConfig(kind="beir", name="import", path=str(source.path)))
        read_corpus(files["corpus"], dataset, advance)
        read_queries(files["queries"], dataset, advance)
        for split in SPLITS:
            if f"qrels/{split}" in files:
                _read_judgments(files[f"qrels/{split}"], split, dataset, advance)
    return []


def _read_judgments(path: Path, split: Split, dataset: DataSet, advance: Callable[[int], None]) -> None:
    source = f"qrels/{path.name}"
    for record in read_records(path, source, ("query-id", "corpus-id", "score")):
        advance(1)
        if isinstance(record, BadRow):
            dataset.rejects.add(record)
            continue
        try:
            pair = identifier(record, "query-id"), identifier(record, "corpus-id")
            relevance = number(record.values.get("score"), "score")
        except RowError as error:
            dataset.rejects.add(bad_row(source, record, error))
            continue
        judge(dataset, record, source, pair, relevance, split)


def write_beir(
    folder: Path, data: Artifact, split: Split | None, parquet: bool, advance: Callable[[int], None]
) -> dict[str, int]:
    """Write corpus, queries and qrels: the whole corpus and all queries, the judgments of one split or of all.

    Args:
        folder: Made here.
        data: The ingest artifact.
        split: None for all.
        parquet: Whether to write Parquet instead of JSON lines and TSV.
        advance: Told how many rows were written.

    Returns:
        Rows written, by file.
    """
    (folder / "qrels").mkdir(parents=True)
    written: dict[str, int] = {}
    for table, (name, columns, schema) in TABLES.items():
        path = folder / f"{name}{'.parquet' if parquet else '.jsonl'}"
        shards = _shards(data, table, columns, schema, advance)
        written[path.name] = _write_parquet(path, shards, schema) if parquet else _write_lines(path, shards)
    for each in (split,) if split else SPLITS:
        judged = Judged(data, each)
        if len(judged.query_J):
            path = folder / "qrels" / f"{each}{'.parquet' if parquet else '.tsv'}"
            _write_qrels(path, data, judged)
            written[f"qrels/{path.name}"] = len(judged.query_J)
    return written


def _shards(
    data: Artifact, table: str, columns: dict[str, str], schema: pa.Schema, advance: Callable[[int], None]
) -> Iterator[pa.Table]:
    for index in range(data.num_shards(table)):
        shard = data.read_shard(table, index, columns=list(columns)).select(list(columns))
        advance(shard.num_rows)
        renamed = shard.rename_columns([columns[name] for name in shard.column_names])
        if "title" in renamed.column_names:
            place = renamed.column_names.index("title")
            renamed = renamed.set_column(place, "title", renamed.column("title").fill_null(""))
        yield renamed.cast(schema)


def _write_parquet(path: Path, shards: Iterator[pa.Table], schema: pa.Schema) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for shard in shards:
            writer.write_table(shard)
            rows += shard.num_rows
    return rows


def _write_lines(path: Path, shards: Iterator[pa.Table]) -> int:
    rows = 0
    with path.open("wb") as file:
        for shard in shards:
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in shard.to_pylist())
            rows += shard.num_rows
    return rows


def _write_qrels(path: Path, data: Artifact, judged: Judged) -> None:
    query_ids, doc_ids = Lookup(data, "queries", "query_id"), Lookup(data, "documents", "doc_id")
    is_whole = bool((judged.relevance_J == np.floor(judged.relevance_J)).all())
    score = pa.int32() if is_whole else pa.float32()
    schema = PAIRS.set(2, pa.field("score", score))
    tables = (
        pa.table(
            [query_ids.take(query_J), doc_ids.take(doc_J), pa.array(relevance_J)], names=schema.names
        ).cast(schema)
        for query_J, doc_J, relevance_J in judged.batches()
    )
    if path.suffix == ".parquet":
        _write_parquet(path, tables, schema)
        return
    with path.open("wb") as file:
        file.write("\t".join(schema.names).encode() + b"\n")
        for table in tables:
            columns = [column.cast(pa.string()).to_pylist() for column in table.columns]
            file.writelines("\t".join(row).encode() + b"\n" for row in zip(*columns, strict=True))
