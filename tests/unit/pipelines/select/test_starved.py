"""Groups with too few survivors: filled from the corpus, or searched again, deeper."""

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.select.config import SelectConfig
from tests.unit.pipelines.select.reference import (
    NUM_DOCS,
    expected_groups,
    groups_of,
    mined,
    random_tables,
    row,
    texts,
)

HARSH = {"filter": {"method": "perc_pos", "threshold": 0.5}, "num_negatives": 6}


def chosen(found) -> list[tuple[int, list[int]]]:
    return [(g["query"], [n["doc"] for n in g["negatives"]]) for g in found.groups.to_pylist()]


def test_random_fill_draws_allowed_documents_only():
    tables = random_tables(2, depth=8)
    doc_texts, query_texts = texts()
    kept = dict(chosen(mined(tables, SelectConfig.model_validate(HARSH))))
    found = mined(tables, SelectConfig.model_validate(HARSH | {"starved": "random_fill"}))
    filled = 0
    for group in found.groups.to_pylist():
        query, docs = group["query"], [n["doc"] for n in group["negatives"]]
        mine = [r for r in tables[0].to_pylist() if r["query"] == query]
        known = {doc_texts[r["doc"]] for r in mine if r["is_positive"]} | {query_texts[query]}
        survivors = kept[query]
        assert docs[: len(survivors)] == survivors and len(docs) == len(set(docs)) == 6
        assert not known & {doc_texts[doc] for doc in docs}
        for negative in group["negatives"][len(survivors) :]:
            assert negative["doc"] not in {r["doc"] for r in mine}
            assert (negative["teacher"], negative["rank"], negative["scores"]) == (-1, 0, [None])
            filled += 1
    assert filled == found.counters["negatives_filled_by_random_fill"] > 20
    assert found.counters["queries_with_fewer_negatives"] == 0


def test_random_fill_is_uniform_and_seeded():
    # One query, nothing survives: 90 documents less the positive, its twin, one retrieved, and the query's two.
    table = pa.Table.from_pylist(
        [row(9, 3, 1, 0.5, True), row(9, 20, 2, 0.9, False)], schema=schemas.CANDIDATES
    )
    doc_texts, query_texts = texts()
    allowed = [d for d in range(NUM_DOCS) if doc_texts[d] not in (doc_texts[3], query_texts[9]) and d != 20]
    counts = np.zeros(NUM_DOCS)
    draws = []
    for seed in range(60):
        config = SelectConfig(starved="random_fill", num_negatives=20, seed=seed)
        draws.append(chosen(mined([table], config))[0][1])
        counts[draws[-1]] += 1
    assert set(np.flatnonzero(counts)) == set(allowed)
    expected = 1200 / len(allowed)
    chi_squared = ((counts[allowed] - expected) ** 2 / expected).sum()
    assert chi_squared < len(allowed) + 4 * np.sqrt(2 * len(allowed))
    assert (
        draws[7]
        == chosen(mined([table], SelectConfig(starved="random_fill", num_negatives=20, seed=7)))[0][1]
    )


def test_random_fill_stops_where_the_corpus_ends():
    rows = [row(0, doc, doc + 1, 1 - doc / 100, doc == 0) for doc in range(NUM_DOCS - 2)]
    table = pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)
    config = SelectConfig.model_validate(
        {"filter": {"method": "absolute", "threshold": 0.0}, "starved": "random_fill"}
    )
    found = mined([table], config)
    # Documents 88 and 89 were not retrieved; the query has the text of document 0, as document 75 has.
    assert [set(docs) for _, docs in chosen(found)] == [{88, 89}]
    assert found.counters["queries_with_fewer_negatives"] == 1
    assert found.counters["negatives_filled_by_random_fill"] == 2


def test_repeats_and_drops_are_counted():
    tables = random_tables(2, depth=8)
    few = chosen(mined(tables, SelectConfig.model_validate(HARSH)))
    short = [docs for _, docs in few if len(docs) < 6]
    repeated = mined(tables, SelectConfig.model_validate(HARSH | {"starved": "repeat"}))
    assert repeated.counters["negatives_filled_by_repeat"] == sum(6 - len(docs) for docs in short if docs)
    assert repeated.counters["queries_with_fewer_negatives"] == sum(not docs for docs in short) > 0
    dropped = mined(tables, SelectConfig.model_validate(HARSH | {"starved": "drop"}))
    assert dropped.counters["queries_dropped_as_starved"] == len(short) == len(few) - dropped.groups.num_rows


def test_starved_queries_are_those_with_too_few_survivors():
    for settings in (
        {},
        {"ensemble": "intra_sample", "deduplicate": True},
        {"ensemble": "cross_sample", "positives": "per_example"},
    ):
        tables = random_tables(5, 2 if settings else 1, depth=10)
        config = SelectConfig.model_validate(HARSH | settings)
        expected = {query for query, _, docs in expected_groups(tables, config) if len(docs) < 6}
        starved = mined(tables, config).starved_Q.tolist()
        assert starved == sorted(expected) and starved


def test_what_was_searched_again_takes_the_place_of_the_shallow_list():
    shallow, deep = random_tables(4, 2, depth=6), random_tables(4, 2, depth=60)
    config = SelectConfig.model_validate(HARSH | {"ensemble": "intra_sample"})
    again = np.unique(shallow[0].column("query").to_numpy())[::3]
    deeper = [deep[0].filter(np.isin(deep[0].column("query"), again)), None]
    replaced = [
        pa.concat_tables(
            [
                shallow[0].filter(~np.isin(shallow[0].column("query"), again)),
                deeper[0],
            ]
        ),
        shallow[1],
    ]
    found = mined(shallow, config, deeper=deeper)
    assert groups_of(found.groups) == expected_groups(replaced, config)
    queries = found.groups.column("query").to_pylist()
    assert queries == sorted(queries)
    nobody = [table.slice(0, 0) for table in deep]
    assert mined(shallow, config, deeper=nobody).groups.equals(mined(shallow, config).groups)
