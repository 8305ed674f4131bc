"""What a run prints: examples of mining, the stages, the metrics, and what to type next."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.artifacts import Artifact
from pipelines.execute import Done
from pipelines.steps import Step


def survey(console: Console, steps: Mapping[str, Step], states: Mapping[str, str]) -> None:
    """Print what a run would do with every step."""
    table = Table("stage", "step", "artifact", "state", box=None, pad_edge=False)
    for name, state in states.items():
        table.add_row(steps[name].stage, name, steps[name].key, state)
    console.print(table)


def quarantined(console: Console, data: Artifact) -> None:
    """Print how many rows of the input were set aside, and why."""
    reasons = {reason: count for reason, count in data.manifest.counters.items() if count}
    if reasons:
        console.print("\n[bold]Set aside at ingest[/]  " + _counts(reasons), highlight=False)


def mined(console: Console, groups: Artifact) -> None:
    """Print what selection dropped and a few queries with a rejected and a chosen candidate."""
    console.print("\n[bold]Candidates dropped[/]  " + _counts(groups.manifest.counters), highlight=False)
    for example in groups.manifest.summary.get("examples", []):  # type: ignore[union-attr]
        _example(console, example)  # type: ignore[arg-type]


def _example(console: Console, example: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="ellipsis", no_wrap=True)
    table.add_row("[bold]query[/]", "", escape(_line(example["query"])))
    for name, style, label in (
        ("positive", "green", "positive"),
        ("rejected", "yellow", "rejected as false negative"),
        ("chosen", "cyan", "kept as hard negative"),
    ):
        document = example[name]
        text = f"{document['doc_id']}: {_line(document['text'])}"
        table.add_row(f"[{style}]{label}[/]", f"{document['score']:.3f}", escape(text))
    console.print()
    console.print(table)


def stages(console: Console, done: Sequence[Done]) -> None:
    """Print one row a stage."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage")
    table.add_column("artifact")
    table.add_column("rows", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("")
    shown: set[str] = set()
    for each in done:
        if each.step.key in shown:
            continue
        shown.add(each.step.key)
        state = "cached" if each.cached else "not needed" if each.artifact is None else ""
        rows, seconds = (f"{each.rows:,}" if each.rows else "", f"{each.seconds:.1f}" if each.seconds else "")
        table.add_row(each.step.stage, each.step.label, rows, seconds, state)
    console.print()
    console.print(table)


def metrics(console: Console, artifact: Artifact) -> None:
    """Print the metrics of every ranking, a column a metric, and the difference that training made."""
    rows = artifact.read("metrics").to_pylist()
    names = list(dict.fromkeys((row["metric"], row["k"]) for row in rows))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(f"{rows[0]['dataset']}, {rows[0]['split']}")
    for metric, k in names:
        table.add_column(f"{metric}@{k}", justify="right")
    for run in dict.fromkeys(row["run"] for row in rows):
        cells = []
        for metric, k in names:
            row = next(row for row in rows if (row["run"], row["metric"], row["k"]) == (run, metric, k))
            cells.append(_value(row, run.startswith("tuned -")))
        table.add_row(run, *cells)
    summary = artifact.manifest.summary
    console.print(
        f"\n[bold]Held-out queries[/]  {summary['num_queries']:,} queries, 95% intervals", highlight=False
    )
    console.print(table)


def _value(row: Mapping[str, Any], difference: bool) -> str:
    if difference:
        return f"{row['value']:+.3f} [dim]({row['ci_low']:+.3f} {row['ci_high']:+.3f})[/]"
    return f"{row['value']:.3f}"


def next_commands(console: Console, release: str) -> None:
    """Print what to type next."""
    console.print(f"\n[bold]Release[/] {release}", highlight=False)
    for command, what in (
        (
            "stope serve run latest",
            "serve it: OpenAI-compatible /v1/embeddings, /v1/search, a page to look at",
        ),
        (
            "curl -s localhost:8000/v1/search -H 'content-type: application/json' "
            '-d \'{"query": "fill missing values", "k": 3}\'',
            "ask it",
        ),
        (
            "stope mine run demo --set mine.select.filter.method=naive",
            "see what mining without a filter chooses",
        ),
        ("stope runs show latest", "this table again"),
    ):
        console.print(f"  [cyan]{escape(command)}[/]\n      {what}", highlight=False, soft_wrap=True)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def _line(text: str) -> str:
    return " ".join(text.split())
