from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from models.prompts import Prompts
from pipelines import schemas
from pipelines.encode import earlier
from pipelines.encode.config import ChunkConfig, EncodeConfig
from pipelines.encode.earlier import (
    buckets_of,
    choose_earlier,
    find_places,
    place_codes,
    places,
    run_bounds,
    take_embeddings,
    write_bucket,
    write_keys,
)
from pipelines.encode.shards import read_and_tokenize, take_known
from pipelines.keys import hash_keys

IDENTITY = {
    "stage": "encode",
    "stage_version": 1,
    "config": {"model": {"digest": "m"}, "splits": ["train"], "token_budget": 64},
    "libraries": {"torch": "2"},
    "inputs": {"data": "one"},
}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(str(tmp_path))


def commit(store, shards, label="corpus", identity=IDENTITY, buckets=2, fp=None):
    """Write an encode artifact: `shards` holds for each shard its (text, embeddings [chunks, D]) pairs."""
    writer = store.open("encode", label, fp or f"{np.random.default_rng().integers(1 << 40):020x}")
    doc = 0
    for index, pairs in enumerate(shards):
        counts = np.array([len(vectors) for _, vectors in pairs], np.int64)
        emb_MD = np.concatenate([vectors for _, vectors in pairs]).astype(np.float32)
        write_keys(writer, "documents", index, hash_keys([text for text, _ in pairs], "document"), counts)
        column = pa.FixedSizeListArray.from_arrays(pa.array(emb_MD.reshape(-1)), emb_MD.shape[1])
        ids = np.repeat(np.arange(doc, doc + len(pairs)), counts)
        table = pa.table({"id": ids, "embedding": column})
        writer.write_shard(
            "documents", index, schemas.conform(table, schemas.embeddings(emb_MD.shape[1], "float32"))
        )
        doc += len(pairs)
    for bucket in range(buckets):
        write_bucket(writer, bucket, buckets, [("documents", index) for index in range(len(shards))])
    return writer.commit(
        stage_version=1, num_shards={"documents": len(shards)}, identity=identity, inputs={}, summary={}
    )


def corpus(num_shards, per_shard, seed=0, max_chunks=1):
    generator = np.random.default_rng(seed)
    return [
        [
            (
                f"text {seed} {shard} {n}",
                generator.standard_normal((generator.integers(1, max_chunks + 1), 4)),
            )
            for n in range(per_shard)
        ]
        for shard in range(num_shards)
    ]


def test_codes_come_apart_again():
    rows = np.array([0, 7, 2**32 - 1])
    for table in ("documents", "queries"):
        tables_N, shards_N, rows_N = places(place_codes(table, 2**31 - 1, rows))
        assert tables_N.tolist() == [earlier.TABLES.index(table)] * 3
        assert shards_N.tolist() == [2**31 - 1] * 3 and rows_N.tolist() == rows.tolist()


def test_buckets_rise_with_the_key_and_are_even():
    high = np.sort(np.random.default_rng(0).integers(0, 2**64, 9000, dtype=np.uint64))
    buckets = buckets_of(high, 7)
    assert (np.diff(buckets) >= 0).all() and set(buckets.tolist()) == set(range(7))
    assert np.bincount(buckets).min() > 1000
    assert buckets_of(np.array([0, 2**64 - 1], np.uint64), 3).tolist() == [0, 2]


def test_runs_of_equal_ids():
    for ids in ([], [5], [1, 1, 2, 3, 3, 3], [4, 4]):
        naive = [
            (i, next((j for j in range(i, len(ids)) if ids[j] != ids[i]), len(ids)))
            for i in range(len(ids))
            if i == 0 or ids[i] != ids[i - 1]
        ]
        starts, ends = run_bounds(np.array(ids, np.int64))
        assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == naive


@pytest.mark.parametrize("max_chunks", [1, 4])
def test_known_texts_are_taken_as_a_dict_would(store, max_chunks):
    shards = corpus(5, 30, max_chunks=max_chunks)
    artifact = commit(store, shards)
    known = {text: vectors for pairs in shards for text, vectors in pairs}
    generator = np.random.default_rng(1)
    wanted = [*generator.choice(list(known), 40), *(f"new {n}" for n in range(20))]
    wanted = [str(wanted[n]) for n in generator.permutation(len(wanted))]
    counts_N, emb_MD = take_known([artifact], hash_keys(wanted, "document"), "float32")
    assert counts_N.tolist() == [len(known[text]) if text in known else 0 for text in wanted]
    expected = np.concatenate([known[text] for text in wanted if text in known]).astype(np.float32)
    np.testing.assert_array_equal(emb_MD, expected)
    # A query of the same text has another prompt, and so another embedding.
    assert not take_known([artifact], hash_keys(wanted, "query"), "float32")[0].any()


def test_the_first_artifact_that_holds_a_text_gives_it(store):
    first, second = corpus(2, 5), corpus(2, 5, seed=9)
    both = [[*first[0], *second[0]]]
    changed = [[(text, vectors + 1) for text, vectors in first[0]], *second]
    artifacts = [commit(store, first), commit(store, changed)]
    wanted = [text for text, _ in both[0]]
    counts_N, emb_MD = take_known(artifacts, hash_keys(wanted, "document"), "float32")
    assert counts_N.tolist() == [1] * 10
    np.testing.assert_array_equal(
        emb_MD, np.concatenate([vectors for _, vectors in both[0]]).astype(np.float32)
    )


