"""Selection as the papers tell it: one query after the other, in plain Python; and random data to try it on."""

import math

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.select.config import SelectConfig
from pipelines.select.labels import Labels
from pipelines.select.shard import Corpus, Queries, mine_shard

NUM_DOCS, DEPTH, NUM_QUERIES = 90, 24, 20
MASK = 2**64 - 1


def random_tables(
    seed: int,
    num_teachers: int = 1,
    low: float = 0.0,
    high: float = 1.0,
    depth: int = DEPTH,
    tied: bool = True,
) -> list[pa.Table]:
    """Candidates of every third query: ties, short lists, positives that are not retrieved, scores not finite."""
    rng = np.random.default_rng(seed)
    rows: list[list[dict]] = [[] for _ in range(num_teachers)]
    for query in range(0, 3 * NUM_QUERIES, 3):
        positives = rng.choice(NUM_DOCS, rng.integers(1, 4), replace=False).tolist()
        for teacher in range(num_teachers):
            size = int(rng.integers(2, depth + 1))
            docs = np.concatenate([positives, rng.permutation(np.setdiff1d(np.arange(NUM_DOCS), positives))])
            docs = rng.permutation(docs[: size + len(positives) - 1])[:size]
            scores = rng.uniform(low, high, len(docs) + len(positives))
            if tied:
                scores = np.round(scores * 16) / 16
            order = np.lexsort((docs, -scores[: len(docs)]))
            found = list(zip(docs[order].tolist(), scores[: len(docs)][order].tolist(), strict=True))
            for rank, (doc, score) in enumerate(found, 1):
                score = float("nan") if rng.uniform() < 0.02 else score
                rows[teacher].append(row(query, doc, rank, score, doc in positives))
            for place, doc in enumerate(positives):
                if doc not in docs and rng.uniform() < 0.9:
                    rows[teacher].append(row(query, doc, 0, float(scores[len(docs) + place]), True))
    return [pa.Table.from_pylist(each, schema=schemas.CANDIDATES) for each in rows]


