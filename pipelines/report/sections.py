"""The sections of an audit's page: table, bars, figure 1, agreement, reasons, examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.report.curves import Series, step_histogram
from pipelines.report.markup import rows_table, section, text
from pipelines.report.plots import Bar, bars, heat_map
from pipelines.report.scatter import Point, scatter
from pipelines.report.style import NUM_STYLES
from pipelines.report.tables import MEASURES, Audit
from pipelines.report.terminal import interval_text, number_text, value_text

SHARES = ("listed_false", "answer_false", "near_duplicate", "starved")
"""Measures that have a plot of their own."""
UNUSUAL = ("identical", "near_duplicate", "labelled", "repeated")
"""Shares that have a column only where one is above zero."""
HISTOGRAM_TITLES = {
    "positive": ("Positives", "score"),
    "negative": ("Negatives", "score"),
    "margin": ("Positive minus negative", "difference of scores"),
    "loss": ("InfoNCE loss of a group", "loss, nats"),
}


def headline(audit: Audit) -> str:
    """Return one sentence on the range of likely false negatives; empty where nothing is known of them."""
    measures = audit.measures()
    known = known_measure(audit)
    if known is None or len(measures[known]) < 2:
        return ""
    of_method = measures[known]
    best = min(of_method, key=lambda name: of_method[name]["value"])
    worst = max(of_method, key=lambda name: of_method[name]["value"])
    what = {
        "listed_false": "are listed as false negatives",
        "answer_false": "hold an answer of their query and are likely false",
    }[known]
    few, many = (value_text(known, of_method[name]) for name in (best, worst))
    return (
        f'<p class="headline">Of the negatives of <strong>{text(worst)}</strong> {many} {what}, '
        f"of those of <strong>{text(best)}</strong> {few}.</p>"
    )


def known_measure(audit: Audit) -> str | None:
    """Return the surest measure of false negatives that the audit has."""
    present = audit.measures()
    return next((name for name in ("listed_false", "answer_false") if name in present), None)


def facts_line(audit: Audit) -> str:
    """Return what was measured how, in one line."""
    facts = audit.facts
    told = [
        f"scores by {facts['score_by']}",
        f"loss at temperature {facts['temperature']}",
        f"texts of {facts['text_queries']:,} queries",
        f"near-duplicate from Jaccard {facts['near_duplicate_jaccard']}",
        "95% bootstrap intervals over queries",
    ]
    return f'<p class="facts">{text("; ".join(told))}</p>'


def audit_table(audit: Audit) -> str:
    """Return the section with one row a method and one column a measure; shares that are zero throughout go below."""
    measures = audit.measures()
    empty = [
        name for name in measures if name in UNUSUAL and not any(r["count"] for r in measures[name].values())
    ]
    columns = [name for name in measures if name not in empty]
    rows = []
    for method in audit.methods:
        cells = [text(method)]
        for name in columns:
            row = measures[name].get(method)
            interval = interval_text(name, row).replace(" ", " to ")
            cells.append(value_text(name, row) + (f"<small>{interval}</small>" if interval else ""))
        rows.append(cells)
    header = ["method", *(MEASURES[name].label for name in columns)]
    meanings = "".join(
        f"<dt>{text(MEASURES[name].label)}</dt><dd>{text(MEASURES[name].meaning)}</dd>" for name in measures
    )
    words = f'<details class="plain"><summary>What the columns mean</summary><dl>{meanings}</dl></details>'
    note = "Below a value stands its 95% interval."
    if empty:
        note += f" None with any method: {', '.join(MEASURES[name].label for name in empty)}."
    return section("Methods", note, rows_table("Measures by method", header, rows) + words)


def share_bars(prefix: str, audit: Audit) -> str:
    """Return the section with bars of false negatives, near-duplicates and starvation, and what hardness costs."""
    measures = audit.measures()
    plots = []
    for name in SHARES:
        of_method = measures.get(name, {})
        if not of_method or (name in UNUSUAL and not any(row["count"] for row in of_method.values())):
            continue
        rows = [
            Bar(
                method,
                100 * row["value"],
                None if row["ci_low"] is None else 100 * row["ci_low"],
                None if row["ci_high"] is None else 100 * row["ci_high"],
                f"{number_text(name, row['value'])} ({row['count']:,})",
            )
            for method, row in of_method.items()
        ]
        unit = "% of queries" if name == "starved" else "% of negatives"
        title = MEASURES[name].label.capitalize()
        plots.append(bars(f"{prefix}-{name}", title, unit, rows, _sentence(MEASURES[name].meaning)))
    plots.append(_hardness(prefix, audit))
    note = "Shorter is better. Whiskers are 95% intervals; counts in brackets."
    return section("False negatives and starvation", note, f'<div class="plots wide">{"".join(plots)}</div>')


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _hardness(prefix: str, audit: Audit) -> str:
    """Return the plot of false negatives against mean margin; empty where either is unknown."""
    measures, known = audit.measures(), known_measure(audit)
    margins = measures.get("mean_margin", {})
    points = [
        Point(
            method,
            audit.methods.index(method),
            margins[method]["value"],
            *(100 * row[key] for key in ("value", "ci_low", "ci_high")),
        )
        for method, row in (measures[known] if known else {}).items()
        if method in margins
    ]
    if len(points) < 2:
        return ""
    return scatter(
        f"{prefix}-hardness",
        "What hardness costs",
        "mean of positive minus negative score",
        f"{MEASURES[known].label}, %" if known else "",
        points,
        "Further left is harder, lower is cleaner.",
    )


def score_plots(prefix: str, audit: Audit) -> str:
    """Return the section with the histograms of NV-Retriever's figure 1, a legend that hides methods above them."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in audit.histograms.to_pylist():
        found.setdefault(row["quantity"], {}).setdefault(row["method"], []).append(row)
    if not found:
        return ""
    methods = audit.methods
    plots = []
    for quantity, (title, x_label) in HISTOGRAM_TITLES.items():
        if quantity not in found:
            continue
        series = [
            Series(
                name,
                methods.index(name),
                *(np.array([row[key] for row in rows]) for key in ("bin_low", "bin_high", "count")),
            )
            for name, rows in found[quantity].items()
        ]
        is_loss = quantity == "loss"
        of = {"margin": "pairs, %", "loss": "groups, % (log)"}.get(quantity, f"{quantity}s, %")
        mark = 0.0 if quantity == "margin" else None
        plots.append(
            step_histogram(f"{prefix}-{quantity}", title, x_label, of, series, log=is_loss, mark=mark)
        )
    facts = audit.facts
    absent = [name for name in methods if name not in found.get("negative", {})]
    note = (
        f"Scores by {facts['score_by']}; the loss is that of a positive against its own group at temperature "
        f"{facts['temperature']}. Left of zero difference a negative scores above its positive."
    )
    if absent:
        note += f" Not scored by {facts['score_by']}: {', '.join(absent)}."
    body = _legend(prefix, [name for name in methods if name not in absent], methods)
    return section("Scores, margins and loss", note, f'{body}<div class="plots wide">{"".join(plots)}</div>')


