"""The Ray graph of scoring: gather pairs by bucket -> look up, score and store what is new -> rank again.

Four times a row is a task's portion: a range of candidate shards, a group of document shards, a cut of a range of
buckets (10 to 60 s of a device), and again a range of candidate shards.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact, ArtifactWriter, Shard
from pipelines import schemas
from pipelines.score.config import ScoreConfig
from pipelines.score.gather import Gathering, ask, join, kept_candidates
from pipelines.score.layout import Layout, plan_layout
from pipelines.score.ranking import rerank, scores_of
from pipelines.score.reranker import LocatedReranker, Reranker
from pipelines.score.rows import Portion, settle, take_portion
from pipelines.score.store import Delta, ScoreStore
from pipelines.score.tables import DELTAS
from pipelines.steps import Step, Work
from pipelines.waves import run_tasks, run_waves

if TYPE_CHECKING:
    from ray.data import Dataset

    from models.reranking.pair_tokens import PairTokenizer

STAGE_VERSION = 2
LIBRARIES = ("torch", "transformers", "tokenizers")
COUNTERS = ("pairs_scored", "pairs_from_store", "pairs_of_identical_texts")
"""What the manifest counts: pairs of texts scored here, found in the store, and standing for others of the same."""


def score_step(
    data: Step, over: Step, reranker: Reranker, split: str, config: ScoreConfig, deeper: bool = False
) -> Step:
    """Let a reranker judge the candidates of another teacher.

    Args:
        data: The ingest step.
        over: A step with the table `candidates`, whose queries are those of ``split``.
        reranker: Who judges.
        split: Named in the label.
        config: How deep, and in what portions.
        deeper: Whether the queries are those that were searched again; the label says so.

    Returns:
        A step whose artifact has the table `candidates`: shard i holds the queries of shard i of ``over``, ranked by
        the reranker's score; and the table `deltas`: which files of the score store the scores were read from.
    """
    label = f"{data.label}-{reranker.label}-{split}"
    return Step(
        stage="score",
        label=f"{label[:72]}-deeper" if deeper else label[:80],
        stage_version=STAGE_VERSION,
        # The portions say what an intermediate shard holds, so scoring that goes on must find the same ones.
        identity={
            "teacher": reranker.identity,
            "activation": reranker.config.activation,
            **config.model_dump(mode="json"),
        },
        libraries=(*LIBRARIES, *(("bitsandbytes",) if reranker.config.quantize else ())),
        inputs={"data": data, "over": over, **reranker.inputs},
        run=partial(_run, reranker=reranker, config=config),
    )


def _run(work: Work, reranker: Reranker, config: ScoreConfig) -> Artifact:
    data, over, writer = work.inputs["data"], work.inputs["over"], work.writer
    num_shards = over.num_shards("candidates")
    store = ScoreStore(writer.storage, reranker.label, reranker.fingerprint)
    missing = _open_shards(writer, over)
    if missing:
        layout = _plan(data, over, config)
        gathering = Gathering(writer, data, over, reranker.config.rendering, layout, config.depth)
        store.describe(reranker.identity)
        _gather(work, gathering)
        _score(work, layout, store, reranker.locate(work.inputs), config)
        ranges = [
            {"range": index, "shards": sorted(missing & set(range(*cut)))}
            for index, cut in enumerate(layout.ranges)
        ]
        ranges = [row for row in ranges if row["shards"]]
        work.progress.note("ranking")
        scored = tuple(writer.finished("scored").values())
        rank = partial(_rank, work=gathering, scored=scored, activation=reranker.config.activation)
        for _ in run_tasks(work.session, ranges, rank):
            pass
    _write_deltas(work)
    return _commit(work, reranker, store, num_shards)


def _open_shards(writer: ArtifactWriter, over: Artifact) -> set[int]:
    """Return the shards that are missing, after writing those without a candidate: they need no actor."""
    missing = set(writer.missing("candidates", over.num_shards("candidates")))
    empty = {shard.index for shard in over.manifest.tables["candidates"].shards if not shard.rows}
    for index in sorted(missing & empty):
        writer.write_shard("candidates", index, schemas.CANDIDATES.empty_table())
    return missing - empty


def _plan(data: Artifact, over: Artifact, config: ScoreConfig) -> Layout:
    rows = np.diff(over.first_rows("candidates"))
    largest = over.read_shard("candidates", int(rows.argmax()), columns=["rank", "is_positive"])
    share = kept_candidates(largest, config.depth).num_rows / max(1, largest.num_rows)
    sizes = [shard.num_bytes for shard in data.manifest.tables["documents"].shards]
    documents = np.diff(data.first_rows("documents")), np.array(sizes, np.int64)
    return plan_layout(np.ceil(rows * share).astype(np.int64), documents, config)


def _gather(work: Work, gathering: Gathering) -> None:
    layout, writer = gathering.layout, work.writer
    work.progress.note("gathering pairs")
    num_groups, num_partitions = len(layout.groups), layout.num_partitions
    joined = set(writer.missing("joined", num_groups * num_partitions))
    groups = sorted({index // num_partitions for index in joined})
    if not groups:
        return
    asked = writer.missing("asked", len(layout.ranges) * num_groups)
    wanted = sorted({index // num_groups for index in asked if index % num_groups in groups})
    ranges = [{"range": index} for index in wanted]
    for _ in run_tasks(work.session, ranges, partial(_ask, work=gathering)):
        pass
    finished = writer.finished("asked")
    pieces = [
        {
            "group": group,
            "pieces": _told(finished[layout.asked(index, group)] for index in range(len(layout.ranges))),
        }
        for group in groups
    ]
    for _ in run_tasks(work.session, pieces, partial(_join, work=gathering)):
        pass


def _score(
    work: Work, layout: Layout, store: ScoreStore, reranker: LocatedReranker, config: ScoreConfig
) -> None:
    writer = work.writer
    finished, deltas = writer.finished("joined"), store.deltas()
    rows: list[dict[str, Any]] = []
    for partition in range(layout.num_partitions):
        pieces = [finished[layout.joined(group, partition)] for group in range(len(layout.groups))]
        tokens, pairs = (
            sum(each) for each in zip(*((p.counters["tokens"], p.rows) for p in pieces), strict=True)
        )
        cuts = min(pairs, -(-tokens // config.row_tokens))
        first, last = layout.buckets(partition)
        known = [each.path for each in deltas if each.first <= last and each.last >= first]
        told = _told(piece for piece in pieces if piece.rows)
        for cut in range(cuts):
            rows.append({"row": len(rows), "cut": cut, "cuts": cuts, "pieces": told, "deltas": known})
    done = writer.finished("scored")
    rows = [row for row in rows if row["row"] not in done]
    total = sum(shard.rows for shard in finished.values())
    work.progress.total(total, "pairs", done=sum(shard.rows for shard in done.values()))
    if not rows:
        return
    build = partial(
        _graph,
        work=work,
        num_rows=len(rows),
        store=store,
        reranker=reranker,
        tokenizer=work.session.run_on("tokenize", reranker.tokenizer),
    )
    for receipt in run_waves(work.session, rows, build):
        work.progress.advance(receipt["pairs"])


def _graph(
    rows: "Dataset",
    work: Work,
    num_rows: int,
    store: ScoreStore,
    reranker: LocatedReranker,
    tokenizer: "PairTokenizer",
) -> "Dataset":
    from ray.data import ActorPoolStrategy

    from pipelines.score.scorer import Scorer

    smallest, largest = (min(size, num_rows) for size in work.session.pool("score"))
    beside = work.session.resources("tokenize") | {"concurrency": work.session.pool("tokenize")[1]}
    return (
        rows.map(partial(_prepare, writer=work.writer, store=store, tokenizer=tokenizer), **beside)
        .map(
            Scorer,
            fn_constructor_args=(reranker,),
            compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
            **work.session.resources("score"),
        )
        .map(partial(_finish, writer=work.writer, store=store), **beside)
    )


def _ask(row: dict[str, Any], work: Gathering) -> int:
    return ask(work, row["range"])


def _join(row: dict[str, Any], work: Gathering) -> int:
    return join(work, row["group"], _shards(row["pieces"]))


def _prepare(
    row: dict[str, Any], writer: ArtifactWriter, store: ScoreStore, tokenizer: "PairTokenizer"
) -> dict[str, Any]:
    joined = pa.concat_tables([writer.read_finished(piece) for piece in _shards(row["pieces"])])
    deltas = [Delta.at(path) for path in row["deltas"]]
    portion, texts = take_portion(joined, row["cut"], row["cuts"], store, deltas)
    tokens = tokenizer.tokenize(texts)
    return {
        "row": row["row"],
        "deltas": row["deltas"],
        "portion": portion.pack(),
        "ids": tokens.ids.tobytes(),
        "offsets": tokens.offsets.tobytes(),
        "pool_starts": tokens.pool_starts.tobytes(),
        "names": portion.names().tobytes(),
    }


def _finish(row: dict[str, Any], writer: ArtifactWriter, store: ScoreStore) -> dict[str, Any]:
    portion = Portion.unpack(row["portion"])
    deltas = [Delta.at(path) for path in row["deltas"]]
    scores_M = np.frombuffer(row["scores"], np.float32)
    settle(writer, store, row["row"], portion, scores_M, deltas, row["tokens"], row["seconds"])
    return {"pairs": len(portion.query_N)}


def _rank(row: dict[str, Any], work: Gathering, scored: Sequence[Shard], activation: str) -> int:
    kept = [kept_candidates(work.over.read_shard("candidates", shard), work.depth) for shard in row["shards"]]
    pieces = (work.writer.read_finished(shard) for shard in scored)
    scores = scores_of(pa.concat_tables(kept), pieces, work.data.num_rows("documents"))
    start = 0
    for shard, candidates in zip(row["shards"], kept, strict=True):
        mine = scores[start : start + candidates.num_rows]
        start += candidates.num_rows
        work.writer.write_shard("candidates", shard, rerank(candidates, mine, work.depth, activation))
    return start


def _write_deltas(work: Work) -> None:
    if not work.writer.missing("deltas", 1):
        return
    with ThreadPoolExecutor(16) as readers:
        read = list(readers.map(work.writer.read_finished, work.writer.finished("read").values()))
    told = pa.concat_tables([DELTAS.empty_table(), *read]).group_by("delta").aggregate([("pairs", "sum")])
    told = told.rename_columns({"pairs_sum": "pairs"}).sort_by("delta")
    work.writer.write_shard("deltas", 0, schemas.conform(told, DELTAS))


def _commit(work: Work, reranker: Reranker, store: ScoreStore, num_shards: int) -> Artifact:
    scored = work.writer.finished("scored").values()
    counters = Counter[str]()
    for shard in scored:
        counters.update(shard.counters)
    summary = {
        "teacher": store.key,
        "pairs": sum(shard.rows for shard in scored),
        "tokens": counters.pop("tokens", 0),
        "score_seconds": round(sum(shard.seconds for shard in scored), 3),
        "dtype": reranker.dtype,
        "device": reranker.device,
    }
    told = {name: counters[name] for name in COUNTERS}
    return work.commit({"candidates": num_shards, "deltas": 1}, summary, told)


def _told(shards: Iterable[Shard]) -> list[str]:
    return [shard.model_dump_json() for shard in shards]


def _shards(told: Iterable[str]) -> list[Shard]:
    return [Shard.model_validate_json(each) for each in told]
