"""The data sets of sentence-transformers: pair, triplet, n-tuple, labeled-pair, labeled-list.

The order of the columns decides, as in its trainer: the first text is the query, the second the positive (or the
document, or the list of documents), all others are negatives; `label`, `labels`, `score` or `scores` is the label.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cluster.errors import UserError
from pipelines.exchange.columns import columns_in, elements, named_roles, number
from pipelines.exchange.config import ImportConfig, Shape, SourceFile
from pipelines.exchange.dataset import DataSet
from pipelines.exchange.examples import Example, Passage, add_example, split_of
from pipelines.ingest.readers import Record, read_records
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import SPLIT_NAMES, RowError, bad_row, content

ROLES = ("query", "positive", "label", "split")
LABELS = ("label", "labels", "score", "scores")
"""Columns that its trainer takes for the label; the first one present counts."""


@dataclass(frozen=True)
class Layout:
    """Which column is what.

    Args:
        shape: One of the five layouts.
        query: Column of the query.
        documents: Column of the positive, the document or the list of documents.
        negatives: Columns of the negatives.
        label: Column of the label, if any.
        split: Column of the split; need not exist.
        min_score: Labels from here on are positives; None: those above 0.
    """

    shape: Shape
    query: str
    documents: str
    negatives: tuple[str, ...]
    label: str | None
    split: str
    min_score: float | None


def read_sentence_transformers(
    config: ImportConfig, dataset: DataSet, advance: Callable[[int], None]
) -> list[str]:
    """Add the examples of files, or of directories that `datasets` saved.

    Returns:
        Notes: the layout of every file.

    Raises:
        UserError: A file is missing, or its columns fit none of the layouts.
    """
    notes = []
    for file in config.files:
        for split, columns, where, records in _parts(file):
            leading: list[Record | BadRow] = []
            for record in records:
                leading.append(record)
                if isinstance(record, Record):
                    break
            if not leading:
                continue
            texts = [name for name in columns if not _is_id(name) or name in config.columns.values()]
            layout = _layout(texts, where, leading[-1], config)
            names = ", ".join((layout.query, layout.documents, *layout.negatives))
            notes.append(f"{where} is read as {layout.shape}: {names}")
            if len(texts) < len(columns):
                notes.append(f"columns of ids are no texts: {', '.join(sorted({*columns} - {*texts}))}")
            for record in chain(leading, records):
                advance(1)
                _add(record, layout, file.path.name, split, dataset)
    return notes


def _parts(file: SourceFile) -> Iterator[tuple[str | None, list[str], str, Iterator[Record | BadRow]]]:
    """Yield (split, columns, where, records) of a file, or of each split of a directory."""
    if file.path.is_dir():
        for name, columns, records in _saved(file.path):
            split = file.split or SPLIT_NAMES.get(name)
            if name and split is None:
                raise UserError(
                    "unknown split", where=str(file.path), got=name, expected=", ".join(SPLIT_NAMES)
                )
            yield split, columns, f"{file.path}/{name}".rstrip("/"), records
        return
    columns, where = columns_in(file.path)
    yield file.split, columns, where, read_records(file.path, file.path.name, tuple(columns))


def _saved(path: Path) -> Iterator[tuple[str, list[str], Iterator[Record]]]:
    """Yield (split or "", columns, rows) of what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise UserError(
            "reading a saved data set needs the package `datasets`",
            where=str(path),
            got="a directory",
            fix="pip install datasets; or save it as Parquet there: dataset.to_parquet('train.parquet')",
        ) from error
    try:
        loaded = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise UserError("not a saved data set", where=str(path), got=str(error).splitlines()[0]) from error
    for name, part in loaded.items() if isinstance(loaded, Mapping) else [("", loaded)]:
        yield name, part.column_names, _rows(part.with_format("arrow").iter(batch_size=4096))


def _rows(tables: Iterator[object]) -> Iterator[Record]:
    row = 0
    for table in tables:
        for values in table.to_pylist():  # type: ignore[attr-defined]
            row += 1
            yield Record(row, values)


def _is_id(column: str) -> bool:
    """Return whether a column is called like one of ids, by the rule after which its trainer warns."""
    return column == "id" or column.endswith(("_id", "_ids", "_idx"))


