"""Commands about data: look at it, bring it in, take it out."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.options import DefinitionOption, StorageOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any

data = typer.Typer(help="Data: look at it, import it, export what was mined.", no_args_is_help=True)

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@data.command("show")
def show(
    source: Annotated[str, typer.Argument(help="A recipe, a directory in BEIR's layout, or a run's id.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting of the recipe.")
    ] = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Show counts, lengths, splits, examples and what was set aside; nothing is written.

    Example: stope data show latest
    """
    from rich.console import Console

    from cluster.artifacts import open_store
    from pipelines.exchange import report
    from pipelines.exchange.shown import survey_of

    console = Console()
    with _bar(console, "show") as advance:
        found = survey_of(source, settings or [], open_store(definition, storage), advance)
    report.surveyed(console, found)


@data.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(metavar="[SPLIT=]FILE...", help="Files, or directories; dev=FILE is a split."),
    ],
    source: Annotated[
        str,
        typer.Option("--from", help="beir, trec, sentence-transformers, flagembedding, tevatron or clicks."),
    ],
    target: Annotated[str, typer.Option("--to", help="Directory to make, in BEIR's layout.")],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="ROLE=NAME", help="A column's name in the file. Repeatable."),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="trec, tevatron: the documents that ids name.")
    ] = None,
    queries: Annotated[str | None, typer.Option("--queries", help="trec: the queries that ids name.")] = None,
    ranking: Annotated[str | None, typer.Option("--ranking", help="trec: a run file, for negatives.")] = None,
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", help="sentence-transformers: labels from here on are positives."),
    ] = None,
    min_impressions: Annotated[
        int | None, typer.Option("--min-impressions", help="clicks: pairs shown less often are left out.")
    ] = None,
    prior_impressions: Annotated[
        float | None, typer.Option("--prior-impressions", help="clicks: weight of the log's mean rate.")
    ] = None,
    cuts: Annotated[
        tuple[float, float, float] | None, typer.Option("--cuts", help="clicks: rates of grades 1, 2, 3.")
    ] = None,
    ratios: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--ratios", help="Shares of train, dev, test where no split is named. Default: 1 0 0."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Read another tool's format and write a directory that a recipe reads as `kind: beir`.

    Ids are made from texts where there are none; equal texts are one. Hard negatives go to negatives.parquet,
    rows that cannot be used to quarantine.parquet, and everything dropped is counted by reason.

    Clicks: a pair's rate is (clicks + k m) / (impressions + k), m the log's mean rate, k --prior-impressions; its
    grade is the number of --cuts that the rate reaches. Position bias is not modelled.

    Example: stope data import train=mined.jsonl --from flagembedding --to data/mined
    """
    from pathlib import Path

    from rich.console import Console

    from pipelines.exchange import report
    from pipelines.exchange.config import ClicksConfig, ImportConfig
    from pipelines.exchange.imports import import_data, source_file

    clicks = {"min_impressions": min_impressions, "prior_impressions": prior_impressions, "cuts": cuts}
    settings = {
        "corpus": corpus,
        "queries": queries,
        "ranking": ranking,
        "min_score": min_score,
        "ratios": ratios,
    }
    config = _checked(
        ImportConfig,
        files=tuple(map(source_file, files)),
        columns=_pairs(column or []),
        clicks=_checked(ClicksConfig, **_given(clicks)),
        **_given(settings),
    )
    console = Console()
    with _bar(console, "import") as advance:
        made = import_data(source, config, Path(target).expanduser(), overwrite, advance)
    report.imported(console, made, Path(target))


@data.command("export")
def export(
    run: Annotated[str, typer.Argument(help="A run's id, or `latest`.")],
    name: Annotated[
        str, typer.Option("--format", help="sentence-transformers, flagembedding, tevatron, beir or trec.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--to",
            help="sentence-transformers: a .parquet file; flagembedding: a .jsonl file; else a directory.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Name of a data set under `also`. Default: the recipe's main one."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="train, dev or test alone.")] = None,
    shape: Annotated[
        str,
        typer.Option(
            "--shape", help="sentence-transformers: pair, triplet, n-tuple, labeled-pair or labeled-list."
        ),
    ] = "n-tuple",
    scores: Annotated[
        bool | None,
        typer.Option("--scores/--no-scores", help="Teacher scores. Default: not in the labeled shapes."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Whose scores. Default: who supplied the negative.")
    ] = None,
    num_negatives: Annotated[
        int | None, typer.Option("--negatives", help="sentence-transformers: the first N of every group.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="flagembedding: instruction of a row.")
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="beir: Parquet, not JSON lines and TSV.")
    ] = False,
    overwrite: OverwriteOption = False,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Write what a run mined for another trainer, or what it read and ranked.

    Example: stope data export latest --format sentence-transformers --shape triplet --to mined.parquet
    """
    from pathlib import Path

    from rich.console import Console

    from cluster.artifacts import open_store
    from cluster.runs import Run
    from pipelines.exchange import report
    from pipelines.exchange.config import ExportConfig
    from pipelines.exchange.exports import artifacts_of, export_run

    config = _checked(
        ExportConfig,
        split=split,
        shape=shape,
        scores=scores,
        teacher=teacher,
        num_negatives=num_negatives,
        prompt=prompt,
        parquet=parquet,
    )
    store = open_store(definition, storage)
    mined = artifacts_of(store, Run.find(store.storage, run), dataset)
    console = Console()
    with _bar(console, "export") as advance:
        made = export_run(mined, name, config, Path(target).expanduser(), overwrite, advance)
    report.exported(console, made, Path(target))


def _bar(console: "Any", what: str) -> "AbstractContextManager[Callable[[int], None]]":
    """Return a block with a live line that counts rows; redrawn every 1,000."""
    from contextlib import contextmanager

    from pipelines.progress import Progress

    @contextmanager
    def block() -> "Iterator[Callable[[int], None]]":
        progress, waiting = Progress(console), [0]

        def advance(rows: int) -> None:
            waiting[0] += rows
            if waiting[0] >= 1000:
                progress.advance(waiting[0])
                waiting[0] = 0

        progress.begin(what)
        try:
            yield advance
        finally:
            progress.end()

    return block()


def _given(settings: "dict[str, Any]") -> "dict[str, Any]":
    return {key: value for key, value in settings.items() if value is not None}


def _pairs(texts: list[str]) -> dict[str, str]:
    """Return the ``role=name`` options as a dict."""
    from cluster.errors import UserError

    for text in texts:
        if not all(text.partition("=")[::2]):
            raise UserError("not ROLE=NAME", where="--column", got=text, expected="--column query=question")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def _checked(model: "Any", **settings: object) -> "Any":
    """Return a config, a mistake in it as an error that names the option."""
    from pydantic import ValidationError

    from cluster.errors import UserError

    try:
        return model(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else ""
        raise UserError(str(first["msg"]), where=option, got=str(first["input"])[:200]) from error
