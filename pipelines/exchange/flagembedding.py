"""FlagEmbedding's JSON lines: {query, pos, neg, pos_scores, neg_scores, prompt, type}."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

from pipelines.exchange.columns import columns_in, elements, named_roles, number, require
from pipelines.exchange.config import ExportConfig, ImportConfig
from pipelines.exchange.dataset import DataSet
from pipelines.exchange.examples import Example, Passage, add_example, split_of
from pipelines.exchange.groups import GroupBatch, MinedGroups
from pipelines.ingest.readers import Record, read_records
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import RowError, bad_row, content

ROLES = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type", "split")
TYPES = {"classification": "symmetric_class", "clustering": "symmetric_clustering", "sts": "symmetric_sts"}
"""Task -> FlagEmbedding's `type`, which halves the batch of symmetric tasks; any other task is `normal`."""


def read_flagembedding(config: ImportConfig, dataset: DataSet, advance: Callable[[int], None]) -> list[str]:
    """Add the examples of the files.

    Returns:
        Notes: the prompts and types found, which belong in a recipe.

    Raises:
        UserError: A file is missing or its first row has no query or no pos.
    """
    roles = named_roles(config.columns, ROLES)
    seen: Counter[str] = Counter()
    for file in config.files:
        columns, where = columns_in(file.path)
        require(columns, where, roles, ("query", "pos"))
        for record in read_records(file.path, file.path.name, tuple(roles.values())):
            advance(1)
            if isinstance(record, BadRow):
                dataset.rejects.add(record)
                continue
            try:
                add_example(dataset, _example(record, roles, file.path.name), file.split)
            except RowError as error:
                dataset.rejects.add(bad_row(file.path.name, record, error))
                continue
            for role in ("prompt", "type"):
                value = record.values.get(roles[role])
                if isinstance(value, str) and value and (len(seen) < 100 or f"{role} {value!r}" in seen):
                    seen[f"{role} {value!r}"] += 1
    return [
        f"{what} on {count:,} rows is not kept: set it in the recipe" for what, count in seen.most_common(5)
    ]


def _example(record: Record, roles: dict[str, str], source: str) -> Example:
    rejected: list[BadRow] = []
    pos, unscored = _passages(record, roles["pos"], roles["pos_scores"], source, rejected)
    neg, _ = _passages(record, roles["neg"], roles["neg_scores"], source, rejected)
    query = content(record, roles["query"])
    if not pos:
        raise RowError(f"no usable text in {roles['pos']}")
    return Example(
        origin=(source, record.row),
        query=query,
        positives=tuple(passage._replace(number=None) for passage in pos),
        negatives=tuple(neg),
        split=split_of(record, roles["split"]),
        rejected=tuple(rejected),
        unscored=unscored,
    )


def _passages(
    record: Record, texts: str, scores: str, source: str, rejected: list[BadRow]
) -> tuple[list[Passage], int]:
    """Return the passages of a list column with their scores, and how many have one."""
    found, numbers = elements(record, texts), elements(record, scores)
    if numbers and len(numbers) != len(found):
        raise RowError(f"{scores} has another length than {texts}")
    passages: list[Passage] = []
    for position, text in enumerate(found):
        try:
            body = content(Record(record.row, {texts: text}), texts)
        except RowError as error:
            rejected.append(BadRow(source, record.row, str(error), "" if text is None else str(text)))
            continue
        scored = numbers and numbers[position] is not None
        passages.append(Passage(body, number(numbers[position], scores) if scored else None))
    return passages, sum(passage.number is not None for passage in passages)


def write_flagembedding(
    path: Path, mined: MinedGroups, config: ExportConfig, advance: Callable[[int], None]
) -> dict[str, int]:
    """Write one line a group.

    Groups without a negative are left out: the trainer draws from `neg` and fails on an empty list.

    Returns:
        Rows written, by file.
    """
    rows = 0
    with path.open("wb") as file:
        for batch in mined.batches(advance):
            rows += _write_batch(file, batch, mined, config)
    return {path.name: rows}


def _write_batch(file: BinaryIO, batch: GroupBatch, mined: MinedGroups, config: ExportConfig) -> int:
    lines = list(_lines(batch, mined, config))
    file.writelines(lines)
    return len(lines)


def _lines(batch: GroupBatch, mined: MinedGroups, config: ExportConfig) -> Iterator[bytes]:
    scores = config.scores is not False
    keep_G = batch.negatives.counts_G > 0
    mined.left_out["groups without a negative"] += int((~keep_G).sum())
    if scores:
        scored_G = batch.negatives.all_finite_G & batch.positives.all_finite_G
        mined.left_out["groups with a missing score (--no-scores keeps them)"] += int(
            (keep_G & ~scored_G).sum()
        )
        keep_G &= scored_G
    groups = np.flatnonzero(keep_G)
    queries = mined.query_texts.take(batch.query_G[groups]).to_pylist()
    pos, neg = (side.of(groups) for side in (batch.positives, batch.negatives))
    pos_texts, neg_texts = (iter(mined.document_texts.take(side.docs_P).to_pylist()) for side in (pos, neg))
    for row, query in enumerate(queries):
        line: dict[str, object] = {
            "query": query,
            "pos": [next(pos_texts) for _ in range(pos.counts_G[row])],
            "neg": [next(neg_texts) for _ in range(neg.counts_G[row])],
        }
        if scores:
            line["pos_scores"] = pos.scores_of(row)
            line["neg_scores"] = neg.scores_of(row)
        if config.prompt is not None:
            line["prompt"] = config.prompt
        line["type"] = TYPES.get(batch.task_G[groups[row]], "normal")
        yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
