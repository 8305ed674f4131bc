"""Any table of texts becomes embeddings; what was embedded before is taken over; smaller forms of the same."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sentence_transformers.util import quantize_embeddings

from cluster import releases
from cluster.artifacts import ArtifactStore
from cluster.runs import Run
from models.checkpoint import load_encoder
from models.inference import embed
from models.search.index import read_codes
from models.search.rescored import RescoredDocuments
from models.tokenization import TextTokenizer
from pipelines import show
from pipelines.encode import earlier, pipeline
from pipelines.encode.config import ChunkConfig, EncodeConfig
from pipelines.encode.pipeline import encode_step, quantize_step
from pipelines.index.config import IndexConfig
from pipelines.index.pipeline import index_step
from pipelines.ingest.config import TextsConfig
from pipelines.ingest.pipeline import ingest_step
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.recipe import Recipe
from pipelines.release import create_release
from serve.config import ServeConfig
from serve.release import check_release
from serve.retrieval import Retrieval
from tests.graphs_here import graphs_here
from tests.tiny_training import WORDS, Silent, compute, make_model


@pytest.fixture(scope="module")
def model(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model(folder)
    config = ModelConfig(source=str(folder), max_query_tokens=16, max_document_tokens=48, dtype="float32")
    return Model.resolve(config, session)


@pytest.fixture
def bench(here, session, model, tmp_path):
    return Bench(session, model, tmp_path)


class Bench:
    """Encode lists of texts in one store."""

    def __init__(self, session, model, folder):
        self.session, self.model, self.folder = session, model, folder
        self.store = ArtifactStore(str(folder / "store"))

    def data(self, texts, titles=None):
        path = self.folder / "corpus.parquet"
        ids = [f"d{number}" for number in range(len(texts))]
        pq.write_table(pa.table({"id": ids, "title": titles or [None] * len(ids), "text": texts}), path)
        return ingest_step(TextsConfig(kind="texts", name="corpus", path=str(path), shard_tokens=300))

    def encode(self, texts, titles=None, **settings):
        config = EncodeConfig(precision="float32", **settings)
        return self.compute(encode_step(self.data(texts, titles), self.model, (), config))

    def compute(self, step):
        return compute(step, self.store, self.session, Silent())

    def naive(self, texts):
        """One text at a time through the model."""
        encoder, tokenizer = self.located.encoder(), self.located.tokenizer()
        return np.concatenate([embed(encoder, tokenizer.tokenize([text], "document")) for text in texts])

    @property
    def located(self):
        return self.model.locate({})


def texts_of(count, seed=0):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(4, 30))) for _ in range(count)]


def vectors(artifact, table="documents"):
    column = artifact.read(table).column("embedding").combine_chunks()
    return column.values.to_numpy().reshape(-1, column.type.list_size)


def shards(artifact):
    return {name: [shard.sha256 for shard in made.shards] for name, made in artifact.manifest.tables.items()}


def test_a_corpus_alone_is_embedded(bench):
    texts = texts_of(40)
    artifact = bench.encode(texts)
    assert artifact.num_shards("documents") > 2 and artifact.num_rows("queries") == 0
    assert artifact.read("documents").column("id").to_pylist() == list(range(40))
    np.testing.assert_allclose(vectors(artifact), bench.naive(texts), atol=2e-6)
    summary = artifact.manifest.summary
    assert (summary["embedded"], summary["reused"], summary["dimension"]) == (40, 0, 32)
    assert artifact.manifest.counters["tokens"] == summary["tokens"] > 0


def test_a_grown_corpus_embeds_only_what_is_new(bench):
    texts = texts_of(60)
    before = bench.encode(texts)
    grown = [*texts_of(3, seed=5), *texts[:20], "w1 w2 changed", *texts[21:], *texts_of(7, seed=6)]
    # Shift the shards against each other, change one text, add at both ends.
    after = bench.encode(grown)
    summary = after.manifest.summary
    assert (summary["embedded"], summary["reused"]) == (11, 59)
    assert summary["reused_from"] == [before.key]
    assert after.read("documents").column("id").to_pylist() == list(range(70))
    np.testing.assert_allclose(vectors(after), bench.naive(grown), atol=2e-6)
    np.testing.assert_array_equal(vectors(after)[3:23], vectors(before)[:20])

    shuffled = [grown[number] for number in np.random.default_rng(0).permutation(70)]
    again = bench.encode(shuffled)
    assert again.manifest.summary["embedded"] == 0
    np.testing.assert_allclose(vectors(again), bench.naive(shuffled), atol=2e-6)

    anew = bench.encode(shuffled, reuse=False)
    assert anew.key != again.key and anew.manifest.summary["reused"] == 0


def test_the_same_on_a_cluster(session, model, tmp_path, monkeypatch):
    texts = texts_of(45)
    bench = Bench(session, model, tmp_path)
    monkeypatch.setattr(earlier, "BUCKET_KEYS", 16)
    with graphs_here():
        bench.encode(texts[:30])
    step = encode_step(bench.data(texts), bench.model, (), EncodeConfig(precision="float32"))
    artifact, codes = bench.compute(step), bench.compute(quantize_step(step, "int8"))
    assert (artifact.manifest.summary["embedded"], artifact.manifest.summary["reused"]) == (15, 30)
    np.testing.assert_allclose(vectors(artifact), bench.naive(texts), atol=2e-6)
    expected = quantize_embeddings(vectors(artifact), "int8", calibration_embeddings=vectors(artifact))
    np.testing.assert_array_equal(vectors(codes), expected)


def test_what_another_setting_made_is_not_taken(bench):
    texts = texts_of(10)
    bench.encode(texts)
    for settings in ({"token_budget": 512}, {"dimension": 16}, {"chunk": ChunkConfig(tokens=40)}):
        assert bench.encode(texts, **settings).manifest.summary["reused"] == 0


def test_a_run_cut_short_ends_in_the_same_shards(bench, monkeypatch):
    texts = texts_of(60)
    bench.encode(texts[:25])
    step = encode_step(bench.data(texts), bench.model, (), EncodeConfig(precision="float32"))
    calm_store = ArtifactStore(str(bench.folder / "calm"))
    for key in ("ingest", "encode"):
        for name in bench.store.storage.list(key):
            calm_store.storage.write(name, bench.store.storage.read(name))
    calm = compute(step, calm_store, bench.session, Silent())
    assert calm.manifest.summary["reused"] == 25

    class Stopped(Silent):
        def advance(self, amount=1, note=""):
            super().advance(amount, note)
            if self.done >= 30:
                raise KeyboardInterrupt

    bench.compute(step.inputs["data"])
    with pytest.raises(KeyboardInterrupt):
        compute(step, bench.store, bench.session, Stopped())
    writer = bench.store.open(step.stage, step.label, step.fingerprint)
    assert writer.num_finished() >= 1 and bench.store.find(step.stage, step.label, step.fingerprint) is None
    # What is committed meanwhile must not change what the rest is made of.
    bench.encode(texts[:50])
    step = encode_step(bench.data(texts), bench.model, (), EncodeConfig(precision="float32"))
    resumed = bench.compute(step)
    assert shards(resumed) == shards(calm)
    assert resumed.manifest.files[0].sha256 == calm.manifest.files[0].sha256
    assert resumed.manifest.summary["reused_from"] == calm.manifest.summary["reused_from"]


def test_keys_in_several_buckets(bench, monkeypatch):
    monkeypatch.setattr(earlier, "BUCKET_KEYS", 16)
    texts = texts_of(40)
    first = bench.encode(texts)
    assert [stored.name for stored in first.manifest.files] == [f"keys/0000{n}.npy" for n in range(3)]
    assert bench.encode([*texts_of(2, seed=3), *texts]).manifest.summary["embedded"] == 2


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_codes_are_those_of_sentence_transformers(bench, precision):
    step = encode_step(
        bench.data(texts_of(40)), bench.model, (), EncodeConfig(precision=precision, dimension=20)
    )
    floats, codes = bench.compute(step), bench.compute(quantize_step(step, precision))
    emb_ND = vectors(floats)
    assert emb_ND.dtype == np.float16 and emb_ND.shape == (40, 20)
    emb_ND = emb_ND.astype(np.float32)
    expected = quantize_embeddings(emb_ND, precision, calibration_embeddings=emb_ND)
    assert vectors(codes).dtype == expected.dtype
    np.testing.assert_array_equal(vectors(codes), expected)
    assert codes.read("documents").column("id").to_pylist() == list(range(40))
    assert codes.manifest.summary == {"dimension": 20, "precision": precision}
    assert ("ranges" in codes.manifest.tables) == (precision in ("int8", "uint8"))


def test_long_documents_are_chunked_and_reused_whole(bench):
    texts = texts_of(6)
    texts[2] = " ".join(np.random.default_rng(7).choice(WORDS, 130))
    titles = [None, None, "w9 w8", None, "w7", None]
    config = ChunkConfig(tokens=40, overlap=10)
    artifact = bench.encode(texts, titles, chunk=config)
    ids = artifact.read("documents").column("id").to_pylist()
    # 130 words in windows of 40 - 2 special tokens - 2 of the title, which move by 26.
    expected = [(0, texts[0]), (1, texts[1])]
    words = texts[2].split()
    expected += [(2, " ".join(["w9 w8", *words[start : start + 36]])) for start in (0, 26, 52, 78, 104)]
    expected += [(3, texts[3]), (4, f"w7 {texts[4]}"), (5, texts[5])]
    assert ids == [number for number, _ in expected]
    np.testing.assert_allclose(vectors(artifact), bench.naive([text for _, text in expected]), atol=2e-6)

    grown = bench.encode(["w5 w6", *texts], [None, *titles], chunk=config)
    assert (grown.manifest.summary["embedded"], grown.manifest.summary["reused"]) == (1, 6)
    np.testing.assert_array_equal(vectors(grown)[1:], vectors(artifact))


def test_the_index_knows_whose_chunk_a_row_is(bench):
    import faiss

    texts = texts_of(30)
    texts[7] = " ".join(np.random.default_rng(7).choice(WORDS, 130))
    data = bench.data(texts)
    config = EncodeConfig(precision="float32", chunk=ChunkConfig(tokens=40, overlap=10))
    embeddings = encode_step(data, bench.model, (), config)
    index = bench.compute(index_step(data, embeddings, bench.model, IndexConfig()))
    ids = bench.compute(embeddings).read("documents").column("id").to_pylist()
    documents = pq.read_table(index.file("documents.parquet"))
    assert documents.column("chunks").to_pylist() == [ids.count(number) for number in range(30)]
    assert max(documents.column("chunks").to_pylist()) == 5
    assert faiss.read_index(str(index.file("index.faiss"))).ntotal == len(ids)
    assert index.manifest.summary["num_documents"] == 30

    whole = encode_step(data, bench.model, (), EncodeConfig())
    plain = bench.compute(index_step(data, whole, bench.model, IndexConfig()))
    assert pq.read_schema(plain.file("documents.parquet")).names == ["doc", "doc_id", "title", "text"]
    cut = encode_step(data, bench.model, (), EncodeConfig(dimension=8))
    with pytest.raises(pipeline.UserError, match="the index needs whole embeddings"):
        bench.compute(index_step(data, cut, bench.model, IndexConfig()))


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "binary", "rescore_multiplier": 1},
        {"kind": "int8", "dimension": 8, "rescore_multiplier": 2},
        {"kind": "flat", "dimension": 8, "rescore_with": "codes"},
    ],
    ids=["binary", "int8 of 8", "8 alone"],
)
def test_an_index_of_codes_says_what_it_finds_of_the_exact_search(bench, settings):
    texts = texts_of(60)
    texts[7] = " ".join(np.random.default_rng(7).choice(WORDS, 130))
    data = bench.data(texts)
    step = encode_step(data, bench.model, (), EncodeConfig(chunk=ChunkConfig(tokens=40)))
    made = bench.compute(index_step(data, step, bench.model, IndexConfig(recall_sample=25, **settings)))
    embeddings = bench.compute(step).read("documents")
    emb_ND, ids = np.stack(embeddings.column("embedding").to_numpy()), embeddings.column("id").to_numpy()
    summary, files = made.manifest.summary, {file.name for file in made.manifest.files}
    keeps = settings.get("rescore_with") != "codes"
    assert files == {"index.faiss", "documents.parquet"} | ({"embeddings.npy"} if keeps else set())
    if keeps:
        stored_ND = np.load(made.file("embeddings.npy"))
        assert stored_ND.dtype == np.float16 and np.array_equal(stored_ND, emb_ND)
    assert summary["exact_bytes"] == len(ids) * 32 * 4
    assert summary["num_bytes"] == len(ids) * {"binary": 4, "int8": 8, "flat": 32}[settings["kind"]]

    codes = read_codes(made.file("index.faiss"), settings["kind"], settings.get("dimension", 32))
    multiplier = settings.get("rescore_multiplier", 4)
    documents = RescoredDocuments(codes, 32, multiplier, emb_ND if keeps else None, ids)
    rows = [number * len(ids) // 25 for number in range(25)]
    hits = 0
    for row in rows:
        query = emb_ND[row].astype(np.float32)
        scores = emb_ND.astype(np.float32) @ query
        best = sorted(set(ids.tolist()), key=lambda doc: (-max(scores[ids == doc]), doc))[:10]
        hits += len(set(best) & set(documents.top_k(query[None], 10)[1][0].tolist()))
    recall = {"k": 10, "value": pytest.approx(hits / 250, abs=1e-4), "num_queries": 25, "asked": "documents"}
    assert summary["rescore"] == {"multiplier": multiplier, "recall": recall}
    assert 0.3 < hits / 250 < 1
    console = Console(width=100, file=io.StringIO())
    show.index(console, made)
    shown = console.file.getvalue()
    assert f"{hits / 250:.3f}" in shown and "recall@10" in shown and "1.000" in shown


def test_a_release_binds_the_index_of_codes_and_answers_with_the_scores_of_the_exact_one(bench):
    data = bench.data(texts_of(60))
    embeddings = encode_step(data, bench.model, (), EncodeConfig())
    writer = bench.store.open("train", "tiny", "0" * 20)
    writer.put_directory("model", Path(bench.model.config.source))
    trained = writer.commit(stage_version=1, num_shards={}, identity={}, inputs={})
    texts = {"kind": "texts", "name": "corpus", "path": "corpus.parquet"}
    settings = bench.model.config.model_dump(mode="json")
    emb_ND = vectors(bench.compute(embeddings))
    answers = []
    for config in (IndexConfig(), IndexConfig(kind="binary", rescore_multiplier=60)):
        index = bench.compute(index_step(data, embeddings, bench.model, config))
        recipe = Recipe.model_validate(
            {"name": config.kind, "data": texts, "model": settings, "index": config}
        )
        run = Run.create(bench.store.storage, recipe.model_dump(mode="json"), {}, recipe.name)
        for artifact in (trained, index):
            run.record_stage(artifact.key, artifact.manifest.stage, "done", 0, 0.0, False)
        record = create_release(bench.store, run)
        with releases.opened(bench.store, record) as folder:
            manifest = check_release(folder, ServeConfig()).manifest
            answers.append(Retrieval(manifest, folder, "cpu").find(emb_ND[:5].astype(np.float32), 10))
    assert answers[0] == answers[1]
    assert manifest.index.kind == "binary" and manifest.index.num_bytes == 60 * 4
    assert manifest.index.rescore.multiplier == 60 and manifest.index.rescore.recall.value == 1
    assert manifest.index.rescore.embeddings.path == "embeddings.npy"


def test_what_does_not_fit_the_model_is_refused(bench):
    data = bench.data(texts_of(2))
    with pytest.raises(pipeline.UserError, match=r"chunk is longer(.|\n)*at most max_document_tokens, 48"):
        encode_step(data, bench.model, (), EncodeConfig(chunk=ChunkConfig(tokens=49)))
    with pytest.raises(pipeline.UserError, match=r"fewer dimensions(.|\n)*at most 32"):
        encode_step(data, bench.model, (), EncodeConfig(dimension=33))
    with pytest.raises(
        pipeline.UserError, match=r"index.dimension: the model has fewer dimensions(.|\n)*at most 32"
    ):
        index_step(
            data, encode_step(data, bench.model, (), EncodeConfig()), bench.model, IndexConfig(dimension=33)
        )
    with pytest.raises(pipeline.UserError, match="no labelled query"):
        bench.compute(encode_step(data, bench.model, ("train",), EncodeConfig()))


def test_values_that_are_not_finite_end_in_an_error(bench, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    from pipelines.encode.embedder import Embedder

    folder = tmp_path / "broken"
    make_model(folder)
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.bias"
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = ModelConfig(source=str(folder), max_query_tokens=16, max_document_tokens=48, dtype="float32")
    located = Model.resolve(config, bench.session).locate({})
    assert load_encoder(folder, "float32").dimension == 32
    tokens = TextTokenizer.load(folder, located.prompts, 16, 48).tokenize(["w1 w2"], "document")
    row = {
        "table": "documents", "index": 3, "ids": tokens.ids.tobytes(), "offsets": tokens.offsets.tobytes(),
        "pool_starts": tokens.pool_starts.tobytes(),
    }  # fmt: skip
    with pytest.raises(pipeline.UserError, match=r"documents, shard 3: .*not finite\n  got: 1 of 1 texts"):
        Embedder(located, EncodeConfig())(row)
