"""The command: JSON of a fixed shape, and refusals that say what to type."""

import json

import pytest
import typer
from typer.testing import CliRunner

from cluster.errors import UserError
from pipelines.cost.commands import cost
from pipelines.cost.show import duration, scaled, size

STEP = {
    "step stage label dataset flops device device_hours actors wall_s start_s bound memory_bytes host_memory_bytes "
    "object_store_bytes storage_bytes temporary_bytes price exact_budget measured"
}
TOTALS = "wall_s price device_hours storage_bytes peak_storage_bytes measured_s"


def run(*arguments):
    app = typer.Typer()
    app.command()(cost)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_planned_corpus_is_priced_without_its_files(recipe_file, tmp_path):
    text = recipe_file.read_text().replace("/beir", "/not-there-yet")
    recipe_file.write_text(text)
    ended = run(
        recipe_file,
        "--json",
        "--documents",
        10**10,
        "--queries",
        10**6,
        "-d",
        "h100x8",
        "--storage",
        tmp_path,
    )
    content = json.loads(ended.stdout)
    assert set(content) == {
        "recipe", "definition", "run", "corpus", "also", "steps", "totals", "dominant", "warnings", "notes"
    }  # fmt: skip
    assert set(content["totals"]) == set(TOTALS.split())
    assert [set(step) for step in content["steps"]] == [set(*(names.split() for names in STEP))] * len(
        content["steps"]
    )
    assert content["corpus"]["documents"] == 10**10
    assert any("mine.search.index: ivf" in warning for warning in content["warnings"])
    names = [step["step"] for step in content["steps"]]
    assert content["dominant"] in names and len(set(names)) == len(names)


def test_the_table_names_every_step_and_the_total(recipe_file, tmp_path):
    shown = run(recipe_file, "--documents", 10**6, "--no-measure", "--storage", tmp_path).stdout
    for word in ("ingest", "encode", "search", "train", "index", "Total", "Longest", "1,000,000 documents"):
        assert word in shown


def test_an_engine_is_priced_as_torch_and_says_so(recipe_file, tmp_path):
    arguments = (recipe_file, "--documents", 10**6, "-d", "h100x8", "--storage", tmp_path, "--json")
    plain, engined = (
        json.loads(run(*arguments, *more).stdout) for more in ((), ("--set", "model.engine=vllm"))
    )
    assert engined["steps"] == plain["steps"]
    assert len(engined["notes"]) == len(plain["notes"]) + 1 and "engine vllm" in engined["notes"][-1]


def test_of_several_data_sets_every_row_says_which_one_it_belongs_to(recipe_file, beir, tmp_path):
    alone = run(recipe_file, "--no-measure", "--storage", tmp_path).stdout
    assert "data set" not in alone and "starve" in alone
    further = f"also.other.data={{kind: beir, name: other, path: {beir}, limit: 30}}"
    arguments = (recipe_file, "--set", further, "--no-measure", "--storage", tmp_path)
    shown = run(*arguments).stdout
    rows = [
        line.split() for line in shown.splitlines() if line.startswith(("ingest", "search", "train", "index"))
    ]
    assert [row[:2] for row in rows] == [
        ["ingest", "main"], ["search", "main"], ["ingest", "other"], ["search", "other"], ["train", "main+other"],
        ["search", "main"], ["search", "main"], ["search", "main"], ["index", "main"],
    ]  # fmt: skip
    assert "other: 30 documents" in shown and "main: 40 documents" in shown
    content = json.loads(run(*arguments, "--json").stdout)
    assert content["also"]["other"]["documents"] == 30
    assert {step["dataset"] for step in content["steps"]} == {"main", "other", "main+other"}
    planned = run(*arguments, "--documents", 10**6).stdout
    assert "1,000,000 documents" in planned and "other: 30 documents" in planned
    assert "--documents and --queries are of main" in " ".join(planned.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--run"),
        (("--run", "latest"), "no runs yet"),
        (("RECIPE", "--measure", "--accelerator", "H100"), "--accelerator"),
        (("RECIPE", "--measure", "-d", "h100x8"), "h100x8"),
        (("RECIPE", "--accelerator", "H999"), "H100"),
    ],
    ids=["nothing", "no run", "two rates", "probe elsewhere", "unknown device"],
)
def test_what_cannot_be_priced_is_refused(recipe_file, tmp_path, arguments, words):
    filled = [recipe_file if argument == "RECIPE" else argument for argument in arguments]
    with pytest.raises(UserError) as refused:
        run(*filled, "--storage", tmp_path / "store")
    assert words in str(refused.value)


def test_numbers_are_short():
    assert [duration(seconds) for seconds in (0.04, 97, 750, 9000, 400_000)] == [
        "0.0 s", "97 s", "12.5 min", "2.5 h", "4.6 d"
    ]  # fmt: skip
    assert (scaled(52.6e12), size(1.5 * 2**30)) == ("52.6 T", "1.5 GiB")
