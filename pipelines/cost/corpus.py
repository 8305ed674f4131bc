"""How large the data is: from its ingest artifact, from a look into its files, or as the user says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import orjson

from cluster.artifacts import Artifact, ArtifactStore
from cluster.child import run_module
from cluster.errors import UserError
from pipelines import schemas
from pipelines.cost.quick_look import SAMPLE_ROWS, look_at, spread
from pipelines.cost.texts import Sample
from pipelines.ingest.beir import beir_files
from pipelines.ingest.config import SPLITS, BeirConfig, DataConfig, DocstringsConfig, PairsConfig, TextsConfig
from pipelines.ingest.docstrings import HASH_SEEDS, WALK, split_docstring
from pipelines.ingest.pairs import folded, pairs_file
from pipelines.ingest.pipeline import ingest_step
from pipelines.ingest.readers import Record, read_records
from pipelines.ingest.texts import text_files

HELD_OUT_QUERIES = 10_000
"""Queries of the measured split, at most, where only their total is planned."""
LABEL_ROWS = 1_000_000


@dataclass(frozen=True)
class Corpus:
    """Sizes of one data set.

    Args:
        source: Where they are from, in words.
        num_documents: Documents.
        num_queries: Split -> queries.
        positives: Labels of a query.
        documents: Some documents, titles before texts.
        queries: Some queries.
    """

    source: str
    num_documents: int
    num_queries: Mapping[str, int]
    positives: float = 1.0
    documents: Sample = field(default_factory=Sample)
    queries: Sample = field(default_factory=Sample)

    def asked(self, *splits: str) -> int:
        """Return the queries of these splits together, each split once."""
        return sum(self.num_queries.get(split, 0) for split in set(splits))


def read_corpus(config: DataConfig, store: ArtifactStore) -> Corpus:
    """Return the sizes of a recipe's data, from its ingest artifact if that is there, else from its files.

    Raises:
        UserError: A file is missing or wrong, as for a run.
    """
    step = ingest_step(config)
    artifact = store.find(step.stage, step.label, step.fingerprint)
    if artifact is not None:
        return _of_artifact(artifact)
    look = LOOKS.get(config.kind)
    if look is None:
        raise UserError(
            "this kind of data cannot be sized before it is ingested",
            where="data.kind",
            got=config.kind,
            expected=", ".join(LOOKS),
            fix="say how much it is: --documents N --queries N",
        )
    return look(config)


def planned_corpus(known: Corpus | None, documents: int | None, queries: int | None, split: str) -> Corpus:
    """Return a corpus of the sizes that the user plans, with the texts of a known one if there is one.

    Args:
        known: The recipe's data; None where its files are not there.
        documents: Documents planned; None: as known.
        queries: Queries of ``split`` planned; None: as known.
        split: Whose queries get negatives.

    Raises:
        UserError: A size is neither given nor known.
    """
    for name, given, there in (("--documents", documents, known), ("--queries", queries, known)):
        if given is None and there is None:
            raise UserError(
                "the data is not there, so its size has to be said", where=name, fix=f"add {name} N"
            )
    if known is None:
        assert documents is not None and queries is not None
        held_out = min(queries, HELD_OUT_QUERIES)
        return Corpus("planned", documents, dict.fromkeys(SPLITS, held_out) | {split: queries})
    num_queries = {**known.num_queries, **({} if queries is None else {split: queries})}
    return replace(
        known,
        source=f"planned, texts as in {known.source}",
        num_documents=known.num_documents if documents is None else documents,
        num_queries=num_queries,
    )


def _of_artifact(artifact: Artifact) -> Corpus:
    summary: Any = artifact.manifest.summary
    splits = {name: int(counts["queries"]) for name, counts in summary.get("splits", {}).items()}
    queries = int(summary.get("queries", 0))
    return Corpus(
        source="the ingest artifact",
        num_documents=artifact.num_rows("documents"),
        num_queries=splits,
        positives=int(summary.get("judgments", queries)) / max(1, queries),
        documents=_stored_sample(artifact, "documents"),
        queries=_stored_sample(artifact, "queries"),
    )


def _stored_sample(artifact: Artifact, table: str) -> Sample:
    if table not in artifact.manifest.tables:
        return Sample()
    columns = ["title", "text"] if table == "documents" else ["text"]
    chosen = spread(range(artifact.num_shards(table)), 8)
    texts: list[str] = []
    for index in chosen:
        shard = artifact.read_shard(table, index, columns)
        wanted = spread(range(shard.num_rows), ceil(SAMPLE_ROWS / len(chosen)))
        texts += schemas.rendered_texts(shard.take(wanted))
    return Sample(tuple(texts))


def _look_at_beir(config: Any) -> Corpus:
    assert isinstance(config, BeirConfig)
    files = beir_files(config)
    documents, queries = look_at(files["corpus"], ("title", "text")), look_at(files["queries"], ("text",))
    qrels = {role.removeprefix("qrels/"): path for role, path in files.items() if role.startswith("qrels/")}
    labels = {split: _labels(path) for split, path in qrels.items()}
    asked, judged = (sum(counts[i] for counts in labels.values()) for i in (0, 1))
    return Corpus(
        source="the files" if documents.is_exact else "the files, rows estimated",
        num_documents=_at_most(documents.count, config.limit),
        num_queries=_drawn({split: counts[0] for split, counts in labels.items()}, config.max_queries),
        positives=judged / max(1, asked),
        documents=Sample(tuple(_rendered(row, "title", "text") for row in documents.rows)),
        queries=Sample(tuple(_rendered(row, "", "text") for row in queries.rows)),
    )


def _labels(path: Path) -> tuple[int, int]:
    """Return the queries and the judgments of a file of qrels; a long text file is counted on from its first rows."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        column = pq.read_table(path, columns=["query-id"]).column("query-id")
        return len(column.unique()), len(column)
    records = islice(read_records(path, path.name, ("query-id",)), LABEL_ROWS)
    names = [record.values.get("query-id") for record in records if isinstance(record, Record)]
    count = len(names) if len(names) < LABEL_ROWS else look_at(path, ("query-id", "corpus-id")).count
    return round(count * len(set(names)) / max(1, len(names))), count


