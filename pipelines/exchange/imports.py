"""Read another tool's format and write a directory in BEIR's layout."""

import difflib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UserError
from pipelines.exchange.beir import read_beir_directory
from pipelines.exchange.clicks import read_clicks
from pipelines.exchange.config import ImportConfig, SourceFile
from pipelines.exchange.dataset import DataSet
from pipelines.exchange.flagembedding import read_flagembedding
from pipelines.exchange.placing import placed
from pipelines.exchange.sentence_transformers import read_sentence_transformers
from pipelines.exchange.tevatron import read_tevatron
from pipelines.exchange.trec import read_trec
from pipelines.ingest.config import SPLITS

Reader = Callable[[ImportConfig, DataSet, Callable[[int], None]], list[str]]
READERS: dict[str, Reader] = {
    "beir": read_beir_directory,
    "trec": read_trec,
    "sentence-transformers": read_sentence_transformers,
    "flagembedding": read_flagembedding,
    "tevatron": read_tevatron,
    "clicks": read_clicks,
}
OPTIONS = {
    "corpus": ("trec", "tevatron"),
    "queries": ("trec",),
    "ranking": ("trec",),
    "min_score": ("sentence-transformers",),
    "clicks": ("clicks",),
}
"""Setting of ImportConfig -> the formats that read it."""
FLAGS = {"clicks": "--min-impressions, --prior-impressions, --cuts"}
"""Setting -> what is typed, where that is not its name."""


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Args:
        rows: Rows by table: documents, queries, a split's judgments, negatives.
        set_aside: Rows and texts that cannot be used, by "file: reason"; they are in quarantine.parquet.
        merged: What is there already or has no place in the layout, by reason.
        notes: What the user should know.
    """

    rows: dict[str, int]
    set_aside: Counter[str]
    merged: Counter[str]
    notes: list[str]


def import_data(
    name: str, config: ImportConfig, target: Path, overwrite: bool, advance: Callable[[int], None]
) -> Imported:
    """Read ``config.files`` and write the directory ``target``.

    Args:
        name: A key of READERS.
        config: What is read.
        target: Directory in BEIR's layout: corpus, queries and qrels as Parquet, negatives.parquet where there
            are any, and quarantine.parquet where rows were set aside.
        overwrite: Whether ``target`` may exist.
        advance: Told how many rows were read.

    Raises:
        UserError: The format is unknown, takes no such setting, a file is missing or not of that format, or
            nothing is left to judge by.
    """
    reader = READERS[known(name, READERS, "--from")]
    for option, formats in OPTIONS.items():
        flag = f"--{option.replace('_', '-')}"
        if getattr(config, option) != ImportConfig.model_fields[option].get_default() and name not in formats:
            raise UserError(
                f"{name} does not read {FLAGS.get(option, flag)}",
                expected=f"--from {' or '.join(formats)}",
                fix="leave it out",
            )
    with placed(target, overwrite) as folder:
        folder.mkdir()
        dataset = DataSet(folder, config.ratios)
        notes = reader(config, dataset, advance)
        dataset.close(advance)
    rows = {"documents": dataset.corpus.num_rows, "queries": dataset.queries.num_rows}
    rows |= {f"judgments, {split}": dataset.qrels[split].num_rows for split in SPLITS}
    rows["negatives"] = dataset.negatives.num_rows
    return Imported(rows, dataset.rejects.counts, +dataset.rejects.merged, notes)


def known(name: str, names: dict[str, Reader] | tuple[str, ...], option: str) -> str:
    """Return ``name``, one of ``names``.

    Raises:
        UserError: It is none of them; names the nearest.
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise UserError(
            "unknown format",
            where=option,
            got=name,
            expected=", ".join(names),
            fix=f"did you mean {option} {near[0]}?" if near else "",
        )
    return name


def source_file(text: str) -> SourceFile:
    """Return the file that ``[split=]path`` names."""
    split, equals, path = text.partition("=")
    if equals and split in SPLITS and not Path(text).exists():
        return SourceFile.model_validate({"path": Path(path).expanduser(), "split": split})
    return SourceFile(path=Path(text).expanduser())
