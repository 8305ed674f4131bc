"""From a run to a release: the manifest that binds its model and its index."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue, ValidationError

from cluster import releases
from cluster.artifacts import Artifact, ArtifactStore
from cluster.errors import UserError
from cluster.releases import ReleaseRecord
from cluster.runs import Run
from pipelines.index.pipeline import EMBEDDINGS_FILE, INDEX_FILE
from pipelines.recipe import Recipe
from pipelines.train.loss_config import MatryoshkaConfig

if TYPE_CHECKING:
    from models.release import IndexEntry


def create_release(store: ArtifactStore, run: Run) -> ReleaseRecord:
    """Bind the model and the index that a run made.

    Raises:
        UserError: The run has not come as far as the index, or an artifact of it is gone.
    """
    trained, index = (artifact_of(store, run, stage) for stage in ("train", "index"))
    try:
        recipe = Recipe.model_validate(run.record.recipe)
    except ValidationError as error:
        raise UserError(
            "the run's recipe was written by another version of Stope",
            where=run.id,
            got=f"{error.error_count()} settings that do not fit",
            fix="run the recipe again; what is cached is not computed again",
        ) from error
    manifest = _manifest(trained.directory("model"), index, recipe, run)
    artifacts = {"model": trained.key, "index": index.key}
    return releases.create(store, recipe.name, run.id, artifacts, manifest)


def _manifest(model: Path, index: Artifact, recipe: Recipe, run: Run) -> dict[str, JsonValue]:
    from models.layout import describe_model, model_digest, tokenizer_digest
    from models.release import ReleaseManifest

    description, digest = describe_model(model), model_digest(model, recipe.model.trust_remote_code)
    manifest = ReleaseManifest(
        name=recipe.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model_digest=digest,
        tokenizer_digest=tokenizer_digest(model),
        pooling=description.pooling,
        prompts=description.prompts,
        dimension=description.dimension,
        shorter=shorter_dimensions(recipe, description.dimension),
        dtype=index.manifest.summary["dtype"],
        max_query_tokens=recipe.model.max_query_tokens,
        max_document_tokens=recipe.model.max_document_tokens,
        trust_remote_code=recipe.model.trust_remote_code,
        index=_index_entry(index, digest),
        run_id=run.id,
    )
    return manifest.model_dump(mode="json")


def shorter_dimensions(recipe: Recipe, dimension: int) -> tuple[int, ...]:
    """Return the numbers of leading components that a recipe trains to be embeddings of their own, rising."""
    trained = (term.dimensions for term in recipe.train.loss if isinstance(term, MatryoshkaConfig))
    return tuple(sorted({each for lengths in trained for each in lengths if each < dimension}))


def _index_entry(index: Artifact, digest: str) -> "IndexEntry":
    from models.release import EmbeddingsEntry, IndexEntry

    stored = {file.name: file for file in index.manifest.files}
    # Those of earlier versions say less, and are flat.
    facts: dict[str, object] = {
        name: fact for name, fact in index.manifest.summary.items() if name in IndexEntry.model_fields
    }
    rescore = facts.pop("rescore", None)
    if isinstance(rescore, dict):
        whole = stored.get(EMBEDDINGS_FILE)
        embeddings = EmbeddingsEntry(path=whole.name, sha256=whole.sha256) if whole else None
        facts["rescore"] = {**rescore, "embeddings": embeddings}
    file = stored[INDEX_FILE]
    return IndexEntry.model_validate(
        {"path": file.name, "sha256": file.sha256, "model_digest": digest, **facts}
    )


def artifact_of(store: ArtifactStore, run: Run, stage: str) -> Artifact:
    """Return what a stage of a run made last.

    Raises:
        UserError: The stage is not finished, or the artifact is gone.
    """
    keys = [record.key for record in run.record.stages if record.stage == stage and record.state == "done"]
    if not keys:
        raise UserError(
            f"the run has no finished {stage} stage", where=run.id, fix=f"stope run {run.record.name}"
        )
    return store.get(keys[-1])