def row(query: int, doc: int, rank: int, score: float, is_positive: bool) -> dict:
    return {"query": query, "doc": doc, "rank": rank, "score": score, "is_positive": is_positive}


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Documents d and d + 75 share their text; every ninth query has the text of a document."""
    doc = np.arange(NUM_DOCS, dtype=np.uint64) % 75 + 1000
    query = np.arange(3 * NUM_QUERIES, dtype=np.uint64) + 9000
    query[::9] = doc[np.arange(len(query))[::9] % NUM_DOCS]
    return doc, query


def queries_of(task: str | list[str] = "retrieval") -> Queries:
    tasks = [task] * 3 * NUM_QUERIES if isinstance(task, str) else task
    return Queries(0, texts()[1], pa.array(tasks), pa.array(["set"] * len(tasks)))


def qrels_of(tables: list[pa.Table], relevance=lambda query, doc: 1.0, extra=()) -> pa.Table:
    pairs = sorted({(r["query"], r["doc"]) for t in tables for r in t.to_pylist() if r["is_positive"]})
    rows = [(q, d, relevance(q, d), "train") for q, d in pairs] + list(extra)
    return pa.Table.from_pylist(
        [dict(zip(("query", "doc", "relevance", "split"), each, strict=True)) for each in rows],
        schema=schemas.QRELS,
    )


def mined(
    tables, config: SelectConfig, names=("a", "b", "c", "d"), deeper=None, task="retrieval", qrels=None
):
    low = max(0.0, config.max_negative_relevance or 0.0)
    labels = Labels.of(qrels_of(tables) if qrels is None else qrels, low)
    corpus = Corpus(texts()[0], labels)
    deeper = deeper or [None] * len(tables)
    return mine_shard(tables, deeper, queries_of(task), corpus, names[: len(tables)], config)


def splitmix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


class Example:
    """One query with all its positives, or with one of them."""

    def __init__(
        self, tables, names, query: int, positive: int | None, config: SelectConfig, elsewhere: set
    ) -> None:
        self.lists, self.scores, self.positives, self.ranks = {}, {}, {}, {}
        self.query, self.config, self.names = query, config, names
        # Documents that another split labels are no negatives, and no positives either.
        self.labelled = {doc for asked, doc in elsewhere if asked == query}
        for name, table in zip(names, tables, strict=True):
            mine = table.get(query, [])
            self.lists[name] = sorted((r["rank"], r["doc"]) for r in mine if r["rank"] > 0)
            self.scores[name] = {r["doc"]: r["score"] for r in mine if math.isfinite(r["score"])}
            self.labelled |= {r["doc"] for r in mine if r["is_positive"]}
            own = [r for r in mine if r["is_positive"] and positive in (None, r["doc"])]
            self.ranks[name] = [r["rank"] for r in own if r["rank"] > 0]
            self.positives[name] = [r["score"] for r in own if math.isfinite(r["score"])]
        self.stream = splitmix(splitmix(config.seed) ^ query)
        if positive is not None:
            self.stream = splitmix(self.stream ^ positive)

    def positive_score(self, name: str) -> float:
        scores = self.positives[name]
        how = {"min": min, "max": max, "mean": lambda s: sum(s) / len(s)}[self.config.positive_score]
        return how(scores) if scores else float("nan")

    def survivors(self, name: str) -> list[int]:
        doc_texts, query_texts = texts()
        known = {doc_texts[doc] for doc in self.labelled} | {query_texts[self.query]}
        rule = self.config.filter.resolved
        scorer = rule.scores_of or name
        positive = self.positive_score(scorer)
        kept = []
        for rank, doc in self.lists[name]:
            if doc in self.labelled or doc_texts[doc] in known or doc not in self.scores[name]:
                continue
            if rank < rule.min_rank or (rule.max_rank and rank > rule.max_rank):
                continue
            if doc not in self.scores[scorer]:
                continue
            if self.passes(rank, self.scores[scorer][doc], positive, rule, rule.threshold_of(name)):
                kept.append(doc)
        return kept

    @staticmethod
    def passes(rank, score, positive, rule, threshold) -> bool:
        if rule.method == "double":
            share = positive - abs(positive) * (1 - rule.max_positive_ratio)
            return rank > rule.shift and score < threshold and score < share
        if rule.method == "shifted":
            return rank > rule.shift
        return {
            "naive": True,
            "absolute": score <= threshold,
            "margin_pos": score < positive - threshold,
            "perc_pos": score < positive - abs(positive) * (1 - threshold),
        }[rule.method]

    def chosen(self, name: str) -> list[int]:
        config, left = self.config, self.survivors(name)
        if config.selection == "top":
            return left[: config.num_negatives]
        pool = left[: config.sample_from]
        noise = []
        for column in range(len(pool)):
            uniform = (splitmix((self.stream + column) & MASK) >> 11) * 2.0**-53
            noise.append(-math.log(-math.log(min(max(uniform, 2.0**-53), 1 - 2.0**-53))))
        first = 1 if config.selection == "top1_sampled" else 0
        draws = {doc: self.scores[name][doc] / config.sample_temperature for doc in pool[first:]}
        # The draws of the rest keep the noise of their place in the pool.
        keys = {doc: key + noise[pool.index(doc)] for doc, key in draws.items()}
        best = sorted(keys, key=lambda doc: -keys[doc])[: config.num_negatives - first]
        return [doc for doc in pool if doc in best or doc in pool[:first]]

    def group(self) -> list[tuple[int, str]]:
        """Documents with the teacher that supplied each, before a starved group is filled."""
        config = self.config
        suppliers = config.suppliers(self.names)
        if config.ensemble != "intra_sample":
            name = suppliers[0]
            if config.ensemble == "cross_sample":
                name = suppliers[splitmix(self.stream ^ 0x6A09E667F3BCC908) % len(suppliers)]
            return [(doc, name) for doc in self.chosen(name)]
        left = {name: self.survivors(name) for name in suppliers}
        group: list[tuple[int, str]] = []
        while any(left.values()):
            for name in suppliers:
                while config.deduplicate and left[name] and left[name][0] in [doc for doc, _ in group]:
                    left[name].pop(0)
                if left[name] and len(group) < config.num_negatives:
                    group.append((left[name].pop(0), name))
            if len(group) == config.num_negatives:
                break
        return group


def expected_groups(
    tables, config: SelectConfig, names=("a", "b", "c", "d"), elsewhere=frozenset()
) -> list[tuple]:
    """Query, positives and negatives with their teachers, of every group; not for random_fill."""
    names = names[: len(tables)]
    rows = [table.to_pylist() for table in tables]
    lists: list[dict[int, list[dict]]] = [{} for _ in tables]
    for table, by_query in zip(rows, lists, strict=True):
        for each in table:
            by_query.setdefault(each["query"], []).append(each)
    groups = []
    labelled = sorted({(r["query"], r["doc"]) for table in rows for r in table if r["is_positive"]})
    asked = [(q, None) for q in sorted({q for q, _ in labelled})]
    if config.positives == "per_example":
        asked = labelled
    for query, positive in asked:
        example = Example(lists, names, query, positive, config, elsewhere)
        consistent = config.filter.max_positive_rank
        if consistent:
            ranks = [rank for name in config.suppliers(names) for rank in example.ranks[name]]
            if min(ranks, default=10**9) > consistent:
                continue
        negatives = example.group()
        if len(negatives) < config.num_negatives and config.starved == "drop":
            continue
        if config.starved == "repeat" and negatives:
            negatives = [negatives[place % len(negatives)] for place in range(config.num_negatives)]
        positives = [d for q, d in labelled if q == query] if positive is None else [positive]
        groups.append((query, sorted(positives), negatives))
    return groups


def groups_of(table: pa.Table, names=("a", "b", "c", "d")) -> list[tuple]:
    return [
        (
            group["query"],
            sorted(positive["doc"] for positive in group["positives"]),
            [(negative["doc"], names[negative["teacher"]]) for negative in group["negatives"]],
        )
        for group in table.to_pylist()
    ]
