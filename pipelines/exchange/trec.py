"""TREC's qrels (query 0 document relevance) and run files (query Q0 document rank score tag)."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.exchange.columns import named_roles, number
from pipelines.exchange.config import ImportConfig
from pipelines.exchange.dataset import DataSet
from pipelines.exchange.judged import Judged
from pipelines.exchange.lookup import Lookup
from pipelines.exchange.references import judge, read_corpus, read_queries
from pipelines.ingest.config import SPLITS
from pipelines.ingest.readers import NOT_UTF8, Record, existing
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import RowError, bad_row
from pipelines.schemas import Split

QRELS = ("query", "iteration", "document", "relevance")
RUN = ("query", "q0", "document", "rank", "score", "tag")
LINES = 65_536
# What str.split takes for white space, as the tools that read these files do.
_SPACE = r"[\s\p{Z}\x{0b}\x{1c}-\x{1f}\x{85}]"


def read_trec(config: ImportConfig, dataset: DataSet, advance: Callable[[int], None]) -> list[str]:
    """Add the judgments of qrels files; what a run file ranks and nobody judged relevant becomes a negative.

    Raises:
        UserError: There are no texts to the ids, or a file is not of the form.
    """
    named_roles(config.columns, ())
    if not config.corpus or not config.queries:
        missing = "--corpus" if not config.corpus else "--queries"
        raise UserError(
            "TREC files hold ids; the texts are elsewhere", expected=f"{missing} FILE", fix=f"add {missing}"
        )
    read_corpus(config.corpus, dataset, advance)
    read_queries(config.queries, dataset, advance)
    for file in config.files:
        for record in _fields(file.path, QRELS, dataset):
            advance(1)
            _try(dataset, record, file.path.name, "relevance", file.split)
    if config.ranking:
        for record in _fields(config.ranking, RUN, dataset):
            advance(1)
            _try(dataset, record, config.ranking.name, "score", None)
    return []


def _try(dataset: DataSet, record: Record, source: str, column: str, split: str | None) -> None:
    pair = (str(record.values["query"]), str(record.values["document"]))
    try:
        value = number(record.values[column], column)
    except RowError as error:
        dataset.rejects.add(bad_row(source, record, error))
        return
    if column == "relevance":
        judge(dataset, record, source, pair, value, split)
    elif not dataset.has_query(pair[0]) or not dataset.has_document(pair[1]):
        unknown = "query" if not dataset.has_query(pair[0]) else "document"
        dataset.rejects.add(bad_row(source, record, RowError(f"unknown {unknown}")))
    else:
        dataset.negative(*pair, value)


def _fields(path: Path, names: tuple[str, ...], dataset: DataSet) -> Iterator[Record]:
    """Yield the lines of a file as records; the first must have the right number of fields.

    Raises:
        UserError: It has another number: the file is of another form.
    """
    first = True
    with existing(path, "file").open("rb") as file:
        for row, line in enumerate(file, start=1):
            try:
                cells = line.decode("utf-8-sig").split()
            except UnicodeDecodeError:
                dataset.rejects.add(
                    BadRow(path.name, row, NOT_UTF8, line.decode("utf-8", errors="backslashreplace"))
                )
                continue
            if not cells:
                continue
            if len(cells) == len(names):
                yield Record(row, dict(zip(names, cells, strict=True)))
            elif first:
                raise UserError(
                    f"{len(cells)} fields in a line",
                    where=f"{path}, line {row}",
                    got=" ".join(cells)[:200],
                    expected=" ".join(names),
                )
            else:
                dataset.rejects.add(BadRow(path.name, row, "wrong number of fields", " ".join(cells)))
            first = False


def write_trec(
    folder: Path,
    data: Artifact,
    candidates: Mapping[str, Artifact],
    split: Split | None,
    advance: Callable[[int], None],
) -> dict[str, int]:
    """Write qrels/<split>.txt, and runs/<name>.<split>.txt of every artifact with candidates of that split.

    Positives that were not retrieved have no rank and are left out. trec_eval orders equal scores by descending id
    and ignores ranks; ranks here break ties by the order of the corpus.

    Args:
        folder: Made here.
        data: The ingest artifact.
        candidates: Name of a ranking -> its artifact.
        split: One of them; None for all.
        advance: Told how many candidates were read.

    Returns:
        Lines written, by file.

    Raises:
        UserError: An id holds white space, or a relevance is not a whole number: the format cannot say so.
    """
    query_ids, doc_ids = Lookup(data, "queries", "query_id"), Lookup(data, "documents", "doc_id")
    written: dict[str, int] = {}
    queries: dict[Split, np.ndarray] = {}
    (folder / "qrels").mkdir(parents=True)
    for each in (split,) if split else SPLITS:
        judged = Judged(data, each)
        if len(judged.query_J):
            queries[each] = judged.queries()
            name = f"qrels/{each}.txt"
            written[name] = _write_qrels(folder / name, judged, query_ids, doc_ids)
    for name, artifact in candidates.items():
        for each, asked in queries.items():
            path = folder / "runs" / f"{name}.{each}.txt"
            lines = _write_run(path, artifact, asked, name, (query_ids, doc_ids), advance)
            if lines:
                written[f"runs/{path.name}"] = lines
    return written


def _write_qrels(path: Path, judged: Judged, query_ids: Lookup, doc_ids: Lookup) -> int:
    with path.open("wb") as file:
        for query_J, doc_J, relevance_J in judged.batches():
            whole_J = relevance_J.astype(np.int64)
            if (whole_J != relevance_J).any():
                raise UserError(
                    "TREC qrels hold whole numbers",
                    where=judged.data.key,
                    got=f"relevance {relevance_J[whole_J != relevance_J][0]:g}",
                    fix="--format beir keeps it",
                )
            file.write(
                _lines(_unspaced(query_ids, query_J), "0", _unspaced(doc_ids, doc_J), pa.array(whole_J))
            )
    return len(judged.query_J)


def _write_run(
    path: Path,
    artifact: Artifact,
    asked: np.ndarray,
    tag: str,
    ids: tuple[Lookup, Lookup],
    advance: Callable[[int], None],
) -> int:
    """Write the candidates of the queries in ``asked``, bool [queries], best first; no file where there are none."""
    lines = 0
    for index in range(artifact.num_shards("candidates")):
        table = artifact.read_shard("candidates", index, columns=["query", "doc", "rank", "score"])
        advance(table.num_rows)
        mine = asked[table.column("query").to_numpy()] & (table.column("rank").to_numpy() > 0)
        table = table.filter(pa.array(mine))
        for start in range(0, table.num_rows, LINES):
            query, doc, rank, score = (
                column.combine_chunks() for column in table.slice(start, LINES).columns
            )
            query_id, doc_id = (
                _unspaced(lookup, column.to_numpy()) for lookup, column in zip(ids, (query, doc), strict=True)
            )
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as file:
                file.write(_lines(query_id, "Q0", doc_id, rank, score, tag))
            lines += len(query)
    return lines


def _unspaced(lookup: Lookup, ordinals: np.ndarray) -> pa.Array:
    ids = lookup.take(ordinals)
    spaced = ids.filter(pc.match_substring_regex(ids, _SPACE))
    if len(spaced):
        raise UserError(
            "an id holds white space, which separates the fields of a TREC file",
            where=f"{lookup.data.key}, {lookup.column}",
            got=repr(spaced[0].as_py()),
            fix="--format beir keeps it",
        )
    return ids


def _lines(*fields: pa.Array | str) -> bytes:
    """Return one line a row, fields separated by spaces; a float is written with as many digits as it needs."""
    columns = [
        pa.scalar(field, pa.large_string()) if isinstance(field, str) else field.cast(pa.large_string())
        for field in fields
    ]
    joined = pc.binary_join_element_wise(*columns, pa.scalar(" ", pa.large_string()))
    return ("\n".join(joined.to_pylist()) + "\n").encode()
