"""Bad texts, broken files, broken and exchanged models: equal digests or a clear error, never a silent difference."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from cluster.runs import Run
from pipelines.encode.config import EncodeConfig
from pipelines.encode.pipeline import encode_step
from pipelines.exchange.config import ExportConfig
from pipelines.exchange.exports import artifacts_of, export_run
from pipelines.ingest.pipeline import ingest_step
from pipelines.model import Model
from pipelines.recipe import load_recipe
from stope import mistake_in
from tests.graphs_here import graphs_here
from tests.tiny_mining import digests, mine, write_collection, write_inputs
from tests.tiny_training import Silent, compute

CHAIN = ["data", "dense_embeddings", "dense_candidates", "judge_candidates", "groups", "audit"]
"""Steps of the recipe's mining, each read by the next."""
FAULTY = ["line\nbreak", "carriage\rreturn", "tab\tstop", "null\0", "separator\u2028", "  ", "next\x85line"]
STRANGE = [
    'quo"te', '"quoted"', "it's", "back\\slash", "comma, space", "#1", "=1+1", "%s {x}", "../../up", "a/b", "NULL",
    "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0641\u0627\u0631\u0633\u06cc\u200c\u0647\u0627", "\U0001f9ea",
    "\u00e9", "e\u0301", "\u00a0nbsp\u00a0", "\u202ertl", "0012", "12", "x" * 3000,
]  # fmt: skip
"""Ids that a file can hold; the two accents are different strings, and so are the two numbers."""


@pytest.fixture(scope="module")
def calm(session, tmp_path_factory):
    """A folder with inputs and the store of an undisturbed run on the session's workers."""
    folder = tmp_path_factory.mktemp("calm")
    made = mine(write_inputs(folder), ArtifactStore(str(folder / "store")), session)
    assert list(made) == CHAIN
    return folder


@pytest.fixture
def copied(calm, tmp_path):
    """A copy of that store, and the keys of the steps by name."""
    shutil.copytree(calm / "store", tmp_path / "store")
    store = ArtifactStore(str(tmp_path / "store"))
    by_stage = {manifest.stage: manifest.key for manifest in store.list()}
    stages = ("ingest", "encode", "search", "score", "select", "report")
    return store, dict(zip(CHAIN, (by_stage[stage] for stage in stages), strict=True))


@pytest.fixture
def own(tmp_path):
    """Inputs that a test may change."""
    return write_inputs(tmp_path, num_documents=40, num_queries=12)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def mistake(error: BaseException) -> str:
    """What the command line would print; no traceback stands for it."""
    found = mistake_in(error)
    assert found is not None, repr(error)
    return str(found)


def stages_in(store: ArtifactStore) -> set[str]:
    return {manifest.stage for manifest in store.list()}


# Strange input through the whole of mining


@pytest.fixture(scope="module")
def strange(session, tmp_path_factory):
    """Mine a collection whose ids and texts are as strange as a file can hold them."""
    folder = tmp_path_factory.mktemp("strange")
    recipe = write_inputs(folder, collection=False)
    words = [f"w{number}" for number in range(60)]
    documents = {key: f"{words[i]} {words[i + 1]} plain" for i, key in enumerate(STRANGE)}
    documents |= {f"d{i}": f"{words[i]} {words[i + 2]} {words[i + 3]}" for i in range(30)}
    documents |= {
        "huge": "w1 w2 w3 " * 50_000,
        "word": "w" * 200_000,
        "emoji": "\U0001f9ea" * 3000,
        "marks": "... ?! --",
        "layout": "w5\nw6\tw7\r\n\x0b\0w8 \ufeff w9",
        "empty": "",
        "blank": " \n\t ",
    }
    documents |= dict.fromkeys(FAULTY, "w1 w2")
    queries = {f"q{key}": f"{words[i]} {words[i + 1]}" for i, key in enumerate(STRANGE)}
    queries |= {"long": "w1 w2 " * 20_000, "mark": "?", "unseen": "\u6f22\u5b57", "none": "", "white": " \n "}
    queries |= dict.fromkeys(FAULTY, "w3 w4")
    pairs = [(f"q{key}", key) for key in STRANGE]
    pairs += [("long", "huge"), ("mark", "marks"), ("unseen", "word"), ("none", "d1"), ("white", "d1")]
    pairs += [("mark", "empty"), ("mark", "nowhere")]
    qrels = [("test" if number == 3 else "train", *pair) for number, pair in enumerate(pairs)]
    write_collection(folder / "collection", documents, queries, qrels)
    store = ArtifactStore(str(folder / "store"))
    with graphs_here():
        made = mine(recipe, store, session)
    return documents, queries, qrels, made, artifacts_of(store, Run.find(store.storage, "latest"))