def test_only_the_fullest_shards_are_read(store, monkeypatch):
    monkeypatch.setattr(earlier, "MAX_SHARDS_READ", 2)
    shards = corpus(4, 10)
    artifact = commit(store, shards)
    wanted = [shards[shard][n][0] for shard, count in ((0, 3), (1, 7), (2, 1), (3, 5)) for n in range(count)]
    rows_F, codes_F = find_places(artifact, hash_keys(wanted, "document"))
    assert rows_F.tolist() == list(range(16))
    read_R, sizes_R, emb_MD = take_embeddings(artifact, codes_F)
    assert read_R.tolist() == [*range(3, 10), *range(11, 16)] and sizes_R.tolist() == [1] * 12
    expected = [shards[1][n][1] for n in range(7)] + [shards[3][n][1] for n in range(5)]
    np.testing.assert_array_equal(emb_MD, np.concatenate(expected).astype(np.float32))


def test_an_empty_bucket_is_searched(store):
    artifact = commit(store, corpus(1, 2), buckets=40)
    counts_N, _ = take_known(
        [artifact], hash_keys(["text 0 0 0", *map(str, range(300))], "document"), "float32"
    )
    assert counts_N.tolist() == [1] + [0] * 300


def test_the_choice_is_of_the_same_settings_and_outlives_a_restart(store):
    def variant(**config):
        return IDENTITY | {"config": IDENTITY["config"] | config}

    alike = [
        commit(store, corpus(1, 2), label=label, identity=identity).key
        for label, identity in (
            ("other", variant(splits=[])),
            ("corpus", IDENTITY | {"inputs": {"data": "two"}}),
            ("corpus", variant(reuse=False)),
        )
    ]
    commit(store, corpus(1, 2), identity=variant(token_budget=128))
    commit(store, corpus(1, 2), identity=variant(model={"digest": "n"}))
    commit(store, corpus(1, 2), identity=variant(dimension=2))
    commit(store, corpus(1, 2), identity=IDENTITY | {"libraries": {"torch": "3"}})
    commit(store, corpus(1, 2), buckets=0)  # made before there was an index
    writer = store.open("encode", "corpus", "f" * 20)
    chosen = choose_earlier(writer, IDENTITY)
    assert set(chosen) == set(alike) and chosen[-1] == alike[0]
    commit(store, corpus(1, 2))
    assert choose_earlier(store.open("encode", "corpus", "f" * 20), IDENTITY) == chosen


TITLE, BODY = "copper tin zinc", " ".join(f"w{number % 50}" for number in range(60))


@pytest.fixture
def words():
    """Stands for a tokenizer: a token a word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    vocabulary = {word: number for number, word in enumerate(["[UNK]", *TITLE.split(), *BODY.split()[:50]])}
    uncut = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    uncut.pre_tokenizer = WhitespaceSplit()
    return SimpleNamespace(prompts=Prompts(), uncut=uncut)


def one_document(store, label, title, text):
    row = {"doc": 0, "doc_id": "d", "title": title, "text": text, "dataset": "tiny"}
    writer = store.open("ingest", label, "0" * 20)
    writer.write_shard("documents", 0, pa.Table.from_pylist([row], schema=schemas.DOCUMENTS))
    return writer.commit(stage_version=1, num_shards={"documents": 1}, identity={}, inputs={})


def chunks_of(store, words, label, title, text, known=()):
    """Return the document's row of tokens; without embeddings, a chunk's own number stands for one."""
    config = EncodeConfig(chunk=ChunkConfig(tokens=24), precision="float32")
    data = one_document(store, label, title, text)
    shard = {"table": "documents", "index": 0, "rows": 1}
    return read_and_tokenize(shard, data, (), words, config, known)


def test_chunks_are_taken_over_only_where_the_title_ends_at_the_same_place(store, words):
    joined = chunks_of(store, words, "joined", None, f"{TITLE} {BODY}")
    counts = np.frombuffer(joined["fresh_counts"], np.int64)
    writer = store.open("encode", "corpus", "1" * 20)
    write_keys(writer, "documents", 0, np.frombuffer(joined["keys"], np.uint64).reshape(2, -1), counts)
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(counts[0], dtype=np.float32)), 1)
    table = pa.table({"id": np.zeros(counts[0], np.int64), "embedding": column})
    writer.write_shard("documents", 0, schemas.conform(table, schemas.embeddings(1, "float32")))
    write_bucket(writer, 0, 1, [("documents", 0)])
    known = [writer.commit(stage_version=1, num_shards={"documents": 1}, identity={}, inputs={})]
    again = chunks_of(store, words, "again", "", f"{TITLE} {BODY}", known)
    assert np.frombuffer(again["reused"], np.float32).tolist() == list(range(counts[0])) and not again["ids"]
    # The same words, but every chunk bears the title now.
    apart = chunks_of(store, words, "apart", TITLE, BODY, known)
    assert not apart["reused"] and apart["ids"] == chunks_of(store, words, "fresh", TITLE, BODY)["ids"]