def _layout(columns: Sequence[str], where: str, first: Record | BadRow, config: ImportConfig) -> Layout:
    roles = named_roles(config.columns, ROLES)
    for role, name in config.columns.items():
        if name not in columns:
            raise UserError(f"missing column {name}", where=where, got=", ".join(columns), expected=role)
    label = config.columns.get("label") or next((name for name in LABELS if name in columns), None)
    # Its trainer takes the first label only, and the others for texts; here they are no texts either.
    texts = [name for name in columns if name not in (*LABELS, label, roles["split"], "dataset_name")]
    query = config.columns.get("query") or next(iter(texts), "")
    rest = [name for name in texts if name != query]
    documents = config.columns.get("positive") or next(iter(rest), "")
    if not query or not documents:
        raise UserError(
            "missing column query" if not query else "missing column positive",
            where=where,
            got=", ".join(columns),
            expected="at least two columns of text: the query, then the positive",
            fix="name them: --column query=... --column positive=...",
        )
    negatives = tuple(name for name in rest if name != documents)
    values = first.values if isinstance(first, Record) else {}
    is_list = isinstance(values.get(documents), list)
    if is_list and label and not negatives:
        shape: Shape = "labeled-list"
    elif label and not negatives:
        shape = "labeled-pair"
    else:
        shape = "pair" if not negatives else "triplet" if len(negatives) == 1 else "n-tuple"
    if is_list and shape != "labeled-list":
        raise UserError(
            f"{documents} holds lists",
            where=where,
            got=", ".join(columns),
            expected="labels (or scores) beside it and no other text",
        )
    if shape.startswith("labeled") and str(label).startswith("score") and config.min_score is None:
        raise UserError(
            "scores do not say which pairs are positives",
            where=where,
            got=f"column {label}",
            expected="a label of 0 or 1, or the score from which a pair is a positive",
            fix="add --min-score 0.5, in the units of that column",
        )
    return Layout(shape, query, documents, negatives, label, roles["split"], config.min_score)


def _add(record: Record | BadRow, layout: Layout, source: str, split: str | None, dataset: DataSet) -> None:
    if isinstance(record, BadRow):
        dataset.rejects.add(record)
        return
    try:
        add_example(dataset, EXAMPLES[layout.shape](record, layout, source), split)
    except RowError as error:
        dataset.rejects.add(bad_row(source, record, error))


def _tuple(record: Record, layout: Layout, source: str) -> Example:
    """Return a pair, triplet or n-tuple; `scores` beside it are [positive, negative_1, ...]."""
    present = [name for name in layout.negatives if record.values.get(name) is not None]
    scores = elements(record, layout.label) if layout.label else []
    if scores and len(scores) != 1 + len(layout.negatives):
        raise RowError(f"{layout.label} is not [positive, negative, ...]")
    number_of = {
        name: number(score, str(layout.label))
        for name, score in zip((layout.documents, *layout.negatives), scores, strict=False)
        if score is not None
    }
    positive = Passage(content(record, layout.documents), None)
    negatives = [Passage(content(record, name), number_of.get(name)) for name in present]
    return Example(
        origin=(source, record.row),
        query=content(record, layout.query),
        positives=(positive,),
        negatives=tuple(negatives),
        split=split_of(record, layout.split),
        unscored=int(layout.documents in number_of),
    )


def _labeled(record: Record, layout: Layout, source: str) -> Example:
    """Return a labeled pair, or a labeled list: positives and negatives by their label."""
    documents, labels = [record.values.get(layout.documents)], [record.values.get(str(layout.label))]
    if layout.shape == "labeled-list":
        documents, labels = elements(record, layout.documents), elements(record, str(layout.label))
        if len(documents) != len(labels):
            raise RowError(f"{layout.label} has another length than {layout.documents}")
    is_score = str(layout.label).startswith("score")
    positives, negatives, rejected = [], [], []
    for document, label in zip(documents, labels, strict=True):
        try:
            text = content(Record(record.row, {layout.documents: document}), layout.documents)
            value = number(label, str(layout.label))
        except RowError as error:
            rejected.append(BadRow(source, record.row, str(error), str(document)))
            continue
        if value > 0 if layout.min_score is None else value >= layout.min_score:
            positives.append(Passage(text, value if not is_score and value > 0 else None))
        else:
            negatives.append(Passage(text, value if is_score else None))
    return Example(
        origin=(source, record.row),
        query=content(record, layout.query),
        positives=tuple(positives),
        negatives=tuple(negatives),
        split=split_of(record, layout.split),
        rejected=tuple(rejected),
        unscored=len(positives) if is_score else 0,
    )


EXAMPLES: dict[Shape, Callable[[Record, Layout, str], Example]] = {
    "pair": _tuple,
    "triplet": _tuple,
    "n-tuple": _tuple,
    "labeled-pair": _labeled,
    "labeled-list": _labeled,
}
