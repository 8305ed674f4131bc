"""Batches of pairs: the tokens that scoring would make of the texts, dealt out once, whatever the number of ranks."""

import numpy as np
import pytest

from models.reranking.pair_tokens import PairTokenizer
from models.reranking.rendering import make_rendering
from pipelines.train.cross_encoder import SideTokenizer
from pipelines.train.order import Order
from pipelines.train.pair_batches import pair_batch
from pipelines.train.plan import Row
from pipelines.train.planning import order_table
from pipelines.train.tokens import TokenStore
from tests.tiny_rerankers import WORDS, make_cross_encoder

QUERIES = {0: "w1 w2", 1: "w3", 2: "w4 w5 w6 w7 w8 w9 w10", 3: ""}
ROWS = [
    Row(0, 10, (11, 12), scores=((1.0,), (0.5,), (None,))),
    Row(1, 11, ()),
    Row(2, 13, (12, 10, 12)),
    Row(3, 12, (13,)),
    Row(0, 14, (11,)),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = make_cross_encoder(tmp_path_factory.mktemp("pairs") / "model")
    return PairTokenizer(
        directory, make_rendering("cross_encoder", max_query_tokens=5, max_document_tokens=20)
    )


@pytest.fixture(scope="module")
def documents():
    generator = np.random.default_rng(0)
    lengths = {10: 3, 11: 30, 12: 9, 13: 1, 14: 14}
    return {doc: " ".join(generator.choice(WORDS, length)) for doc, length in lengths.items()}


def store(texts, kind, tokenizer):
    return TokenStore(np.array(list(texts)), SideTokenizer(tokenizer).tokenize(list(texts.values()), kind))


@pytest.mark.parametrize("max_rows", [None, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_pair_is_scored_once_as_scoring_would_tokenise_it(tokenizer, documents, world, max_rows):
    order = Order.from_table(order_table([ROWS]), ("judge",))
    stores = store(QUERIES, "query", tokenizer), store(documents, "document", tokenizer)
    ranks = [pair_batch(order, 0, rank, world, *stores, tokenizer, max_rows) for rank in range(world)]
    assert len({batch.num_passes for batch in ranks}) == 1
    if max_rows:
        assert all(len(ids) <= max_rows for batch in ranks for ids, _, _ in batch.inputs)
    # The columns of the gathered scores, rank after rank, pass after pass.
    rows = [
        (ids[mask > 0].tolist(), second[mask > 0].tolist())
        for batch in ranks
        for each in batch.inputs
        for ids, mask, second in zip(*each, strict=True)
    ]
    seen = []
    for rank, batch in enumerate(ranks):
        for place, weight in enumerate(batch.weights_B.tolist()):
            row = ROWS[min(rank + place * world, len(ROWS) - 1)]
            seen += [row] if weight else []
            columns = batch.group_BG[place][batch.group_mask_BG[place]].tolist()
            pairs = [(QUERIES[row.query], documents[doc]) for doc in row.documents]
            for column, tokens in zip(
                columns, map(tokenizer.tokenize, ([pair] for pair in pairs)), strict=True
            ):
                ids, second = rows[column]
                assert ids == tokens.ids.tolist()
                assert second == [int(at >= tokens.pool_starts[0]) for at in range(len(ids))]
    assert len(seen) == len(ROWS) == ranks[0].num_rows
    real = sum(float(part.sum()) for batch in ranks for part in batch.real)
    assert real == len({(row.query, doc) for row in ROWS for doc in row.documents})


def test_teacher_scores_stand_beside_their_pairs(tokenizer, documents):
    order = Order.from_table(order_table([ROWS]), ("judge",))
    stores = store(QUERIES, "query", tokenizer), store(documents, "document", tokenizer)
    batch = pair_batch(order, 0, 0, 1, *stores, tokenizer)
    np.testing.assert_array_equal(
        batch.teacher_BGK[0, :, 0], np.array([1.0, 0.5, np.nan, np.nan], np.float32)
    )
    assert batch.teacher_BGK[1:].isnan().all()
