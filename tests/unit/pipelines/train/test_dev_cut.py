"""The cut that a training is measured on: every positive, a fixed draw of the rest, tokens as the model's own."""

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from models.prompts import Prompts
from pipelines.located_model import LocatedModel
from pipelines.texts import read_texts
from pipelines.train import dev_cut
from pipelines.train.dev_config import DevConfig
from pipelines.train.dev_cut import make_cut
from tests.tiny_training import NUM_DOCUMENTS, NUM_QUERIES, Silent, compute, data_step, make_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    make_model(folder / "model")
    data = compute(data_step(), ArtifactStore(str(folder / "store")), None, Silent())
    model = LocatedModel(str(folder / "model"), "mean", Prompts("w7 w8", ""), 16, 20, "float32", "cpu")
    return data, model


def cut(made, seed=0, **settings):
    return make_cut(*made, DevConfig(split="train", **settings), seed)


def test_every_positive_of_the_chosen_queries_is_there_and_others_up_to_the_number(made):
    found = cut(made, queries=20, documents=50)
    assert len(found.queries.ordinals) == 20
    # A query's document has its own ordinal in this data; two texts of the corpus are one.
    assert set(found.relevance.doc) == set(found.queries.ordinals.tolist())
    assert set(found.relevance.doc) <= set(found.documents.ordinals.tolist())
    assert 49 <= len(found.documents.ordinals) <= 50
    outside = cut(made, queries=20, documents=NUM_DOCUMENTS)
    assert outside.documents.ordinals.tolist() == [n for n in range(NUM_DOCUMENTS) if n != 70]


def test_more_positives_than_documents_are_all_kept(made):
    found = cut(made, queries=30, documents=5)
    assert sorted(found.documents.ordinals) == sorted(found.queries.ordinals)


def test_the_same_seed_draws_the_same_and_another_one_does_not(made):
    first, again, other = (cut(made, seed, queries=20, documents=50) for seed in (3, 3, 4))
    assert np.array_equal(first.queries.ordinals, again.queries.ordinals)
    assert np.array_equal(first.documents.ordinals, again.documents.ordinals)
    assert not np.array_equal(first.queries.ordinals, other.queries.ordinals)
    assert cut(made, queries=1000).queries.ordinals.tolist() == list(range(NUM_QUERIES))


def test_texts_are_cut_and_prompted_as_the_model_does(made):
    found, tokenizer = cut(made, queries=20, documents=50), made[1].tokenizer()
    for kind, store in (("query", found.queries), ("document", found.documents)):
        texts = [text for _, part in read_texts(made[0], kind, store.ordinals) for text in part]
        expected = tokenizer.tokenize(texts, kind)
        assert np.array_equal(store.tokens.ids, expected.ids)
        assert np.array_equal(store.tokens.pool_starts, expected.pool_starts)
        assert store.tokens.lengths.max() <= tokenizer.max_tokens(kind)


def test_of_a_large_corpus_only_some_shards_are_read(made, monkeypatch):
    monkeypatch.setattr(dev_cut, "MAX_SHARDS", 1)
    found = cut(made, queries=10, documents=NUM_DOCUMENTS)
    rest = set(found.documents.ordinals.tolist()) - set(found.relevance.doc.tolist())
    assert max(rest) < 50 or min(rest) >= 50


def test_a_split_without_labels_is_refused(made):
    with pytest.raises(UserError, match=r"train\.dev\.split(.|\n)*dev(.|\n)*train"):
        make_cut(*made, DevConfig(), 0)


def test_the_documents_that_queries_are_themselves_are_known_where_they_are_in_the_cut(made, monkeypatch):
    def own(_data, queries):
        return np.stack([np.repeat(queries, 2), np.stack([queries, queries + 1], axis=1).ravel()], axis=1)

    monkeypatch.setattr(dev_cut, "own_documents", own)
    found = cut(made, queries=20, documents=50)
    here = set(found.documents.ordinals.tolist())
    # That of its own ordinal is relevant here.
    expected = {(query, query + 1) for query in found.queries.ordinals.tolist() if query + 1 in here}
    assert expected and set(map(tuple, found.ignore.tolist())) == expected
