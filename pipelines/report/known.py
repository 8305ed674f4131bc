"""Lists of known false negatives, resolved to the ordinals of one ingest artifact."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.report.config import KnownConfig

MIN_ANSWER_CHARACTERS = 5


@dataclass(frozen=True)
class Known:
    """What is known of false negatives.

    Args:
        query: int64 [K], query of every listed pair; None where there is no list.
        doc: int64 [K], its document.
        answers: Query -> folded answer strings; None where there are none.
        counters: What the lists hold that was left out, by reason.
    """

    query: np.ndarray | None = None
    doc: np.ndarray | None = None
    answers: dict[int, tuple[str, ...]] | None = None
    counters: Counter[str] = field(default_factory=Counter)

    def pair_keys(self, num_docs: int) -> np.ndarray:
        """Return one int64 a listed pair that stands for its (query, document); empty without a list."""
        if self.query is None or self.doc is None:
            return np.empty(0, np.int64)
        return self.query * num_docs + self.doc


def read_known(config: KnownConfig, data: Artifact) -> Known:
    """Read the lists and join their ids to the ordinals of ``data``.

    Raises:
        UserError: A file cannot be read or lacks a column.
    """
    counters: Counter[str] = Counter()
    query = doc = answers = None
    paths = config.paths
    if "pairs" in paths:
        query, doc = _read_pairs(paths["pairs"], config.min_level, data, counters)
    if "answers" in paths:
        answers = _read_answers(paths["answers"], data, counters)
    return Known(query, doc, answers, counters)


def _read_pairs(
    path: Path, min_level: int | None, data: Artifact, counters: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    table = _read(path, ["query-id", "corpus-id"] + ([] if min_level is None else ["level"]))
    if min_level is not None:
        high = table.filter(pc.greater_equal(table.column("level"), min_level))
        counters["listed_pair_below_level"] += table.num_rows - high.num_rows
        table = high
    query = _ordinals(data, "queries", "query", "query_id", table.column("query-id"))
    doc = _ordinals(data, "documents", "doc", "doc_id", table.column("corpus-id"))
    counters["listed_pair_of_unknown_query"] += int((query < 0).sum())
    counters["listed_pair_of_unknown_document"] += int(((query >= 0) & (doc < 0)).sum())
    found = (query >= 0) & (doc >= 0)
    return query[found], doc[found]


def _read_answers(path: Path, data: Artifact, counters: Counter[str]) -> dict[int, tuple[str, ...]]:
    table = _read(path, ["query-id", "answers"])
    queries = _ordinals(data, "queries", "query", "query_id", table.column("query-id"))
    counters["answers_of_unknown_query"] += int((queries < 0).sum())
    answers: dict[int, tuple[str, ...]] = {}
    for query, strings in zip(queries.tolist(), table.column("answers").to_pylist(), strict=True):
        if query < 0:
            continue
        folded = dict.fromkeys(fold(string).casefold() for string in strings or ())
        usable = tuple(answer for answer in folded if is_telling(answer))
        counters["answer_too_short_or_a_number"] += len(folded) - len(usable)
        if usable:
            answers[query] = usable
    return answers


def fold(text: str) -> str:
    """Return ``text`` with every run of white space as one space."""
    return " ".join(text.split())


def is_telling(answer: str) -> bool:
    """Say whether a text that holds ``answer`` likely answers: five characters, and not a bare number or date."""
    return len(answer) >= MIN_ANSWER_CHARACTERS and any(letter.isalpha() for letter in answer)


def _read(path: Path, columns: list[str]) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            "cannot read the list of known false negatives",
            where=str(path),
            got=str(error).splitlines()[0],
            expected=f"a Parquet file with the columns {', '.join(columns)}",
        ) from error
    absent = [name for name in columns if name not in table.column_names]
    if absent:
        raise UserError(
            f"the list of known false negatives lacks {', '.join(absent)}",
            where=str(path),
            got=", ".join(table.column_names),
            expected=", ".join(columns),
            fix="leave min_level out where pairs have no level" if absent == ["level"] else "",
        )
    return table.select(columns)


def _ordinals(data: Artifact, table: str, ordinal: str, name: str, ids: pa.ChunkedArray) -> np.ndarray:
    """Return int64, the ordinal of every id; -1 where ``data`` has no such id."""
    wanted = pc.unique(ids.cast(pa.string()))
    found = np.full(len(wanted), -1, np.int64)
    for index in range(data.num_shards(table)):
        shard = data.read_shard(table, index, columns=[ordinal, name])
        places = pc.index_in(shard.column(name), value_set=wanted)
        here = pc.is_valid(places).to_numpy()
        found[places.drop_null().to_numpy()] = shard.column(ordinal).to_numpy()[here]
    return found[pc.index_in(ids.cast(pa.string()), value_set=wanted).to_numpy()]
