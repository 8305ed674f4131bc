"""Select, shard by shard in this process: seconds of arithmetic on tables that are already there."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines import schemas
from pipelines.select.config import SelectConfig
from pipelines.select.examples import Example, pick_examples
from pipelines.select.labels import Labels
from pipelines.select.shard import Corpus, Facts, Mined, Queries, mine_shard
from pipelines.select.texts import document_keys, keys_of, rows_between
from pipelines.steps import Step, Work

STAGE_VERSION = 3
NUM_EXAMPLES = 3
EXCERPT = 240

STARVED = pa.schema(
    [pa.field("query", pa.int64(), nullable=False)],
    metadata={b"stope.table": b"starved", b"stope.version": b"1"},
)
"""Queries with a group that has fewer survivors than negatives, ascending."""

SURVIVAL_ALONE = {"selection": "top", "sample_from": 10, "sample_temperature": 1.0, "starved": "keep_fewer"}
"""Settings that say nothing about which candidates survive."""


def select_step(
    data: Step, teachers: Mapping[str, Step], config: SelectConfig, deeper: Mapping[str, Step] | None = None
) -> Step:
    """Choose the negatives of every query that has candidates and a labelled document.

    Args:
        data: The ingest step.
        teachers: Name -> candidates, of all teachers that selection reads (``config.reads``), in that order.
        config: Filter, sampling, ensemble, number of negatives.
        deeper: Teacher -> candidates of starved queries that were searched again, in the same shards; they take the
            place of the query's shallow ones.

    Returns:
        A step whose artifact has the table `groups` and, in its summary, the teachers in order and a few examples.

    Raises:
        UserError: The ensemble or the thresholds do not fit the teachers.
    """
    names, again = tuple(teachers), dict(deeper or {})
    supplying = config.suppliers(names)
    of = "" if len(names) == 1 else f"-{'+'.join(supplying)}"
    ensemble = "" if config.ensemble == "none" else f"-{config.ensemble}"
    return Step(
        stage="select",
        label=f"{data.label}{of}{ensemble}-{config.filter.method}-{config.selection}"[:80],
        stage_version=STAGE_VERSION,
        identity=_identity(names, config),
        libraries=(),
        inputs=_inputs(data, teachers, again),
        run=partial(_select, names=names, deeper=tuple(again), config=config),
    )


def starved_step(data: Step, teachers: Mapping[str, Step], config: SelectConfig) -> Step:
    """Find the queries for which fewer candidates survive than a group needs.

    Returns:
        A step whose artifact has the table `starved`, in the shards of the candidates. It does not depend on how
        survivors are chosen.

    Raises:
        UserError: The ensemble or the thresholds do not fit the teachers.
    """
    names = tuple(teachers)
    config.suppliers(names)
    config = config.model_copy(update=SURVIVAL_ALONE)
    if config.ensemble != "cross_sample":
        config = config.model_copy(update={"seed": 0})
    return Step(
        stage="select",
        label=f"{data.label}-{config.filter.method}-starved"[:80],
        stage_version=STAGE_VERSION,
        identity={**_identity(names, config), "table": "starved"},
        libraries=(),
        inputs=_inputs(data, teachers, {}),
        run=partial(_starved, names=names, config=config),
    )


def _identity(names: Sequence[str], config: SelectConfig) -> dict[str, object]:
    settings = config.resolved.model_dump(mode="json")
    return {**settings, "reads": list(names), "teachers": list(config.suppliers(names))}


def _inputs(data: Step, teachers: Mapping[str, Step], deeper: Mapping[str, Step]) -> dict[str, Step]:
    inputs = {"data": data}
    inputs |= {f"teacher_{name}": step for name, step in teachers.items()}
    inputs |= {f"deeper_{name}": step for name, step in deeper.items()}
    return inputs


def _select(work: Work, names: Sequence[str], deeper: Sequence[str], config: SelectConfig) -> Artifact:
    data = work.inputs["data"]
    examples: list[Example] = []
    facts, num_groups, num_shards = Facts.none(len(names)), 0, 0
    for index, mined in _mine(work, names, deeper, config):
        counters = dict(sorted(mined.counters.items()))
        work.writer.write_shard("groups", index, mined.groups, counters=counters)
        examples += pick_examples(mined.shown, NUM_EXAMPLES - len(examples))
        facts, num_groups, num_shards = facts + mined.facts, num_groups + mined.groups.num_rows, index + 1
    summary: dict[str, object] = {
        "teachers": list(names),
        "suppliers": list(config.suppliers(names)),
        "groups": num_groups,
        "negatives_of_teacher": _by_name(names, facts.supplied_T.tolist()),
        "mean_margin": _by_name(names, _means(facts)),
        "examples": [_with_texts(data, example) for example in examples],
    }
    return work.commit({"groups": num_shards}, summary)


def _starved(work: Work, names: Sequence[str], config: SelectConfig) -> Artifact:
    num_starved, num_shards = 0, 0
    for index, mined in _mine(work, names, (), config):
        work.writer.write_shard("starved", index, pa.table({"query": mined.starved_Q}, schema=STARVED))
        num_starved, num_shards = num_starved + len(mined.starved_Q), index + 1
    return work.commit({"starved": num_shards}, {"teachers": list(names), "starved": num_starved})


def _mine(
    work: Work, names: Sequence[str], deeper: Sequence[str], config: SelectConfig
) -> Iterator[tuple[int, Mined]]:
    data = work.inputs["data"]
    teachers = [work.inputs[f"teacher_{name}"] for name in names]
    again = [work.inputs.get(f"deeper_{name}") if name in deeper else None for name in names]
    num_shards = _same_shards([*teachers, *(artifact for artifact in again if artifact is not None)])
    work.progress.note("texts")
    low = max(0.0, config.max_negative_relevance or 0.0)
    qrels = data.read("qrels", columns=["query", "doc", "relevance", "split"])
    corpus = Corpus(document_keys(data), Labels.of(qrels, low))
    work.progress.total(num_shards, "shards")
    for index in range(num_shards):
        tables = [artifact.read_shard("candidates", index) for artifact in teachers]
        found_again = [None if each is None else each.read_shard("candidates", index) for each in again]
        queries = _queries(data, [table.column("query").to_numpy() for table in tables])
        yield index, mine_shard(tables, found_again, queries, corpus, names, config)
        work.progress.advance()


def _same_shards(artifacts: Sequence[Artifact]) -> int:
    counts = {artifact.key: artifact.num_shards("candidates") for artifact in artifacts}
    if len(set(counts.values())) > 1:
        raise UserError(
            "the candidates of the teachers are cut differently",
            where="select",
            got=", ".join(f"{key}: {count} shards" for key, count in counts.items()),
            expected="the same queries in the same shards",
        )
    return next(iter(counts.values()))


def _queries(data: Artifact, ordinals: Sequence[np.ndarray]) -> Queries:
    """Return the queries of the ingest shards that hold these ordinals."""
    present = [column for column in ordinals if len(column)]
    first = min((int(column.min()) for column in present), default=0)
    last = max((int(column.max()) for column in present), default=0)
    start, table = rows_between(data, "queries", first, last)
    task_Q, dataset_Q = (table.column(name).combine_chunks() for name in ("task", "dataset"))
    return Queries(start, keys_of(table.column("text")), task_Q, dataset_Q)


def _means(facts: Facts) -> list[float | None]:
    sums, counts = facts.margin_sum_T.tolist(), facts.margin_count_T.tolist()
    return [round(total / count, 6) if count else None for total, count in zip(sums, counts, strict=True)]


def _by_name(names: Sequence[str], values: Sequence[object]) -> dict[str, object]:
    return dict(zip(names, values, strict=True))


def _with_texts(data: Artifact, example: Mapping[str, float | int]) -> dict[str, object]:
    query = _row(data, "queries", int(example["query"]))
    shown: dict[str, object] = {"query": query["text"][:EXCERPT]}
    for name in ("positive", "rejected", "chosen"):
        row = _row(data, "documents", int(example[name]))
        text = schemas.rendered_texts(pa.Table.from_pylist([row]))[0]
        shown[name] = {"doc_id": row["doc_id"], "score": example[f"{name}_score"], "text": text[:EXCERPT]}
    return shown


def _row(data: Artifact, table: str, ordinal: int) -> dict[str, str]:
    first, rows = rows_between(data, table, ordinal, ordinal)
    row: dict[str, str] = rows.slice(ordinal - first, 1).to_pylist()[0]
    return row
