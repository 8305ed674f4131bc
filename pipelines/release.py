"""From a run to a release: the manifest that binds its model and its index."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue, ValidationError

from cluster import releases
from cluster.artifacts import Artifact, ArtifactStore
from cluster.errors import UserError
from cluster.releases import ReleaseRecord
from cluster.runs import Run
from pipelines.recipe import Recipe


def create_release(store: ArtifactStore, run: Run) -> ReleaseRecord:
    """Bind the model and the index that a run made.

    Raises:
        UserError: The run has not come as far as the index, or an artifact of it is gone.
    """
    trained, index = (_artifact_of(store, run, stage) for stage in ("train", "index"))
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
    from models.release import IndexEntry, ReleaseManifest

    description, digest = describe_model(model), model_digest(model)
    stored = next(file for file in index.manifest.files if file.name == "index.faiss")
    summary = index.manifest.summary
    entry = IndexEntry(
        path=stored.name, sha256=stored.sha256, model_digest=digest, num_documents=summary["num_documents"]
    )
    manifest = ReleaseManifest(
        name=recipe.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model_digest=digest,
        tokenizer_digest=tokenizer_digest(model),
        pooling=description.pooling,
        prompts=description.prompts,
        dimension=description.dimension,
        dtype=summary["dtype"],
        max_query_tokens=recipe.model.max_query_tokens,
        max_document_tokens=recipe.model.max_document_tokens,
        index=entry,
        run_id=run.id,
    )
    return manifest.model_dump(mode="json")


def _artifact_of(store: ArtifactStore, run: Run, stage: str) -> Artifact:
    keys = [record.key for record in run.record.stages if record.stage == stage and record.state == "done"]
    if not keys:
        raise UserError(
            f"the run has no finished {stage} stage", where=run.id, fix=f"stope run {run.record.name}"
        )
    return store.get(keys[-1])