def test_what_cannot_be_used_is_set_aside_by_reason(strange):
    made = strange[3]
    reasons: dict[str, int] = {}
    for row in made["data"].read("quarantine").to_pylist():
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    assert reasons == {
        "_id holds a line break, tab or null character": 2 * (len(FAULTY) - 1),
        "empty _id": 2,
        "empty text": 4,
        "unknown query": 2,
        "unknown document": 2,
    }
    assert made["data"].num_rows("documents") == len(STRANGE) + 30 + 5
    assert made["data"].num_rows("queries") == len(STRANGE) + 3


def test_every_query_has_candidates_with_finite_scores(strange):
    _, _, qrels, made, _ = strange
    ids = made["data"].read("queries").column("query_id").to_pylist()
    usable = {
        query
        for split, query, doc in qrels
        if split == "train" and query in ids and doc not in ("empty", "nowhere")
    }
    for name in ("dense_candidates", "judge_candidates"):
        rows = made[name].read("candidates").to_pylist()
        assert {ids[row["query"]] for row in rows} == usable
        assert np.isfinite([row["score"] for row in rows]).all()
    groups = made["groups"].read("groups").to_pylist()
    assert {ids[group["query"]] for group in groups} == usable
    for group in groups:
        passages = [*group["positives"], *group["negatives"]]
        assert len(group["negatives"]) == 2 and np.isfinite([each["scores"] for each in passages]).all()
        assert len({each["doc"] for each in passages}) == len(passages)


def test_ids_and_texts_come_out_as_they_went_in(strange, tmp_path):
    documents, queries, qrels, _, mined = strange
    positives: dict[str, set[str]] = {}
    for _, query, doc in qrels:
        if documents.get(doc, "").strip():
            positives.setdefault(query, set()).add(doc)

    def export(name, target, **settings):
        export_run(mined, name, ExportConfig(**settings), tmp_path / target, False, lambda rows: None)
        return tmp_path / target

    def lines(path):
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    tevatron = export("tevatron", "tevatron")
    groups = lines(tevatron / "train.jsonl")
    assert {group["query_id"] for group in groups} >= {f"q{key}" for key in STRANGE if key != STRANGE[3]}
    for group in groups:
        assert group["query_text"] == queries[group["query_id"]].strip()
        assert set(group["positive_document_ids"]) <= positives[group["query_id"]]
        assert len(group["negative_document_ids"]) == 2
        assert not set(group["negative_document_ids"]) & positives[group["query_id"]]
    kept = {row["docid"]: row["text"] for row in lines(tevatron / "corpus.jsonl")}
    assert set(kept) == set(documents) - {"empty", "blank"} - set(FAULTY)
    assert all(text == documents[key].strip() for key, text in kept.items())

    texts = {text.strip(): query for query, text in queries.items()}
    for row in lines(export("flagembedding", "mined.jsonl")):
        assert {documents[doc].strip() for doc in positives[texts[row["query"]]]} >= set(row["pos"])
    beir = export("beir", "beir")
    assert {row["_id"] for row in lines(beir / "corpus.jsonl")} == set(kept)
    told = [
        line.split("\t")[:2]
        for line in (beir / "qrels" / "train.tsv").read_bytes().decode().split("\n")[1:-1]
    ]
    assert sorted(map(tuple, told)) == sorted(
        (query, doc)
        for split, query, doc in qrels
        if split == "train" and doc in kept and queries[query].strip()
    )
    table = pq.read_table(export("sentence-transformers", "mined.parquet")).to_pylist()
    assert len(table) == len(groups) and all(row["anchor"] in texts for row in table)
    with pytest.raises(UserError, match="an id holds white space"):
        export("trec", "trec")


