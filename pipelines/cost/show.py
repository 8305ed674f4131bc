"""An estimate as a table for people and as JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pydantic import JsonValue, TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.cost.corpus import Corpus
from pipelines.cost.estimate import Estimate, StepCost

_JSON = TypeAdapter(dict[str, JsonValue])
_SCALES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def as_json(estimate: Estimate, corpora: Mapping[str, Corpus], notes: Sequence[str]) -> dict[str, JsonValue]:
    """Return an estimate as JSON values: bytes, seconds and hours in full.

    Args:
        estimate: What a run takes.
        corpora: Data set -> its sizes, `main` first.
        notes: What is said beside it.

    Returns:
        ``corpus`` (of the main data set), ``also`` (name of a further one -> the same of it), ``steps`` (fields of
        StepCost), ``totals``, ``dominant``, ``warnings`` and ``notes``.
    """
    main, *further = corpora
    totals = {
        "wall_s": estimate.wall_s,
        "device_hours": dict(estimate.device_hours),
        "storage_bytes": estimate.storage_bytes,
        "peak_storage_bytes": estimate.peak_storage_bytes,
        "price": estimate.price,
        "measured_s": sum(step.measured.seconds for step in estimate.steps if step.measured),
    }
    content = {
        "corpus": _facts(corpora[main]),
        "also": {name: _facts(corpora[name]) for name in further},
        "steps": [asdict(step) for step in estimate.steps],
        "totals": totals,
        "dominant": estimate.dominant,
        "warnings": list(estimate.warnings),
        "notes": list(notes),
    }
    return _JSON.validate_python(content)


def _facts(corpus: Corpus) -> dict[str, object]:
    return {
        "source": corpus.source,
        "documents": corpus.num_documents,
        "queries": dict(corpus.num_queries),
        "positives_per_query": corpus.positives,
    }


def print_estimate(
    console: Console, estimate: Estimate, corpora: Mapping[str, Corpus], notes: Sequence[str]
) -> None:
    """Print one row a step, the totals, what takes the longest, and what to mind.

    Of several data sets every row says which one it belongs to.
    """
    are_several = len(corpora) > 1
    for name, corpus in corpora.items():
        queries = ", ".join(f"{split} {count:,}" for split, count in corpus.num_queries.items() if count)
        console.print(
            f"[bold]Data[/]  {f'{name}: ' if are_several else ''}{corpus.num_documents:,} documents, "
            f"queries: {queries or 'none'}  [dim]({escape(corpus.source)})[/]",
            highlight=False,
        )
    is_measured = any(step.measured for step in estimate.steps)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage", no_wrap=True)
    if are_several:
        table.add_column("data set", overflow="fold")
    # Where the terminal is narrow this column is folded, and the numbers stay whole.
    table.add_column("of", overflow="fold")
    for heading in ("FLOPs", "device hours", "actors", "wall", "memory", "storage"):
        table.add_column(heading, justify="right", no_wrap=True)
    if estimate.price is not None:
        table.add_column("price", justify="right", no_wrap=True)
    if is_measured:
        table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    for step in estimate.steps:
        table.add_row(*_cells(step, estimate.price is not None, is_measured, are_several))
    console.print(table)
    _print_totals(console, estimate)
    for note in notes:
        console.print(f"[dim]note[/]  {escape(note)}", highlight=False)
    for warning in estimate.warnings:
        console.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False)


def _cells(step: StepCost, is_priced: bool, is_measured: bool, are_several: bool) -> list[str]:
    cells = [
        step.stage,
        *([escape(step.dataset)] if are_several else []),
        escape(step.label),
        f"{scaled(step.flops)}" if step.flops else "",
        hours(step.device_hours, step.device),
        str(step.actors),
        duration(step.wall_s),
        size(step.memory_bytes) if step.memory_bytes else "",
        size(step.storage_bytes) if step.storage_bytes else "",
    ]
    if is_priced:
        cells.append(f"{step.price:,.2f}" if step.price else "")
    if is_measured:
        taken = step.measured
        cells.append(f"{duration(taken.seconds)} {ratio(step.wall_s, taken.seconds)}" if taken else "")
    return [*cells, step.bound]


def _print_totals(console: Console, estimate: Estimate) -> None:
    spent = ", ".join(hours(count, device) for device, count in estimate.device_hours.items())
    priced = "" if estimate.price is None else f", price {estimate.price:,.2f}"
    longest = next((step for step in estimate.steps if step.step == estimate.dominant), None)
    console.print(
        f"\n[bold]Total[/]  {duration(estimate.wall_s)} wall, {spent or 'no device'} hours, "
        f"{size(estimate.storage_bytes)} stored (at most {size(estimate.peak_storage_bytes)} at a time){priced}",
        highlight=False,
    )
    if longest is not None:
        share = longest.wall_s / estimate.wall_s
        console.print(
            f"[bold]Longest[/]  {longest.stage} {escape(longest.label)}, {share:.0%} of the time, "
            f"bound by {longest.bound}",
            highlight=False,
        )
    compared = [(step.wall_s, step.measured.seconds) for step in estimate.steps if step.measured]
    if compared:
        predicted, taken = (sum(column) for column in zip(*compared, strict=True))
        console.print(
            f"[bold]Measured[/]  {duration(taken)} for {len(compared)} steps, predicted {duration(predicted)} "
            f"{ratio(predicted, taken)}",
            highlight=False,
        )


def ratio(predicted_s: float, measured_s: float) -> str:
    """Return predicted over measured; nothing for what takes less than a tenth of a second."""
    return f"(x{predicted_s / measured_s:.2f})" if measured_s >= 0.1 else ""


def scaled(number: float) -> str:
    """Return a number with a decimal prefix, such as ``52.6 T``."""
    for scale, prefix in _SCALES:
        if number >= scale:
            return f"{number / scale:.3g} {prefix}"
    return f"{number:.0f} "


def size(num_bytes: float) -> str:
    """Return bytes with a binary unit, such as ``1.5 GiB``."""
    for unit, scale in (("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes / 2**10:.0f} KiB"


def duration(seconds: float) -> str:
    """Return a time in the largest unit that leaves two digits, such as ``97 s``, ``12.5 min`` or ``3.1 d``."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    for unit, scale, limit in (("min", 60, 120), ("h", 3600, 48)):
        if seconds < limit * scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds / 86400:,.1f} d"


def hours(count: float, device: str) -> str:
    """Return device hours, such as ``3.2 H100``; small ones with three decimals."""
    return f"{count:,.1f} {device}" if count >= 10 else f"{count:.3f} {device}"
