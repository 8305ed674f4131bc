"""Queries that a language model writes for negatives: their round trip, and what the plan makes of them."""

from itertools import chain

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from models.generation import TEMPLATE, QueryPrompts, QueryWriter
from models.search.exact import pair_scores
from models.tokenization import TextTokenizer
from pipelines import schemas
from pipelines.prompts import PromptsConfig, resolve_prompts
from pipelines.train.naming import query_name
from pipelines.train.tokens import TokenStore
from tests.tiny_mining import mine, write_inputs
from tests.tiny_rerankers import make_decoder

EXAMPLES, MAX_QUERY, MAX_DOCUMENT, KEEP = 2, 10, 24, 25
INSTRUCTION = "w1 w2"
"""Of the task: generated queries are asked as the others are."""


@pytest.fixture(scope="module")
def made(session, tmp_path_factory):
    """The artifacts of a recipe that generates, the folder of its models, and the store."""
    folder = tmp_path_factory.mktemp("generate")
    recipe = write_inputs(folder)
    make_decoder(folder / "writer", seed=3, tied=False)
    generate = (
        f"{{source: {folder / 'writer'}, examples: {EXAMPLES}, max_query_tokens: {MAX_QUERY}, "
        f"max_document_tokens: {MAX_DOCUMENT}, token_budget: 600, row_documents: 3, keep_rank: {KEEP}, dtype: float32}}"
    )
    settings = (
        "train.loss={name: clp, max_answers: 2}",
        "mine.select.teachers=[dense]",
        f"model.prompts.instructions={{retrieval: {INSTRUCTION}}}",
    )
    store = ArtifactStore(str(folder / "store"))
    wanted = ("groups", "drafts_candidates", "order", "trained")
    found = mine(recipe, store, session, *settings, f"mine.generate={generate}", wanted=wanted)
    without = mine(recipe, store, session, *settings, wanted=("order",))
    return found | {"order_without": without["order"]}, folder


def texts_of(data, table):
    return schemas.rendered_texts(data.read(table))


def asked_for(data):
    """Return the documents that a training query asks for."""
    rows = data.read("qrels").to_pylist()
    return {row["doc"] for row in rows if row["split"] == "train" and row["relevance"] > 0}


def test_every_negative_that_nobody_asks_for_gets_a_query_of_its_own(made):
    found, folder = made
    data, groups, drafts = found["data"], found["groups"].read("groups").to_pylist(), found["drafts"]
    wanted = sorted({item["doc"] for row in groups for item in row["negatives"]} - asked_for(data))
    assert drafts.manifest.summary["documents"] == len(wanted) > 3
    positives = {row["query"]: row["positives"][0]["doc"] for row in groups}
    queries, documents = texts_of(data, "queries"), texts_of(data, "documents")
    shown = np.random.default_rng(0).choice(sorted(positives), EXAMPLES, replace=False).tolist()
    examples = [(queries[query], documents[positives[query]]) for query in shown]
    prompts = QueryPrompts(folder / "writer", TEMPLATE, examples, MAX_DOCUMENT, MAX_QUERY, 600)
    writer = QueryWriter(
        folder / "writer", dtype="float32", device="cpu", token_budget=4096, max_query_tokens=MAX_QUERY
    )
    written = writer.write(prompts.tokenize([documents[doc] for doc in wanted]))
    kept = [(doc, text) for doc, text in zip(wanted, written, strict=True) if usable(text)]
    labels = drafts.read("qrels").to_pylist()
    assert [(row["query"], row["doc"], row["split"]) for row in labels] == [
        (ordinal, doc, "generated") for ordinal, (doc, _) in enumerate(kept)
    ]
    assert texts_of(drafts, "queries") == [text for _, text in kept]
    assert sum(drafts.manifest.counters.values()) == len(wanted) - len(kept)


def usable(text):
    words = text.lower().split()
    return bool(words) and 2 * len(set(words)) >= len(words)


def drafts_that_find(found):
    """Return document -> its draft, of those that the teacher ranks among the first, by brute force."""
    embedded = found["dense_embeddings"].read("documents"), found["drafts_embeddings"].read("queries")
    doc_ND, q_QD = (np.stack(table.column("embedding").to_numpy()).astype(np.float32) for table in embedded)
    kept = {}
    for row in found["drafts"].read("qrels").to_pylist():
        every = np.arange(len(doc_ND))
        scores = pair_scores(q_QD, doc_ND, np.full_like(every, row["query"]), every)
        better = (scores > scores[row["doc"]]) | ((scores == scores[row["doc"]]) & (every < row["doc"]))
        if better.sum() < KEEP:
            kept[row["doc"]] = row["query"]
    return kept


def test_a_query_that_does_not_find_its_document_is_left_out(made):
    found, _ = made
    expected = drafts_that_find(found)
    rows = found["drafts_candidates"].read("candidates").to_pylist()
    assert {row["doc"]: row["query"] for row in rows if row["is_positive"] and row["rank"]} == expected
    assert 0 < len(expected) < found["drafts"].num_rows("queries")


def test_the_plan_pairs_negatives_with_real_queries_first_then_with_generated_ones(made):
    found, folder = made
    data, kept = found["data"], drafts_that_find(found)
    first, real = data.num_rows("queries"), asked_for(data)
    order, without = (found[name].read("order").to_pylist() for name in ("order", "order_without"))
    generated = 0
    for row, plain in zip(order, without, strict=True):
        assert {**row, "answers": None} == {**plain, "answers": None}
        for document, queries, alone in zip(row["negatives"], row["answers"], plain["answers"], strict=True):
            if document in real:
                assert queries == alone
            else:
                assert alone == [] and queries == ([first + kept[document]] if document in kept else [])
                generated += bool(queries)
    assert generated > 0
    assert found["order"].manifest.counters["negatives_with_generated_query"] >= generated

    store = TokenStore.load(found["order"].directory("queries"))
    answers = sorted({query for row in order for query in chain(*row["answers"]) if query >= first})
    texts = texts_of(found["drafts"], "queries")
    prompts = resolve_prompts(
        PromptsConfig(instructions={"retrieval": INSTRUCTION}), folder / "model", 16, 48
    )
    tokenizer = TextTokenizer.load(folder / "model", prompts, 16, 48)
    expected = tokenizer.tokenize(
        [texts[query - first] for query in answers], "query", ["retrieval"] * len(answers)
    )
    assert (expected.pool_starts > 0).any()
    tokens = store.tokens.take(store.rows(np.array(answers)))
    assert np.array_equal(tokens.ids, expected.ids) and np.array_equal(tokens.offsets, expected.offsets)


def test_a_small_data_set_is_trained_with_them_to_the_end(made):
    found, _ = made
    # Fewer queries than texts that an export is compared with: generated ones are among these.
    assert found["data"].num_rows("queries") < 100
    assert any(file.name.startswith("model/") for file in found["trained"].manifest.files)
    first = found["data"].num_rows("queries")
    assert query_name(found["order"], 0) == "q0"
    assert query_name(found["order"], first) == "generated-0"
