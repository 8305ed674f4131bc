"""Select, shard by shard in this process: seconds of arithmetic on tables that are already there."""

import hashlib
from functools import partial

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from pipelines import schemas
from pipelines.select.config import SelectConfig
from pipelines.select.examples import pick_examples
from pipelines.select.groups import Candidates, groups_table, select
from pipelines.steps import Step, Work

STAGE_VERSION = 1
NUM_EXAMPLES = 3
EXCERPT = 240


def select_step(data: Step, candidates: Step, config: SelectConfig) -> Step:
    """Choose the negatives of every query that has candidates.

    Returns:
        A step whose artifact has the table `groups` and, in its summary, a few examples to look at.
    """
    return Step(
        stage="select",
        label=f"{data.label}-{config.filter.method}-{config.selection}",
        stage_version=STAGE_VERSION,
        identity=config.resolved.model_dump(mode="json"),
        libraries=(),
        inputs={"data": data, "candidates": candidates},
        run=partial(_run, config=config),
    )


def _run(work: Work, config: SelectConfig) -> Artifact:
    data, candidates = work.inputs["data"], work.inputs["candidates"]
    text_of_doc = text_keys(data, "documents")
    text_of_query = text_keys(data, "queries")
    queries = data.read("queries", columns=["task", "dataset"])
    work.progress.total(candidates.num_shards("candidates"), "shards")
    examples: list[dict[str, float | int]] = []
    for index in range(candidates.num_shards("candidates")):
        found = Candidates.from_table(candidates.read_shard("candidates", index))
        decided = select(found, text_of_doc, text_of_query[found.query_Q], config)
        mine = queries.take(pa.array(found.query_Q)).combine_chunks()
        task_Q, dataset_Q = (mine.column(name).combine_chunks() for name in ("task", "dataset"))
        table = groups_table(found, decided, task_Q, dataset_Q, config)
        work.writer.write_shard("groups", index, table, counters=decided.counters(config))
        examples += pick_examples(found, decided, NUM_EXAMPLES - len(examples))
        work.progress.advance()
    shown = [_with_texts(data, example) for example in examples]
    return work.commit({"groups": candidates.num_shards("candidates")}, {"examples": shown})


def text_keys(data: Artifact, table: str) -> np.ndarray:
    """Return uint64 [rows], equal where texts are equal but for white space."""
    keys = []
    for index in range(data.num_shards(table)):
        for text in data.read_shard(table, index, columns=["text"]).column("text").to_pylist():
            folded = " ".join(text.split()).encode()
            keys.append(int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "little"))
    return np.array(keys, np.uint64)


def _with_texts(data: Artifact, example: dict[str, float | int]) -> dict[str, object]:
    query = _row(data, "queries", int(example["query"]))
    shown: dict[str, object] = {"query": query["text"][:EXCERPT]}
    for name in ("positive", "rejected", "chosen"):
        row = _row(data, "documents", int(example[name]))
        text = schemas.rendered_texts(pa.Table.from_pylist([row]))[0]
        shown[name] = {"doc_id": row["doc_id"], "score": example[f"{name}_score"], "text": text[:EXCERPT]}
    return shown


def _row(data: Artifact, table: str, ordinal: int) -> dict[str, str]:
    starts = data.first_rows(table)
    index = int(np.searchsorted(starts, ordinal, side="right")) - 1
    row: dict[str, str] = data.read_shard(table, index).slice(ordinal - int(starts[index]), 1).to_pylist()[0]
    return row