def _legend(prefix: str, shown: list[str], methods: list[str]) -> str:
    boxes, rules = [], []
    for name in shown:
        number = methods.index(name)
        box = f"{prefix}-show-{number}"
        swatch = (
            f'<svg viewBox="0 0 38 12" aria-hidden="true" class="s{number % NUM_STYLES}">'
            '<path class="line" d="M1 6H37"/></svg>'
        )
        boxes.append(f'<label><input type="checkbox" id="{box}" checked>{swatch}{text(name)}</label>')
        rules.append(f"#{prefix}:has(#{box}:not(:checked)) figure .m{number}{{display:none}}")
    legend = "<legend>Methods; untick one to hide it</legend>"
    return f'<style>{"".join(rules)}</style><fieldset class="legend">{legend}{"".join(boxes)}</fieldset>'


def agreement_map(prefix: str, audit: Audit) -> str:
    """Return the section with the teachers' agreement; empty for a single teacher."""
    rows = audit.agreement.to_pylist()
    names = list(dict.fromkeys(row["teacher_a"] for row in rows))
    if len(names) < 2:
        return ""
    values = np.full((len(names), len(names)), np.nan)
    for row in rows:
        values[names.index(row["teacher_a"]), names.index(row["teacher_b"])] = row["jaccard"]
    depth = audit.facts["agreement_depth"]
    note = f"Mean over queries of |A and B| / |A or B|, of each teacher's best {depth} unlabelled candidates."
    plot = heat_map(f"{prefix}-agreement", "Agreement of teachers", names, values, "1: the same candidates.")
    return section("Teachers", note, plot)


