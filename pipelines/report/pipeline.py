"""The audit, shard by shard in this process: arithmetic on tables that are there, then one pass over texts."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from cluster.committed import file_sha256
from cluster.errors import UserError
from pipelines import schemas
from pipelines.report.agreement import Agreement
from pipelines.report.config import AuditConfig
from pipelines.report.examples import (
    Decision,
    candidates_of,
    chosen_of,
    decisions,
    examples_table,
    pick_queries,
)
from pipelines.report.histograms import Histograms
from pipelines.report.known import Known, read_known
from pipelines.report.members import Members
from pipelines.report.page import audit_page
from pipelines.report.sample import Findings, Sample, examine
from pipelines.report.tables import QUANTITIES, SCHEMAS, Audit
from pipelines.report.tally import Tally
from pipelines.steps import Step, Work

STAGE_VERSION = 1
PAGE = "report.html"


def audit_step(
    data: Step, teachers: Mapping[str, Step], groups: Mapping[str, Step], config: AuditConfig
) -> Step:
    """Measure what methods of mining chose: false negatives, duplicates, scores, starvation, agreement.

    Args:
        data: The ingest step.
        teachers: Name -> step whose artifact has the table `candidates`; shard i of each holds the same queries.
        groups: Method -> select step over these candidates.
        config: Lists of known false negatives and how things are measured.

    Returns:
        A step whose artifact has the tables `audit`, `histograms`, `agreement` and `examples`, and the file
        `report.html`.

    Raises:
        UserError: A list of known false negatives is missing, or `score_by` is no teacher.
    """
    assert teachers and groups, "an audit needs a teacher and a method"
    if config.score_by is not None and config.score_by not in teachers:
        raise UserError("no such teacher", "score_by", config.score_by, ", ".join(teachers))
    sources = {role: _digest(role, path) for role, path in config.known.paths.items()}
    return Step(
        stage="report",
        label=f"{data.label}-audit",
        stage_version=STAGE_VERSION,
        identity={
            "config": config.model_dump(mode="json", exclude={"known": {"pairs", "answers"}}),
            "sources": sources,
            "teachers": list(teachers),
            "methods": list(groups),
        },
        libraries=("numpy", "regex", "scipy"),
        inputs={
            "data": data,
            **{f"teacher {name}": step for name, step in teachers.items()},
            **{f"method {name}": step for name, step in groups.items()},
        },
        run=partial(_run, teachers=tuple(teachers), methods=tuple(groups), config=config),
    )


def _digest(role: str, path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(
            "cannot read the list of known false negatives", f"known.{role}", str(error), "a Parquet file"
        ) from error


def _run(work: Work, teachers: tuple[str, ...], methods: tuple[str, ...], config: AuditConfig) -> Artifact:
    data = work.inputs["data"]
    groups = {name: work.inputs[f"method {name}"] for name in methods}
    candidates = {name: work.inputs[f"teacher {name}"] for name in teachers}
    num_shards = _same_shards(groups, candidates)
    work.progress.total(num_shards + 1, "shards")
    known = read_known(config.known, data)
    num_docs = data.num_rows("documents")
    reference = config.score_by or teachers[0]
    positions = {name: _position(artifact, reference) for name, artifact in groups.items()}
    listed_keys = known.pair_keys(num_docs)
    listed_queries = None if known.query is None else np.unique(known.query)
    tallies = {
        name: Tally(name, asked_of(each), num_docs, listed_keys, listed_queries, config.temperature)
        for name, each in groups.items()
    }
    histograms = {quantity: Histograms(methods) for quantity in QUANTITIES}
    agreement = Agreement(teachers, config.agreement_depth)
    num_queries = max(each.num_rows("groups") for each in groups.values())
    sample = Sample(methods, num_queries, config.max_text_queries, num_docs)
    for index in range(num_shards):
        num_eligible = _compare(candidates, agreement, index)
        for name, artifact in groups.items():
            members = Members.from_table(artifact.read_shard("groups", index), positions[name])
            tallies[name].add(members, num_eligible, histograms)
            sample.add(index, name, members)
        work.progress.advance()
    work.progress.note("texts")
    findings = examine(
        data,
        sample.distinct_negatives(),
        sample.positives(),
        known.answers,
        config.near_duplicate_jaccard,
    )
    for tally in tallies.values():
        tally.add_findings(sample, findings, known.answers)
    examples = _examples(data, candidates[reference], sample, methods, findings, known, config)
    tables = {
        "audit": [
            row for tally in tallies.values() for row in tally.rows(config.bootstrap_samples, config.seed)
        ],
        "histograms": [row for quantity, each in histograms.items() for row in each.rows(quantity)],
        "agreement": agreement.rows(),
    }
    facts = {
        "dataset": data.manifest.label,
        "score_by": reference,
        "temperature": config.temperature,
        "near_duplicate_jaccard": config.near_duplicate_jaccard,
        "agreement_depth": config.agreement_depth,
        "text_queries": len(sample.shards()),
        "asked": {name: tally.asked for name, tally in tallies.items()},
        "unscored": {name: tally.unscored for name, tally in tallies.items()},
        "dropped": {name: dict(each.manifest.counters) for name, each in groups.items()},
    }
    return _commit(work, tables, examples, facts, known)


def _commit(
    work: Work,
    rows: Mapping[str, list[dict[str, object]]],
    examples: pa.Table,
    facts: dict[str, object],
    known: Known,
) -> Artifact:
    tables = {name: pa.Table.from_pylist(made, schema=SCHEMAS[name]) for name, made in rows.items()}
    tables["examples"] = examples
    for name, table in tables.items():
        work.writer.write_shard(name, 0, schemas.conform(table, SCHEMAS[name]))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / PAGE
        page.write_text(audit_page(Audit(**tables, facts=facts)), encoding="utf-8")
        work.writer.put_file(PAGE, page)
    work.progress.advance()
    return work.commit(dict.fromkeys(tables, 1), facts, known.counters)


def _compare(candidates: Mapping[str, Artifact], agreement: Agreement, index: int) -> int:
    """Add one shard to the teachers' agreement and return how many queries in it have a positive."""
    columns = ["query", "doc", "rank", "is_positive"]
    tables = {
        name: artifact.read_shard("candidates", index, columns) for name, artifact in candidates.items()
    }
    agreement.add(tables)
    labelled = [table.filter(table.column("is_positive")).column("query") for table in tables.values()]
    return len(pc.unique(pa.chunked_array([chunk for each in labelled for chunk in each.chunks], pa.int64())))


