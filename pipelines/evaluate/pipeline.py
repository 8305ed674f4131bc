"""Evaluate rankings of the same queries side by side, in this process."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines import schemas
from pipelines.evaluate.bootstrap import Interval, mean_interval, paired_difference
from pipelines.evaluate.config import EvaluateConfig
from pipelines.metrics import PerQuery, Ranking, Relevance, per_query_metrics
from pipelines.own_documents import own_documents
from pipelines.steps import Step, Work

STAGE_VERSION = 3
Differences = Sequence[tuple[str, str]]
"""Pairs of rankings that are compared query by query: the first less the second."""
TRAINED = (("tuned", "base"),)
"""What training made of the model."""


def evaluate_step(
    data: Step,
    rankings: Mapping[str, Step],
    config: EvaluateConfig,
    differences: Differences = TRAINED,
    over: Mapping[str, str] | None = None,
) -> Step:
    """Score every ranking, and the difference that training made, over the queries of one split.

    Args:
        data: The ingest step, for the labels.
        rankings: Name -> a step with the table `candidates`.
        config: Split and bootstrap.
        differences: Which rankings are compared query by query.
        over: Name -> the ranking whose first documents it ranks again; the others follow it in their order.

    Returns:
        A step whose artifact has the tables `metrics`, one row for each ranking and metric, and `metrics_by_query`.
    """
    return Step(
        stage="evaluate",
        label=f"{data.label}-{config.split}",
        stage_version=STAGE_VERSION,
        # How deep is ranked again is felt through the rankings.
        identity=config.model_dump(mode="json", exclude={"rerank_depth"}) | _told(differences, over),
        libraries=("ir-measures", "numpy", "pytrec-eval-terrier"),
        inputs={"data": data, **rankings},
        run=partial(
            _run, names=tuple(rankings), config=config, differences=tuple(differences), over=dict(over or {})
        ),
    )


def _told(differences: Differences, over: Mapping[str, str] | None) -> dict[str, object]:
    reranked: dict[str, object] = {
        "differences": [list(pair) for pair in differences],
        "over": dict(over or {}),
    }
    return reranked if over else {}


def _run(
    work: Work,
    names: tuple[str, ...],
    config: EvaluateConfig,
    differences: Differences,
    over: Mapping[str, str],
) -> Artifact:
    data = work.inputs["data"]
    relevance = read_relevance(data, config.split)
    ignore = own_documents(data, relevance.query)
    work.progress.total(len(names), "rankings")
    scored: dict[str, PerQuery] = {}
    for name in names:
        ranking = read_ranking(work.inputs[name])
        if name in over:
            ranking = continued(ranking, read_ranking(work.inputs[over[name]]))
        scored[name] = per_query_metrics(ranking, relevance, config.metrics, ignore)
        work.progress.advance()
    dataset = data.read_shard("documents", 0, columns=["dataset"]).column("dataset")[0].as_py()
    resampling = {"num_resamples": config.bootstrap_samples, "seed": config.seed}
    rows = [
        _row(name, metric, mean_interval(values, **resampling))
        for name, per_query in scored.items()
        for metric, values in per_query.values.items()
    ]
    for pair in differences:
        after, before = (scored[name].values for name in pair)
        rows += [
            _row(" - ".join(pair), metric, paired_difference(after[metric], before[metric], **resampling))
            for metric in config.metrics
        ]
    table = pa.Table.from_pylist([{**row, "dataset": dataset, "split": config.split} for row in rows])
    work.writer.write_shard("metrics", 0, schemas.conform(table, schemas.METRICS))
    by_query = pa.concat_tables(_by_query(name, per_query) for name, per_query in scored.items())
    work.writer.write_shard("metrics_by_query", 0, schemas.conform(by_query, schemas.METRICS_BY_QUERY))
    return work.commit({"metrics": 1, "metrics_by_query": 1}, {"num_queries": len(scored[names[0]].queries)})


def by_query(evaluated: Artifact, run: str, metric: tuple[str, int]) -> NDArray[np.float64]:
    """Return one metric of every query of an evaluation, by ascending query.

    Args:
        evaluated: What ``evaluate_step`` made.
        run: Name of a ranking.
        metric: Its name and rank.

    Returns:
        float64 [Q].
    """
    table = evaluated.read("metrics_by_query")
    for column, value in zip(("run", "metric", "k"), (run, *metric), strict=True):
        table = table.filter(pc.equal(table.column(column), value))
    values: NDArray[np.float64] = table.sort_by("query").column("value").to_numpy()
    return values


def read_relevance(data: Artifact, split: str) -> Relevance:
    """Return the labels of one split.

    Raises:
        UserError: The split has no labels.
    """
    qrels = data.read("qrels")
    mine = qrels.filter(pc.equal(qrels.column("split"), split))
    if not mine.num_rows:
        splits = ", ".join(sorted(set(qrels.column("split").to_pylist())))
        raise UserError("no labelled query to evaluate", where="evaluate.split", got=split, expected=splits)
    return Relevance(*(mine.column(name).to_numpy() for name in ("query", "doc", "relevance")))


def read_ranking(candidates: Artifact) -> Ranking:
    """Return the retrieved documents of a search; positives that were only scored are left out."""
    table = candidates.read("candidates", columns=["query", "doc", "rank", "score"])
    retrieved = table.filter(pc.greater(table.column("rank"), np.int32(0)))
    return Ranking(*(retrieved.column(name).to_numpy() for name in ("query", "doc", "score")))


def continued(ranking: Ranking, over: Ranking) -> Ranking:
    """Return a ranking of some documents, with all others of the ranking that they are from behind them.

    Args:
        ranking: Of the first documents of ``over``, by other scores.
        over: Whose order the others keep.
    """
    ranked = np.isin((over.query << 32) + over.doc, (ranking.query << 32) + ranking.doc)
    order = np.lexsort((over.doc, -over.score, over.query))
    query, doc, behind = over.query[order], over.doc[order], ~ranked[order]
    # Places, not scores: measures may compute in float32, where close scores would tie below a logit.
    first = np.searchsorted(query, query)
    lowest = np.floor(ranking.score.min(initial=0.0))
    score = lowest - 1.0 - (np.arange(len(query)) - first)
    return Ranking(
        np.concatenate([ranking.query, query[behind]]),
        np.concatenate([ranking.doc, doc[behind]]),
        np.concatenate([ranking.score.astype(np.float64), score[behind]]),
    )


def _row(run: str, metric: str, interval: Interval) -> dict[str, object]:
    estimate = {"value": interval.mean, "ci_low": interval.low, "ci_high": interval.high}
    return {"run": run, **_named(metric), **estimate}


def _by_query(run: str, per_query: PerQuery) -> pa.Table:
    tables = []
    for metric, values in per_query.values.items():
        same = {name: pa.repeat(value, len(values)) for name, value in {"run": run, **_named(metric)}.items()}
        tables.append(pa.table({**same, "query": per_query.queries, "value": values}))
    return pa.concat_tables(tables)


def _named(metric: str) -> dict[str, object]:
    name, _, k = metric.partition("@")
    return {"metric": name, "k": int(k)}