def dropped_table(audit: Audit) -> str:
    """Return the section with what selection dropped, by reason; empty where nothing was."""
    dropped: Mapping[str, Mapping[str, int]] = audit.facts["dropped"]
    reasons = list(
        dict.fromkeys(reason for counts in dropped.values() for reason, count in counts.items() if count)
    )
    if not reasons:
        return ""
    rows = [
        [
            text(reason.replace("_", " ")),
            *(f"{dropped[name][reason]:,}" if reason in dropped[name] else "" for name in dropped),
        ]
        for reason in reasons
    ]
    note = "As the selection counted it: candidates by reason, and queries that came out short."
    return section("Dropped", note, rows_table("Counts by method", ["reason", *dropped], rows))


def examples_list(audit: Audit) -> str:
    """Return the section with decisions to open one by one; empty where none were kept."""
    by_query: dict[int, list[dict[str, Any]]] = {}
    for row in audit.examples.to_pylist():
        by_query.setdefault(row["query"], []).append(row)
    if not by_query:
        return ""
    shown = [_example(rows, len(audit.methods), number == 0) for number, rows in enumerate(by_query.values())]
    note = (
        "Positive: labelled. Negative: chosen by the methods named. Rejected: ranked above a chosen negative and "
        f"chosen by no method. Scores and ranks of {audit.facts['score_by']}."
    )
    return section("Decisions to read", note, "".join(shown))


def _example(rows: list[dict[str, Any]], num_methods: int, opened: bool) -> str:
    first = rows[0]
    flags = sum(bool(row["flags"]) for row in rows if row["role"] == "negative")
    badge = f' <span class="chip flag">{flags} suspect</span>' if flags else ""
    documents = "".join(_document(row, num_methods) for row in rows)
    return (
        f'<details{" open" if opened else ""}><summary><strong dir="auto">{text(first["query_text"])}</strong>'
        f'<span class="id">{text(first["query_id"])}</span>{badge}</summary>{documents}</details>'
    )


def _document(row: Mapping[str, Any], num_methods: int) -> str:
    role = row["role"]
    chips = [f'<span class="chip role {role}">{role}</span>']
    if row["rank"] is not None:
        chips.append(f"<span>rank {row['rank']}</span>")
    if row["score"] is not None:
        chips.append(f"<span>score {row['score']:.3f}</span>")
    chips += [f'<span class="chip flag">{text(flag)}</span>' for flag in row["flags"]]
    if role == "negative":
        names = ["every method"] if len(row["methods"]) == num_methods > 1 else row["methods"]
        chips += ["<span>chosen by</span>", *(f'<span class="chip">{text(name)}</span>' for name in names)]
    chips.append(f'<span class="id">{text(row["doc_id"])}</span>')
    return (
        f'<div class="doc {role}"><div class="chips">{"".join(chips)}</div>'
        f'<p dir="auto">{text(row["text"])}</p></div>'
    )
