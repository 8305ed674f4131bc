"""What `stope data show` was asked about: a directory, a run or a recipe."""

from collections.abc import Callable
from pathlib import Path

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from cluster.runs import Run
from pipelines.exchange.exports import artifacts_of
from pipelines.exchange.survey import Survey, survey_artifact, survey_collection, survey_directory
from pipelines.ingest.beir import beir_files, read_beir
from pipelines.ingest.config import BeirConfig, DataConfig, DocstringsConfig, PairsConfig
from pipelines.ingest.docstrings import read_docstrings
from pipelines.ingest.pairs import pairs_file, read_pairs
from pipelines.ingest.pipeline import ingest_step
from pipelines.ingest.rows import Collection
from pipelines.recipe import RECIPES, load_recipe


def survey_of(
    source: str, settings: list[str], store: ArtifactStore, advance: Callable[[int], None]
) -> Survey:
    """Survey a data set by what names it; an existing path comes first, then a recipe, then a run.

    Args:
        source: A directory in BEIR's layout, a recipe's file or name, a run's id or `latest`.
        settings: ``key=value`` settings of the recipe.
        store: Where runs and artifacts are.
        advance: Told how many rows were read.

    Raises:
        UserError: It is none of them, or its data cannot be read.
    """
    path = Path(source).expanduser()
    is_recipe = not path.is_dir() and (path.is_file() or (RECIPES / f"{source}.yaml").is_file())
    if settings and not is_recipe:
        raise UserError("--set belongs to a recipe", where=source, fix="leave it out, or name a recipe")
    if path.is_dir():
        return survey_directory(path, advance)
    if is_recipe:
        return _of_recipe(load_recipe(source, settings).data, store, advance)
    if source != "latest" and not store.storage.exists(f"runs/{source}/run.json"):
        recipes = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise UserError(
            "neither a directory, nor a recipe, nor a run",
            got=source,
            expected=f"a directory with corpus and queries, a YAML file, one of {recipes}, or a run's id",
            fix="stope runs ls",
        )
    return survey_artifact(artifacts_of(store, Run.find(store.storage, source)).data, advance)


def _of_recipe(config: DataConfig, store: ArtifactStore, advance: Callable[[int], None]) -> Survey:
    """Return the survey of what was ingested; of the source as it is, uncut, where nothing was ingested yet."""
    step = ingest_step(config)
    artifact = store.find(step.stage, step.label, step.fingerprint)
    if artifact is not None:
        return survey_artifact(artifact, advance)
    return survey_collection(_collection(config), f"{config.name} (not ingested yet, uncut)", advance)


def _collection(config: DataConfig) -> Collection:
    if isinstance(config, BeirConfig):
        return read_beir(beir_files(config), config.task)
    if isinstance(config, PairsConfig):
        return read_pairs(config, pairs_file(config)["pairs"])
    if isinstance(config, DocstringsConfig):
        return read_docstrings(config)
    raise UserError(
        "not ingested yet", where=f"data {config.name}", got=f"kind: {config.kind}", fix="stope encode RECIPE"
    )
