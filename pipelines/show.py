"""What a run prints: examples of mining, the stages, the metrics, and what to type next."""

import json
import shlex
from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.artifacts import Artifact
from cluster.listing import print_rows
from pipelines.evaluate.bootstrap import paired_difference
from pipelines.evaluate.pipeline import by_query
from pipelines.execute import Done
from pipelines.index.pipeline import EMBEDDINGS_FILE
from pipelines.recipe import Recipe
from pipelines.steps import Step

TABLE_WIDTH = 120
"""Of the widest table, where no terminal says how wide it is."""
LABELS = {"ndcg": "nDCG", "mrr": "MRR", "recall": "recall"}


def survey(steps: Mapping[str, Step], states: Mapping[str, str]) -> None:
    """Print what a run would do with every step."""
    rows = [(steps[name].stage, name, state, steps[name].key) for name, state in states.items()]
    print_rows(("stage", "step", "state", "artifact"), rows)


def ingested(console: Console, data: Artifact) -> None:
    """Print what was read, what was set aside and why, and what the user should know of the splits."""
    summary = data.manifest.summary
    splits = ", ".join(f"{name} {split['queries']:,}" for name, split in summary["splits"].items())  # type: ignore[index, union-attr, call-overload]
    asked = f", {summary['queries']:,} queries ({splits})" if summary["queries"] else ""
    console.print(f"\n[bold]Data[/]  {summary['documents']:,} documents{asked}", highlight=False)
    if any(data.manifest.counters.values()):
        console.print("[bold]Set aside[/]  " + _counts(data.manifest.counters), highlight=False)
    for note in summary.get("notes", []):  # type: ignore[union-attr]
        console.print(f"[yellow]note[/]  {escape(str(note))}", highlight=False)


def mined(console: Console, groups: Artifact) -> None:
    """Print what selection dropped or filled up, and a few queries with a rejected and a chosen candidate."""
    console.print("\n[bold]Selection[/]  " + _counts(groups.manifest.counters), highlight=False)
    for example in groups.manifest.summary.get("examples", []):  # type: ignore[union-attr]
        _example(console, example)  # type: ignore[arg-type]


def _example(console: Console, example: Mapping[str, Any]) -> None:
    lines = [f"[bold]{'query':<31}[/]{escape(_line(example['query']))}"]
    for name, style, label in (
        ("positive", "green", "positive"),
        ("rejected", "yellow", "rejected: false negative"),
        ("chosen", "cyan", "kept: hard negative"),
    ):
        document = example[name]
        text = f"{document['doc_id']}: {_line(document['text'])}"
        lines.append(f"[{style}]{label:<24}[/] {document['score']:.3f} {escape(text)}")
    console.print()
    for line in lines:
        console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")


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
    table.add_column("")
    for metric, k in names:
        table.add_column(f"{LABELS[metric]}@{k}", justify="right")
    for run in dict.fromkeys(row["run"] for row in rows):
        of_run = {(row["metric"], row["k"]): row for row in rows if row["run"] == run}
        if " - " not in run:
            table.add_row(run, *(f"{of_run[name]['value']:.3f}" for name in names))
            continue
        table.add_row(run, *(f"{of_run[name]['value']:+.3f}" for name in names), style="bold")
        bounds = (f"{of_run[name]['ci_low']:+.3f} {of_run[name]['ci_high']:+.3f}" for name in names)
        table.add_row("95% interval", *bounds, style="dim")
    asked = f"{artifact.manifest.summary['num_queries']:,} queries"
    console.print(f"\n[bold]{escape(rows[0]['dataset'])}, {rows[0]['split']}[/]  {asked}", highlight=False)
    console.print(table)


