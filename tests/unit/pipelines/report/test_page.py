"""The page: well-formed, safe, self-contained; the terminal table; runs side by side."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cluster.errors import UserError
from cluster.runs import RunRecord
from pipelines.report.commands import compare, report
from pipelines.report.comparison import compare_runs, show_comparison
from pipelines.report.curves import Series, step_histogram
from pipelines.report.gather import gather_run, write_page
from pipelines.report.page import audit_page, run_page
from pipelines.report.tables import side_by_side
from pipelines.report.terminal import show_audit, show_audits

VOID = {"meta", "link", "input", "br"}
ATTACK = "<script>alert('x')</script>"


class Reader(HTMLParser):
    """Collects what a browser would see; fails on tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.text = [], [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def html(audited):
    return audited[2].file("report.html").read_text()


def record(**changes):
    metrics = [
        {"run": run, "dataset": "tiny", "split": "test", "metric": "ndcg", "k": 10, "value": value}
        | {"ci_low": value - 0.1, "ci_high": value + 0.1}
        for run, value in (("base", 0.5), ("tuned", 0.75), ("tuned - base", 0.25))
    ]
    known = {"id": "r1", "name": f"tiny {ATTACK}", "state": "done", "created_at": "2026-01-01T00:00:00.000"}
    return RunRecord.model_validate(
        {**known, "recipe": {"a": ATTACK}, "definition": {}, "metrics": metrics} | changes
    )


def test_the_page_is_well_formed_and_runs_nothing(html):
    reader = Reader(html)
    assert not {"script", "iframe", "object", "img", "form", "base"} & set(reader.tags)
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert len(reader.ids) == len(set(reader.ids))


def test_a_script_in_a_text_is_shown_not_run(html):
    assert ATTACK not in html and "&lt;script&gt;" in html
    assert any(ATTACK in text for text in Reader(html).text)


def test_nothing_is_fetched(html):
    assert "http:" not in html and "https:" not in html and "url(" not in html and "@import" not in html
    sources = [value for name, value in Reader(html).attributes if name in ("src", "href", "srcset")]
    assert all(value.startswith("data:") for value in sources)


def test_every_plot_has_a_title_and_a_description(html):
    reader = Reader(html)
    labelled = [value.split() for name, value in reader.attributes if name == "aria-labelledby"]
    # False negatives by two lists, near-duplicates, starvation, hardness, four histograms, agreement.
    assert len(labelled) == 10
    assert all(name in reader.ids for names in labelled for name in names)


def test_the_table_shows_the_measures(html, audit, world):
    text = "".join(Reader(html).text)
    for method in world.methods:
        share = audit.measures()["listed_false"][method]
        assert f"{100 * share['value']:.1f}% ({share['count']})" in text
        assert f"{audit.measures()['mean_margin'][method]['value']:.3f}" in text


def test_the_page_is_the_same_each_time(audit, html):
    assert audit_page(audit) == html


def test_names_are_escaped_wherever_they_stand(audit):
    hostile = '"><script>x</script>'

    def renamed(table):
        names = [hostile if name == "naive" else name for name in table.column("method").to_pylist()]
        return table.set_column(0, table.schema.field(0), pa.array(names))

    facts = {**audit.facts, "dataset": hostile, "score_by": hostile}
    changed = replace(audit, audit=renamed(audit.audit), histograms=renamed(audit.histograms), facts=facts)
    reader = Reader(audit_page(changed))
    assert "script" not in reader.tags and any(hostile in text for text in reader.text)


def test_the_page_of_a_run_holds_its_metrics_stages_and_audits(audited, tmp_path):
    store, run, _ = audited
    gathered = gather_run(store, run.record)
    assert list(gathered.audits) == ["tiny"]
    assert gathered.dropped[run.record.stages[-1].key]["listed_pair_of_unknown_query"] == 1
    path = write_page(gathered, tmp_path / "deep" / "page.html")
    assert all(stage.key.split("/")[0] in path.read_text() for stage in run.record.stages)
    page = run_page(record(), gathered.audits, gathered.dropped)
    reader = Reader(page)
    text = "".join(reader.text)
    assert "0.750" in text and "+0.250" in text and "0.650 to 0.850" in text and ATTACK in text
    assert "script" not in reader.tags and len(reader.ids) == len(set(reader.ids))


def test_the_commands_find_runs_and_say_where_the_page_is(audited, tmp_path):
    store, run, _ = audited
    run.set_metrics(record().metrics)
    app = typer.Typer()
    app.command("report")(report)
    app.command("compare")(compare)
    there = ["--storage", store.storage.locate("")]
    told = CliRunner().invoke(app, ["report", run.id, "-o", str(tmp_path / "run.html"), *there])
    assert told.exit_code == 0 and "run.html" in told.output and "starved" in told.output
    assert "nDCG@10" in "".join(Reader((tmp_path / "run.html").read_text()).text)
    told = CliRunner().invoke(app, ["compare", run.id, run.id, *there])
    assert told.exit_code == 0 and "+0.0000" in told.output
    assert isinstance(CliRunner().invoke(app, ["compare", run.id, *there]).exception, UserError)


def test_a_page_that_cannot_be_written_says_so(audited, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --output"):
        write_page(gather_run(audited[0], audited[1].record), tmp_path / "file" / "page.html")


def test_audits_of_several_minings_stand_side_by_side(audit):
    def alone(method):
        kept = {name: getattr(audit, name) for name in ("audit", "histograms")}
        kept = {name: table.filter(pc.equal(table.column("method"), method)) for name, table in kept.items()}
        return replace(audit, **kept)

    first, last = audit.methods[0], audit.methods[-1]
    audits = {"mining 1": alone(first), "mining 2": alone(last)}
    together = side_by_side(audits)
    assert together.methods == [f"mining 1: {first}", f"mining 2: {last}"]
    both = side_by_side({"mining 1": audit, "mining 2": alone(last)})
    assert both.methods == [*(f"mining 1: {method}" for method in audit.methods), f"mining 2: {last}"]
    for measure, of_method in together.measures().items():
        assert of_method[f"mining 2: {last}"]["value"] == audit.measures()[measure][last]["value"]
    shown = Console(width=160, record=True, file=StringIO())
    show_audits(shown, audits)
    lines = shown.export_text().splitlines()
    assert sum(line.startswith("mining ") for line in lines) == 2
    page = run_page(record(), {"tiny": audits}, {})
    reader = Reader(page)
    assert page.count("Measures by method") == 3, "together, and each by itself"
    assert len(reader.ids) == len(set(reader.ids))


def test_the_terminal_shows_one_row_a_method(audit, world):
    shown = Console(width=160, record=True, file=StringIO())
    show_audit(shown, audit)
    lines = shown.export_text().splitlines()
    for method in world.methods:
        (line,) = [line for line in lines if line.startswith(method)]
        value = audit.measures()["listed_false"][method]["value"]
        assert f"{100 * value:.1f}%" in line


def test_runs_are_compared_to_the_first():
    better = [dict(row, value=row["value"] + 0.1) for row in record().metrics[:2]]
    other = record(id="r2", metrics=[*better, dict(better[0], metric="mrr", value=0.3)])
    rows = compare_runs([record(), other])
    assert [(row.ranking, row.metric) for row in rows] == [
        ("base", "ndcg@10"),
        ("tuned", "ndcg@10"),
        ("tuned - base", "ndcg@10"),
        ("base", "mrr@10"),
    ]
    assert rows[1].values == (0.75, 0.85) and rows[1].differences == (0.0, pytest.approx(0.1))
    assert rows[2].values == (0.25, None) and rows[2].differences == (0.0, None)
    assert rows[3].values == (None, 0.3) and rows[3].differences == (None, None)
    console = Console(width=120, record=True, file=StringIO())
    show_comparison(console, [record(), other], rows)
    assert "+0.1000" in console.export_text()
    with pytest.raises(UserError, match="none of the runs has metrics"):
        compare_runs([record(metrics=[])])


def test_histogram_plots_keep_to_their_frame():
    edges = np.arange(41.0)
    counts = np.zeros(40, int)
    counts[3:9] = [5, 900, 4000, 3000, 90, 1]
    counts[39] = 1
    series = [Series("a", 0, edges[:-1], edges[1:], counts)]
    for log in (False, True):
        figure = step_histogram("p", "t", "x", "y", series, log=log)
        path = re.search(r'class="line" d="([^"]+)"', figure).group(1)
        across = [float(x) for x in re.findall(r"H([\d.]+)|M([\d.]+)", path) for x in x if x]
        down = [float(y) for y in re.findall(r"V([\d.]+)", path)]
        assert min(across) >= 52 and max(across) <= 390 and min(down) >= 12 and max(down) <= 196.05
        assert "lie beyond" not in figure or "0.0%" not in figure
