"""Whole pages: one on an audit, one on a run with its audits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.runs import RunRecord
from pipelines.report.markup import page, rows_table, section, text
from pipelines.report.plots import Bar, bars
from pipelines.report.sections import (
    agreement_map,
    audit_table,
    dropped_table,
    examples_list,
    facts_line,
    headline,
    score_plots,
    share_bars,
)
from pipelines.report.tables import Audit, side_by_side

METRIC_LABELS = {"ndcg": "nDCG", "mrr": "MRR", "recall": "recall"}
DIFFERENCE = " - "
"""Stands in the name of a row of metrics that is the difference of two rankings."""


def audit_page(audit: Audit) -> str:
    """Return one self-contained HTML document on an audit."""
    title = f"Audit of mined negatives: {audit.facts['dataset']}"
    return page(title, f"<header><h1>{text(title)}</h1></header>{_audit('audit', audit)}")


def run_page(
    record: RunRecord,
    audits: Mapping[str, Mapping[str, Audit]],
    dropped: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """Return one self-contained HTML document on a run.

    Args:
        record: State, stages and metrics of the run.
        audits: Data set -> its audits by name; several stand side by side before each has its own part.
        dropped: Artifact key -> what its stage dropped, by reason.
    """
    ended = f", ended {record.finished_at[:19]}" if record.finished_at else ""
    facts = f"{record.state}; began {record.created_at[:19]}{ended}, UTC; {record.id}"
    parts = [
        f'<header><h1>{text(record.name)}</h1><p class="facts">{text(facts)}</p></header>',
        _metrics(record.metrics),
        *(
            _audits(f"audit{number}", name, of_dataset)
            for number, (name, of_dataset) in enumerate(audits.items())
        ),
        _stages(record, dropped or {}),
        _settings(record),
    ]
    return page(f"Stope run {record.name}", "".join(parts))


def _audits(prefix: str, dataset: str, audits: Mapping[str, Audit]) -> str:
    if len(audits) == 1:
        return f"<h1>Audit: {text(dataset)}</h1>{_audit(prefix, next(iter(audits.values())))}"
    together = side_by_side(audits)
    parts = [
        f"<h1>Audits: {text(dataset)}</h1>{audit_table(together)}{share_bars(prefix, together)}",
        *(
            f"<h1>{text(name)}</h1>{_audit(f'{prefix}-{number}', audit)}"
            for number, (name, audit) in enumerate(audits.items())
        ),
    ]
    return "".join(parts)


def _audit(prefix: str, audit: Audit) -> str:
    parts = [
        facts_line(audit),
        headline(audit),
        audit_table(audit),
        share_bars(prefix, audit),
        score_plots(prefix, audit),
        agreement_map(prefix, audit),
        dropped_table(audit),
        examples_list(audit),
    ]
    return f'<div id="{prefix}">{"".join(parts)}</div>'


def metric_label(row: Mapping[str, Any]) -> str:
    """Return the name of a row of metrics, such as ``nDCG@10``."""
    return f"{METRIC_LABELS.get(row['metric'], row['metric'])}@{row['k']}"


def _metrics(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    metrics = list(dict.fromkeys(metric_label(row) for row in rows))
    rankings = list(dict.fromkeys(str(row["run"]) for row in rows))
    of = {(str(row["run"]), metric_label(row)): row for row in rows}
    cells = []
    for ranking in rankings:
        line = [text(ranking)]
        for metric in metrics:
            row = of.get((ranking, metric))
            line.append("" if row is None else _metric_cell(row, signed=DIFFERENCE in ranking))
        cells.append(line)
    first = rows[0]
    where = f"{first['dataset']}, {first['split']}. Below a value stands its 95% interval over queries."
    plots = "".join(
        bars(f"metric-{number}", metric, "mean over queries", _metric_bars(metric, rankings, of))
        for number, metric in enumerate(metrics)
    )
    table = rows_table("Metrics by ranking", ["ranking", *metrics], cells)
    return section("Metrics", where, f'{table}<div class="plots wide">{plots}</div>')


def _metric_cell(row: Mapping[str, Any], signed: bool) -> str:
    form = "+.3f" if signed else ".3f"
    if row["ci_low"] is None:
        return format(row["value"], form)
    return f"{row['value']:{form}}<small>{row['ci_low']:{form}} to {row['ci_high']:{form}}</small>"


def _metric_bars(
    metric: str, rankings: Sequence[str], of: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[Bar]:
    rows = [(name, of[name, metric]) for name in rankings if DIFFERENCE not in name and (name, metric) in of]
    return [
        Bar(name, row["value"], row["ci_low"], row["ci_high"], f"{row['value']:.3f}") for name, row in rows
    ]


def _stages(record: RunRecord, dropped: Mapping[str, Mapping[str, int]]) -> str:
    if not record.stages:
        return ""
    rows = []
    for stage in record.stages:
        counts = {reason: count for reason, count in dropped.get(stage.key, {}).items() if count}
        told = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in counts.items())
        label = stage.key.partition("/")[2].rpartition("-")[0]
        took = "cached" if stage.cached else f"{stage.seconds:,.1f} s"
        rows.append(
            [
                f"{text(stage.stage)}<small>{text(label)}</small>",
                text(stage.state),
                f"{stage.rows:,}",
                took,
                f'<span class="reasons">{text(told)}</span>' if told else "",
            ]
        )
    total = sum(stage.seconds for stage in record.stages)
    note = f"{total:,.1f} s in all; what was cached took none."
    return section(
        "Stages",
        note,
        rows_table("Stages in the order they began", ["stage", "state", "rows", "time", "dropped"], rows),
    )


def _settings(record: RunRecord) -> str:
    boxes = "".join(
        f'<details class="plain"><summary>{name}</summary><pre>{text(json.dumps(value, indent=2))}</pre></details>'
        for name, value in (("Recipe", record.recipe), ("Cluster definition", record.definition))
    )
    log = "".join(f"<dt>{text(event.at[:19])}</dt><dd>{text(event.text)}</dd>" for event in record.events)
    events = f'<details class="plain" open><summary>Events</summary><dl>{log}</dl></details>' if log else ""
    return section("Settings", "", boxes + events)