# Files of another content than was committed


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("data", "documents"),
        ("data", "queries"),
        ("data", "qrels"),
        ("dense_embeddings", "documents"),
        ("dense_embeddings", "queries"),
        ("dense_candidates", "candidates"),
        ("judge_candidates", "candidates"),
        ("groups", "groups"),
    ],
)
def test_a_shard_of_other_bytes_is_named_and_made_again(here, session, calm, copied, name, table):
    store, keys = copied
    before = digests(calm / "store")
    path = store.get(keys[name]).manifest.tables[table].shards[-1].path
    flip(Path(store.storage.locate(f"{keys[name]}/{path}")))
    downstream = CHAIN[CHAIN.index(name) + 1 :]
    for each in downstream:
        store.storage.delete(keys[each])
    with pytest.raises(Exception, match="differs from what the artifact recorded") as caught:
        mine(calm / "recipe.yaml", store, session)
    said = mistake(caught.value)
    assert path in said.splitlines()[0]
    assert keys[downstream[-1]] not in digests(Path(store.storage.locate("")))
    named = re.search(r"fix: delete (\S+) and run again", said)
    assert named and named[1] == store.storage.locate(keys[name])
    shutil.rmtree(named[1])
    mine(calm / "recipe.yaml", store, session)
    assert digests(Path(store.storage.locate(""))) == before


def test_a_broken_shard_is_told_by_a_worker(session, calm, copied):
    store, keys = copied
    path = store.get(keys["dense_embeddings"]).manifest.tables["documents"].shards[0].path
    flip(Path(store.storage.locate(f"{keys['dense_embeddings']}/{path}")))
    for each in CHAIN[2:]:
        store.storage.delete(keys[each])
    with pytest.raises(Exception, match="differs from what the artifact recorded") as caught:
        mine(calm / "recipe.yaml", store, session)
    assert path in mistake(caught.value)
    assert stages_in(store) == {"ingest", "encode"}


def test_a_broken_file_of_the_score_store_is_named_and_its_pairs_are_scored_again(
    here, session, calm, copied
):
    store, keys = copied
    before = digests(calm / "store")
    delta = next(Path(store.storage.locate("scores")).rglob("*.parquet"))
    flip(delta)
    for each in CHAIN[3:]:
        store.storage.delete(keys[each])
    with pytest.raises(Exception, match="score store is damaged") as caught:
        mine(calm / "recipe.yaml", store, session)
    assert str(delta) in mistake(caught.value) and "delete this file" in mistake(caught.value)
    delta.unlink()
    made = mine(calm / "recipe.yaml", store, session)
    assert made["judge_candidates"].manifest.counters["pairs_scored"] > 0
    assert made["judge_candidates"].manifest.counters["pairs_from_store"] > 0
    assert digests(Path(store.storage.locate(""))) == before


@pytest.mark.parametrize("what", ["keys", "shard"])
def test_broken_embeddings_are_not_taken_over(here, session, calm, copied, tmp_path, what):
    store, keys = copied
    manifest = store.get(keys["dense_embeddings"]).manifest
    path = manifest.files[0].path if what == "keys" else manifest.tables["documents"].shards[0].path
    flip(Path(store.storage.locate(f"{manifest.key}/{path}")))
    shutil.copytree(calm / "collection", tmp_path / "grown")
    with (tmp_path / "grown" / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "new", "text": "w1 w7 w9"}) + "\n")
    grown = f"data.path={tmp_path / 'grown'}"
    with pytest.raises(Exception, match="differs from what the artifact recorded") as caught:
        mine(calm / "recipe.yaml", store, session, grown)
    said = mistake(caught.value)
    assert path in said
    shutil.rmtree(re.search(r"fix: delete (\S+) and", said)[1])
    made = mine(calm / "recipe.yaml", store, session, grown)["dense_embeddings"]
    assert made.manifest.summary["reused"] == 0
    fresh = mine(calm / "recipe.yaml", ArtifactStore(str(tmp_path / "fresh")), session, grown)[
        "dense_embeddings"
    ]
    assert digests(Path(store.storage.locate("")))[made.key] == digests(tmp_path / "fresh")[fresh.key]


def test_a_broken_tile_of_a_search_under_way_is_named(here, session, calm, copied, monkeypatch):
    store, keys = copied
    before = digests(calm / "store")
    for each in CHAIN[2:]:
        store.storage.delete(keys[each])

    def stops(session, rows, function):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipelines.search.merging.run_tasks", stops)
        mine(calm / "recipe.yaml", store, session)
    tile = next(Path(store.storage.locate(keys["dense_candidates"])).glob("tiles_*.parquet"))
    flip(tile)
    with pytest.raises(Exception, match="differs from what the artifact recorded") as caught:
        mine(calm / "recipe.yaml", store, session)
    said = mistake(caught.value)
    assert tile.name in said
    shutil.rmtree(re.search(r"fix: delete (\S+) and", said)[1])
    mine(calm / "recipe.yaml", store, session)
    assert digests(Path(store.storage.locate(""))) == before