def _look_at_pairs(config: Any) -> Corpus:
    assert isinstance(config, PairsConfig)
    names = config.columns
    look = look_at(pairs_file(config)["pairs"], (names.query, names.document, names.title, names.split))
    queries = tuple(_rendered(row, "", names.query) for row in look.rows)
    documents = tuple(_rendered(row, names.title, names.document) for row in look.rows)
    # Equal texts are joined; how many of the sample are equal is a lower bound of that.
    shares = [len({folded(text) for text in texts}) / max(1, len(texts)) for texts in (queries, documents)]
    num_queries, num_documents = (round(look.count * share) for share in shares)
    given = [row[names.split] for row in look.rows if row.get(names.split)]
    ratios = config.splits.model_dump()
    drawn = {split: given.count(split) / len(given) if given else ratios[split] for split in SPLITS}
    return Corpus(
        source="the file" if look.is_exact else "the file, rows estimated",
        num_documents=_at_most(num_documents, config.limit),
        num_queries=_drawn({s: round(num_queries * share) for s, share in drawn.items()}, config.max_queries),
        positives=look.count / max(1, num_queries),
        documents=Sample(documents),
        queries=Sample(queries),
    )


def _look_at_docstrings(config: Any) -> Corpus:
    assert isinstance(config, DocstringsConfig)
    wanted = orjson.dumps({"packages": config.packages, "methods_of": config.methods_of})
    found = orjson.loads(run_module(WALK, wanted, HASH_SEEDS[0]))["found"]
    pairs = {split_docstring(text) for _, text in found}
    long_enough = [
        (query, document)
        for query, document in sorted(pairs)
        if query and _words(document, config.min_document_words)
    ]
    documents = sorted({folded(document) for _, document in long_enough})
    queries = sorted({query for query, _ in long_enough})
    ratios = config.splits.model_dump()
    return Corpus(
        source="the installed packages",
        num_documents=_at_most(len(documents), config.limit),
        num_queries=_drawn({s: round(len(queries) * ratios[s]) for s in SPLITS}, config.max_queries),
        positives=len(long_enough) / max(1, len(queries)),
        documents=Sample(tuple(spread(documents, SAMPLE_ROWS))),
        queries=Sample(tuple(spread(queries, SAMPLE_ROWS))),
    )


def _look_at_texts(config: Any) -> Corpus:
    assert isinstance(config, TextsConfig)
    names = config.columns
    looks = [look_at(path, (names.title or "", names.text)) for path in text_files(config).values()]
    rows = spread([row for look in looks for row in look.rows], SAMPLE_ROWS)
    is_exact = all(look.is_exact for look in looks)
    return Corpus(
        source="the files" if is_exact else "the files, rows estimated",
        num_documents=_at_most(sum(look.count for look in looks), config.limit),
        num_queries={},
        documents=Sample(tuple(_rendered(row, names.title or "", names.text) for row in rows)),
    )


LOOKS: dict[str, Callable[[Any], Corpus]] = {
    "beir": _look_at_beir,
    "pairs": _look_at_pairs,
    "docstrings": _look_at_docstrings,
    "texts": _look_at_texts,
}
"""Kind of data -> a quick look at it."""


def _words(text: str, wanted: int) -> bool:
    return len(text.split()) >= wanted


def _rendered(row: Mapping[str, Any], title: str, text: str) -> str:
    return " ".join(str(row[name]) for name in (title, text) if name and row.get(name))


def _at_most(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _drawn(counts: Mapping[str, int], most: int | Mapping[Any, int] | None) -> dict[str, int]:
    """Return the queries of each split that ``max_queries`` leaves."""
    if most is None:
        return dict(counts)
    limits: Mapping[Any, int] = dict.fromkeys(counts, most) if isinstance(most, int) else most
    return {split: min(count, limits.get(split, count)) for split, count in counts.items()}
