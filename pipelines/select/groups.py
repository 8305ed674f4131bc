"""From candidates to training groups: labelled and identical texts out, filter, sample; arrays only.

Shapes: Q queries, C candidates in order of rank.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.select.config import SelectConfig
from pipelines.select.filters import FILTERS
from pipelines.select.samplers import SAMPLERS

POSITIVE_SCORES = {"min": np.minimum, "max": np.maximum, "mean": np.add}


@dataclass(frozen=True)
class Candidates:
    """The candidates of one shard, padded; rows in ascending order of query.

    Args:
        query_Q: int64 ordinals.
        docs_QC: int64, -1 where a query has fewer.
        scores_QC: float32, -inf where a query has fewer.
        positive_query: Row of each labelled pair, int64 [P].
        positive_doc: Its document.
        positive_score: Its teacher score.
    """

    query_Q: np.ndarray
    docs_QC: np.ndarray
    scores_QC: np.ndarray
    positive_query: np.ndarray
    positive_doc: np.ndarray
    positive_score: np.ndarray

    @classmethod
    def from_table(cls, table: pa.Table) -> "Candidates":
        """Pad a table of schema CANDIDATES; queries without a scored positive are left out."""
        query, doc, rank = (table.column(name).to_numpy() for name in ("query", "doc", "rank"))
        score = table.column("score").to_numpy()
        positive = table.column("is_positive").to_numpy(zero_copy_only=False)
        query_Q = np.unique(query[positive])
        retrieved = (rank > 0) & np.isin(query, query_Q)
        row, column = np.searchsorted(query_Q, query[retrieved]), rank[retrieved] - 1
        shape = (len(query_Q), int(column.max(initial=0)) + 1)
        docs_QC, scores_QC = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        docs_QC[row, column], scores_QC[row, column] = doc[retrieved], score[retrieved]
        pairs = (np.searchsorted(query_Q, query[positive]), doc[positive], score[positive])
        return cls(query_Q, docs_QC, scores_QC, *pairs)

    def positive_scores(self, mode: str) -> np.ndarray:
        """Return one positive score a query, float32 [Q]: the min, max or mean over its positives."""
        start = {"min": np.inf, "max": -np.inf, "mean": 0.0}[mode]
        scores_Q = np.full(len(self.query_Q), start, np.float32)
        POSITIVE_SCORES[mode].at(scores_Q, self.positive_query, self.positive_score)
        counts_Q = np.bincount(self.positive_query, minlength=len(self.query_Q))
        return scores_Q / np.maximum(counts_Q, 1) if mode == "mean" else scores_Q


@dataclass(frozen=True)
class Selection:
    """What was decided about every candidate; all bool [Q, C].

    Args:
        labelled_QC: A positive of the query.
        identical_QC: Not labelled, but the text of a positive or of the query itself.
        rejected_QC: Taken for a false negative by the filter.
        chosen_QC: A negative of the group.
        complete_Q: bool [Q]: the query has all the negatives that were asked for.
    """

    labelled_QC: np.ndarray
    identical_QC: np.ndarray
    rejected_QC: np.ndarray
    chosen_QC: np.ndarray
    complete_Q: np.ndarray

    def counters(self, config: SelectConfig) -> dict[str, int]:
        """Return what was dropped, by reason."""
        short = int((~self.complete_Q).sum())
        return {
            "labelled_positive": int(self.labelled_QC.sum()),
            "identical_text": int(self.identical_QC.sum()),
            f"filter_{config.filter.method}": int(self.rejected_QC.sum()),
            "queries_with_fewer_negatives": short if config.starved == "keep_fewer" else 0,
            "queries_dropped_as_starved": short if config.starved == "drop" else 0,
        }


def select(
    found: Candidates, text_of_doc: np.ndarray, text_of_query: np.ndarray, config: SelectConfig
) -> Selection:
    """Decide about every candidate.

    Args:
        found: Padded candidates.
        text_of_doc: uint64 [num_documents]: equal where texts are equal.
        text_of_query: uint64 [Q]: on the same scale, for the queries of ``found``.
        config: Filter, sampling, number of negatives.
    """
    present_QC = found.docs_QC >= 0
    num_docs = len(text_of_doc)
    keys_QC = np.arange(len(found.query_Q))[:, None] * num_docs + found.docs_QC
    labelled_QC = present_QC & np.isin(keys_QC, found.positive_query * num_docs + found.positive_doc)
    identical_QC = present_QC & ~labelled_QC & _same_text(found, text_of_doc, text_of_query)
    open_QC = present_QC & ~labelled_QC & ~identical_QC

    positive_Q = found.positive_scores(config.positive_score)
    rule = config.filter
    # A score that is not finite never passes: naive and shifted look at no score at all.
    passed_QC = FILTERS[rule.method](found.scores_QC, positive_Q, rule.resolved_threshold, rule.shift)
    kept_QC = open_QC & passed_QC & np.isfinite(found.scores_QC)
    noise_QC = gumbel_noise(config.seed, found.query_Q, kept_QC.shape[1])
    n, pool, temperature = config.num_negatives, config.sample_from, config.sample_temperature
    chosen_QC = SAMPLERS[config.selection](found.scores_QC, kept_QC, n, pool, temperature, noise_QC)
    return Selection(labelled_QC, identical_QC, open_QC & ~kept_QC, chosen_QC, chosen_QC.sum(axis=1) >= n)


def _same_text(found: Candidates, text_of_doc: np.ndarray, text_of_query: np.ndarray) -> np.ndarray:
    texts_QC = text_of_doc[found.docs_QC]
    rows_QC = np.broadcast_to(np.arange(len(found.query_Q))[:, None], texts_QC.shape)
    positives = _pair(found.positive_query, text_of_doc[found.positive_doc])
    queries = _pair(np.arange(len(found.query_Q)), text_of_query)
    return np.isin(_pair(rows_QC, texts_QC), np.concatenate([positives, queries]))


def _pair(row: np.ndarray, text: np.ndarray) -> np.ndarray:
    return splitmix(row.astype(np.uint64)) ^ text


def splitmix(values: np.ndarray) -> np.ndarray:
    """Return the SplitMix64 hash of uint64 values: a counter in, well-mixed bits out."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def gumbel_noise(seed: int, query_Q: np.ndarray, columns: int) -> np.ndarray:
    """Return float64 [Q, columns] standard Gumbel noise that depends on seed and query alone.

    So a query's draw is the same in whichever shard it lies, and beside whichever other queries.
    """
    with np.errstate(over="ignore"):
        stream_Q = splitmix(splitmix(np.array(seed, np.uint64)) ^ query_Q.astype(np.uint64))
        bits_QC = splitmix(stream_Q[:, None] + np.arange(columns, dtype=np.uint64))
    uniform_QC = (bits_QC >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return -np.log(-np.log(np.clip(uniform_QC, 2.0**-53, 1 - 2.0**-53)))


def groups_table(
    found: Candidates, decided: Selection, task_Q: pa.Array, dataset_Q: pa.Array, config: SelectConfig
) -> pa.Table:
    """Return the groups, schema GROUPS, one row a query; negatives in order of rank.

    Args:
        found: Padded candidates.
        decided: What was decided about them.
        task_Q: Task of every query.
        dataset_Q: Data set of every query.
        config: Says whether starved queries stay.
    """
    stays_Q = decided.complete_Q if config.starved == "drop" else np.ones(len(found.query_Q), bool)
    order = np.lexsort((found.positive_doc, -found.positive_score, found.positive_query))
    order = order[stays_Q[found.positive_query[order]]]
    pair_row = found.positive_query[order]
    chosen_QC = decided.chosen_QC & stays_Q[:, None]
    row, column = np.nonzero(chosen_QC)
    docs = found.docs_QC[row, column]
    rows = np.flatnonzero(stays_Q)
    positives = pa.StructArray.from_arrays(
        [found.positive_doc[order], _singletons(found.positive_score[order])], names=["doc", "scores"]
    )
    negatives = pa.StructArray.from_arrays(
        [
            docs,
            _singletons(found.scores_QC[row, column]),
            np.zeros(len(docs), np.int8),
            (column + 1).astype(np.int32),
            pa.ListArray.from_arrays(pa.array(np.zeros(len(docs) + 1, np.int32)), pa.array([], pa.int64())),
        ],
        names=["doc", "scores", "teacher", "rank", "answers"],
    )
    kept = pa.array(rows)
    table = pa.table(
        {
            "query": found.query_Q[rows],
            "task": task_Q.take(kept),
            "dataset": dataset_Q.take(kept),
            "positives": _lists(positives, np.bincount(pair_row, minlength=len(stays_Q))[rows]),
            "negatives": _lists(negatives, chosen_QC.sum(axis=1)[rows]),
        }
    )
    return schemas.conform(table, schemas.GROUPS)


def _singletons(scores: np.ndarray) -> pa.ListArray:
    return _lists(pa.array(scores.astype(np.float32)), np.ones(len(scores), np.int64))


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