# Teachers that return NaN


def change_weights(folder: Path, ending: str, change) -> None:
    """Change the weights whose name ends so, in place: the path stays, the bytes do not."""
    path = folder / "model.safetensors"
    weights = {name: each.copy() for name, each in load_file(path).items()}
    names = [name for name in weights if name.endswith(ending)]
    assert names
    for name in names:
        change(weights[name])
    save_file(weights, path, metadata={"format": "pt"})


def fill(value):
    def change(weight):
        weight[:] = value

    return change


def one_word(weight):
    # Four special tokens stand before w0.
    weight[4 + 7] = np.nan


def test_a_dense_teacher_that_returns_nan_is_told_by_a_worker(session, own, tmp_path):
    change_weights(tmp_path / "model", "layer.0.output.dense.bias", fill(np.nan))
    store = ArtifactStore(str(tmp_path / "store"))
    with pytest.raises(Exception, match="not finite") as caught:
        mine(own, store, session)
    said = mistake(caught.value)
    assert "embeddings that are not finite" in said and "shard " in said and "dtype: float32" in said
    assert stages_in(store) == {"ingest"}


def test_nan_for_one_word_alone_is_told(here, session, own, tmp_path):
    change_weights(tmp_path / "model", "word_embeddings.weight", one_word)
    store = ArtifactStore(str(tmp_path / "store"))
    with pytest.raises(Exception, match="not finite") as caught:
        mine(own, store, session)
    affected, texts = map(int, re.search(r"got: (\d+) of (\d+) texts", mistake(caught.value)).groups())
    assert 0 < affected < texts
    assert stages_in(store) == {"ingest"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reranker_that_is_not_finite_commits_nothing(here, session, own, tmp_path, value):
    change_weights(tmp_path / "judge", "classifier.bias", fill(value))
    store = ArtifactStore(str(tmp_path / "store"))
    with pytest.raises(Exception, match="not finite") as caught:
        mine(own, store, session)
    assert re.search(r"query \d+ and document \d+", mistake(caught.value))
    assert stages_in(store) == {"ingest", "encode", "search"}
    assert not list((tmp_path / "store" / "scores").rglob("*.parquet"))


# Another model under the same path


def content_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("model", "ending", "kept"),
    [("model", "layer.0.output.dense.bias", CHAIN[:1]), ("judge", "classifier.weight", CHAIN[:3])],
)
def test_a_changed_model_under_the_same_path_is_another_model(
    here, session, own, tmp_path, model, ending, kept
):
    store = ArtifactStore(str(tmp_path / "store"))
    first = mine(own, store, session)
    original = (tmp_path / model / "model.safetensors").read_bytes()
    artifacts = {name: content_of(Path(made.uri)) for name, made in first.items()}
    change_weights(tmp_path / model, ending, lambda weight: np.negative(weight + 1, out=weight))
    second = mine(own, store, session)
    for name in CHAIN:
        assert (first[name].key == second[name].key) == (name in kept), name
        assert content_of(Path(first[name].uri)) == artifacts[name]
    changed = digests(tmp_path / "store")
    name = CHAIN[len(kept)]
    assert changed[first[name].key] != changed[second[name].key]

    (tmp_path / model / "model.safetensors").write_bytes(original)
    assert {name: made.key for name, made in mine(own, store, session).items()} == {
        name: made.key for name, made in first.items()
    }
    assert digests(tmp_path / "store") == changed


def test_a_model_that_changes_under_way_is_refused(here, session, own, tmp_path):
    recipe = load_recipe(str(own))
    model = Model.resolve(recipe.model, session)
    change_weights(tmp_path / "model", "layer.0.output.dense.bias", fill(0.5))
    store = ArtifactStore(str(tmp_path / "store"))
    step = encode_step(ingest_step(recipe.data), model, ("train",), EncodeConfig())
    with pytest.raises(Exception, match="changed while the run was under way") as caught:
        compute(step, store, session, Silent())
    assert str(tmp_path / "model") in mistake(caught.value) and "run the same command again" in mistake(
        caught.value
    )
    assert stages_in(store) == {"ingest"}
    assert not list((tmp_path / "store" / "encode").rglob("*.parquet"))
