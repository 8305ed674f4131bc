"""Padding, and finding documents in padded rows."""

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.select.candidates import Candidates, locate
from pipelines.select.survivors import first_columns
from tests.unit.pipelines.select.reference import random_tables


def test_tables_are_padded_row_by_row():
    tables = random_tables(3, 2)
    found = Candidates.from_tables(tables)
    shuffled = [table.take(np.random.default_rng(0).permutation(table.num_rows)) for table in tables]
    for teacher, table in enumerate(tables):
        rows, ranking = table.to_pylist(), found.rankings[teacher]
        for at, query in enumerate(found.query_Q.tolist()):
            mine = sorted(
                (r["rank"], r["doc"], r["is_positive"]) for r in rows if r["query"] == query and r["rank"]
            )
            width = ranking.docs_QC.shape[1]
            padding = [-1] * (width - len(mine))
            assert ranking.docs_QC[at].tolist() == [doc for _, doc, _ in mine] + padding
            assert np.flatnonzero(ranking.labelled_QC[at]).tolist() == [r - 1 for r, _, p in mine if p]
        scores = {(r["query"], r["doc"]): (r["score"], r["rank"]) for r in rows if r["is_positive"]}
        pairs = found.pairs
        for place, (at, doc) in enumerate(zip(pairs.row_P.tolist(), pairs.doc_P.tolist(), strict=True)):
            expected = scores.get((int(found.query_Q[at]), doc), (np.nan, 0))
            got = pairs.scores_PT[place, teacher], pairs.ranks_PT[place, teacher]
            assert np.array_equal(got, expected, equal_nan=True)
    again = Candidates.from_tables(shuffled)
    assert np.array_equal(again.rankings[1].docs_QC, found.rankings[1].docs_QC)
    assert np.array_equal(again.pairs.scores_PT, found.pairs.scores_PT, equal_nan=True)


def test_some_of_the_queries_are_as_if_alone():
    (table,) = random_tables(3)
    found = Candidates.from_tables([table])
    rows = np.array([2, 3, 7, 11])
    mine = table.filter(np.isin(table.column("query"), found.query_Q[rows]))
    alone, taken = Candidates.from_tables([mine]), found.take(rows)
    width = alone.rankings[0].docs_QC.shape[1]
    assert np.array_equal(alone.query_Q, taken.query_Q)
    assert np.array_equal(alone.rankings[0].docs_QC, taken.rankings[0].docs_QC[:, :width])
    assert np.array_equal(alone.pairs.row_P, taken.pairs.row_P)
    assert np.array_equal(alone.pairs.doc_P, taken.pairs.doc_P)


def test_a_full_table_is_not_padded():
    columns = {
        "query": [4, 4, 8, 8],
        "doc": [1, 2, 3, 1],
        "rank": [1, 2, 1, 2],
        "score": [0.5, 0.4, 0.3, 0.2],
    }
    table = pa.table(columns | {"is_positive": [True, False, False, True]}, schema=schemas.CANDIDATES)
    found = Candidates.from_tables([table])
    assert found.rankings[0].docs_QC.tolist() == [[1, 2], [3, 1]]
    assert found.rankings[0].labelled_QC.tolist() == [[True, False], [False, True]]


def test_documents_are_located_in_their_row():
    rng = np.random.default_rng(0)
    docs = np.stack([rng.permutation(40)[:12] for _ in range(60)])
    docs[rng.uniform(size=docs.shape) < 0.2] = -1
    wanted = rng.integers(-1, 40, (60, 9))
    expected = [
        [row.index(doc) if doc >= 0 and doc in row else -1 for doc in asked]
        for row, asked in zip(docs.tolist(), wanted.tolist(), strict=True)
    ]
    assert locate(wanted, docs).tolist() == expected


def test_first_columns_are_the_first_that_are_true():
    mask = np.random.default_rng(0).uniform(size=(50, 9)) < 0.4
    for most in (1, 3, 12):
        expected = [(np.flatnonzero(row).tolist() + [-1] * most)[:most] for row in mask]
        assert first_columns(mask, most).tolist() == expected
