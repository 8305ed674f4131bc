"""The command line of Stope: one Typer app that mounts the commands of the packages below."""

import sys
from collections.abc import Callable

import typer

from cluster.commands import artifacts, doctor, runs
from pipelines.commands import demo, encode, evaluate, index, mine, run, train
from pipelines.cost.commands import cost
from pipelines.exchange.commands import data
from pipelines.merge_commands import merge
from pipelines.release_commands import release
from pipelines.report.commands import compare, report
from serve.commands import serve

app = typer.Typer(
    name="stope",
    help="Mine hard negatives at corpus scale, fine-tune embedding models on them, serve the result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: stope demo",
)

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "run": run,
    "cost": cost,
    "encode": encode,
    "train": train,
    "evaluate": evaluate,
    "index": index,
    "report": report,
    "compare": compare,
    "merge": merge,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(mine, name="mine")
app.add_typer(data, name="data")
app.add_typer(runs, name="runs")
app.add_typer(artifacts, name="artifacts")
app.add_typer(release, name="release")
app.add_typer(serve, name="serve")


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error, and Ray's own logs."),
) -> None:
    """Mine hard negatives at corpus scale, fine-tune embedding models on them, serve the result."""


def mistake_in(error: BaseException) -> BaseException | None:
    """Return the user's mistake that ``error`` is or was caused by, also where a worker raised it."""
    from cluster.errors import UserError
    from models.errors import ModelError

    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        if type(current) in (UserError, ModelError):
            return current
        seen.append(current)
        # Ray keeps the worker's exception in `cause`; Python keeps it in `__cause__`.
        current = getattr(current, "cause", None) or current.__cause__
    return None


def main() -> None:
    """Run a command; a user's mistake ends with its message and exit code 1, Ctrl-C with 130."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        # Wherever it was typed; Typer takes it before the command only.
        app(args=["--debug", *arguments] if debug else arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        mistake = mistake_in(error)
        if debug or mistake is None:
            raise
        from rich.console import Console

        Console(stderr=True).print(f"[bold red]error[/] {type(mistake).__name__}", highlight=False)
        Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(str(mistake))
        sys.exit(1)


if __name__ == "__main__":
    main()