def _examples(
    data: Artifact,
    teacher: Artifact,
    sample: Sample,
    methods: tuple[str, ...],
    findings: Findings,
    known: Known,
    config: AuditConfig,
) -> pa.Table:
    listed = known.pair_keys(sample.num_docs)
    picked = pick_queries(sample, methods, findings, listed, config.num_examples)
    chosen, shard_of = chosen_of(sample, methods, picked), sample.shards()
    found: dict[int, pa.Table] = {}
    for shard in sorted({shard_of[query] for query in picked}):
        found |= candidates_of(teacher, shard, [query for query in picked if shard_of[query] == shard])
    made: list[Decision] = []
    for query in picked:
        made += decisions(query, found[query], chosen[query])
    return examples_table(
        data, made, sample.positives(), listed, known.answers, config.near_duplicate_jaccard
    )


def asked_of(groups: Artifact) -> int:
    """Return how many negatives the artifact's recipe asked for.

    Raises:
        UserError: The artifact does not say.
    """
    resolved = groups.manifest.identity.get("config")
    asked = resolved.get("num_negatives") if isinstance(resolved, dict) else None
    if not isinstance(asked, int):
        raise UserError("the groups do not say how many negatives were asked for", groups.key)
    return asked


def _position(groups: Artifact, teacher: str) -> int | None:
    """Return where the scores of ``teacher`` stand; None where the method did not use it."""
    names = groups.manifest.summary.get("teachers")
    if not isinstance(names, list):
        raise UserError(
            "the groups do not name their teachers", groups.key, fix="mine again: only select is recomputed"
        )
    return names.index(teacher) if teacher in names else None


def _same_shards(groups: Mapping[str, Artifact], candidates: Mapping[str, Artifact]) -> int:
    counts = {f"method {name}": each.num_shards("groups") for name, each in groups.items()}
    counts |= {f"teacher {name}": each.num_shards("candidates") for name, each in candidates.items()}
    if len(set(counts.values())) != 1:
        raise UserError(
            "methods and teachers are cut into different shards",
            got=", ".join(f"{name}: {count}" for name, count in counts.items()),
            expected="the same query ranges everywhere",
            fix="mine again: what was cut the same way is not recomputed",
        )
    return next(iter(counts.values()))