def trained_methods(console: Console, metrics: Mapping[str, Sequence[Artifact]]) -> None:
    """Print what the negatives of each method train, a row a method: means over its seeds and what training gained.

    Args:
        console: Where.
        metrics: Method -> artifacts of evaluate, one a seed; base and BM25 are the same in all of them.
    """
    first = next(iter(metrics.values()))[0]
    told = first.read("metrics").to_pylist()
    names = list(dict.fromkeys((row["metric"], row["k"]) for row in told))
    baselines = {name: by_query(first, "base", name) for name in names}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("trained with")
    for metric, k in names:
        table.add_column(f"{LABELS[metric]}@{k}", justify="right")
    table.add_column(f"{LABELS[names[0][0]]}@{names[0][1]} less base (95%)", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for run in dict.fromkeys(row["run"] for row in told if row["run"] != "tuned" and " - " not in row["run"]):
        table.add_row(f"[dim]{run}[/]", *(f"{by_query(first, run, name).mean():.3f}" for name in names))
    for method, seeds in metrics.items():
        values = {name: np.stack([by_query(seed, "tuned", name) for seed in seeds]) for name in names}
        means = [f"{values[name].mean():.3f}" for name in names]
        gain = paired_difference(values[names[0]], baselines[names[0]])
        leading = values[names[0]].mean(axis=1)
        spread = f"{leading.min():.3f} {leading.max():.3f}" if len(seeds) > 1 else ""
        gained = f"{gain.mean:+.3f} ({gain.low:+.3f} {gain.high:+.3f})"
        table.add_row(escape(method), *means, gained, spread)
    asked = f"{first.manifest.summary['num_queries']:,} queries"
    console.print(f"\n[bold]{escape(told[0]['dataset'])}, {told[0]['split']}[/]  {asked}", highlight=False)
    (console if console.is_terminal else Console(file=console.file, width=TABLE_WIDTH)).print(table)


def index(console: Console, artifact: Artifact) -> None:
    """Print what an index of codes takes and finds beside the exact one; nothing of one that is exact itself."""
    summary: Mapping[str, Any] = artifact.manifest.summary
    rescore = summary.get("rescore")
    if rescore is None:
        return
    mapped = sum(file.num_bytes for file in artifact.manifest.files if file.name == EMBEDDINGS_FILE)
    recall = rescore["recall"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "in memory", "mapped file", f"recall@{recall['k']}" if recall else "recall"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("flat, exact", _bytes(summary["exact_bytes"]), "", f"{1:.3f}", style="dim")
    part = f" of {summary['dimension']} components" if summary["dimension"] else ""
    table.add_row(
        f"{summary['kind']}{part}, {rescore['multiplier']} candidates each",
        _bytes(summary["num_bytes"]),
        _bytes(mapped) if mapped else "",
        f"{recall['value']:.3f}" if recall else "not measured",
    )
    asked = f", recall of {recall['num_queries']:,} {recall['asked']}" if recall else ""
    console.print(
        f"\n[bold]Index[/]  {summary['num_documents']:,} documents{asked}",
        highlight=False,
    )
    console.print(table)


def embeddings(console: Console, artifact: Artifact) -> None:
    """Print where the embeddings lie and how many there are."""
    rows, shards = artifact.num_rows("documents"), artifact.num_shards("documents")
    console.print(f"\n[bold]Embeddings[/]  {rows:,} documents in {shards} shards, Parquet", highlight=False)
    console.print(f"  {escape(artifact.uri)}", highlight=False, soft_wrap=True)


def reranker(console: Console, artifact: Artifact, recipe: Recipe) -> None:
    """Print where a trained cross-encoder lies, and how a recipe takes it for a teacher."""
    asked = recipe.train.cross_encoder
    assert asked is not None
    model = {
        "source": str(artifact.directory("model")),
        "max_query_tokens": asked.max_query_tokens,
        "max_document_tokens": asked.max_document_tokens,
    }
    told = yaml.safe_dump({"judge": {"kind": "reranker", "over": "dense", "model": model}}, sort_keys=False)
    console.print("\n[bold]Cross-encoder[/]  as a teacher, under mine.teachers of a recipe:", highlight=False)
    console.print(escape(indent(told, "  ").rstrip()), highlight=False, soft_wrap=True)


def next_commands(console: Console, release: str, recipe: str, query: str, storage: str | None) -> None:
    """Print what to type next.

    Args:
        console: Where.
        release: Name of the release that was made.
        recipe: As the user named it.
        query: Something to ask the index.
        storage: As the user named it, for commands to look there too.
    """
    there = f" --storage {shlex.quote(storage)}" if storage else ""
    body = json.dumps({"query": _line(query).replace("'", " ")[:60], "k": 3})
    commands = {
        f"stope serve run latest{there}": "serve it: a page, /v1/embeddings, /v1/search",
        f"curl -s localhost:8000/v1/search -H 'content-type: application/json' -d '{body}'": "ask it",
        f"stope evaluate {recipe}{there} --set mine.select.filter.method=naive": (
            "see what negatives without a filter do; only what depends on the filter is computed again"
        ),
        f"stope runs show latest{there}": "the tables above, again",
    }
    console.print(f"\n[bold]Release[/] {release}", highlight=False)
    for command, what in commands.items():
        console.print(f"  [cyan]{escape(command)}[/]\n      {what}", highlight=False, soft_wrap=True)


def _counts(counts: Mapping[str, int]) -> str:
    present = {name.replace("_", " "): count for name, count in counts.items() if count}
    return ", ".join(f"{escape(name)} {count:,}" for name, count in present.items()) or "none"


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def _line(text: str) -> str:
    return " ".join(text.split())
