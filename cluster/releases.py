"""Releases: named pairs of a model and an index, recorded in the store; ``releases/<name>/record.json``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError


class ReleaseRecord(BaseModel):
    """What a release consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Unique in a store, and later names sort later: <date>-<time>-<recipe>."""
    run: str
    """The run that made it."""
    created_at: str
    """UTC, ISO 8601."""
    artifacts: dict[str, str]
    """Keys of the artifacts that hold the `model` and the `index`."""
    manifest: dict[str, JsonValue]
    """What release.json says to the server: digests, pooling, prompts, dimension."""


def create(
    store: ArtifactStore, recipe: str, run: str, artifacts: dict[str, str], manifest: dict[str, JsonValue]
) -> ReleaseRecord:
    """Record a release under a new name; the newest release is returned as it is if it holds the same."""
    newest = listed(store)[:1]
    if newest and newest[0].artifacts == artifacts:
        return newest[0]
    now = datetime.now(UTC)
    name = f"{now:%Y%m%d-%H%M%S}-{recipe}"
    record = ReleaseRecord(
        name=name, run=run, created_at=now.isoformat(timespec="seconds"), artifacts=artifacts,
        manifest={**manifest, "name": name},
    )  # fmt: skip
    if not store.storage.create(f"releases/{name}/record.json", record.model_dump_json(indent=2).encode()):
        raise UserError("a release of this name was made this very second", where=name, fix="try again")
    return record


def listed(store: ArtifactStore) -> list[ReleaseRecord]:
    """Return all releases, newest first."""
    keys = [key for key in store.storage.list("releases") if key.endswith("/record.json")]
    records = [_load(store, key) for key in keys]
    return sorted(records, key=lambda record: (record.created_at, record.name), reverse=True)


def _load(store: ArtifactStore, key: str) -> ReleaseRecord:
    try:
        return ReleaseRecord.model_validate_json(store.storage.read(key))
    except ValidationError as error:
        where = store.storage.locate(key)
        raise UserError("a release's record does not read", where=where, fix="delete this file") from error


def find(store: ArtifactStore, name: str) -> ReleaseRecord:
    """Return the release ``name``; ``latest`` is the newest.

    Raises:
        UserError: There is none of that name.
    """
    records = listed(store)
    for record in records:
        if name in ("latest", record.name):
            return record
    names = ", ".join(record.name for record in records[:5]) or "no release yet"
    raise UserError(
        "no such release",
        where=store.storage.locate("releases"),
        got=name,
        expected=names,
        fix="stope run RECIPE",
    )


@contextmanager
def opened(store: ArtifactStore, record: ReleaseRecord) -> Iterator[Path]:
    """Yield a local folder with release.json, model/ and the files of the index, removed at the end.

    Raises:
        UserError: An artifact of the release is gone or damaged.
    """
    model, index = (store.get(record.artifacts[name]) for name in ("model", "index"))
    with TemporaryDirectory(prefix="stope-release-") as name:
        folder = Path(name)
        (folder / "release.json").write_text(json.dumps(record.manifest, indent=2))
        (folder / "model").symlink_to(model.directory("model"))
        for stored in index.manifest.files:
            (folder / stored.name).symlink_to(index.file(stored.name))
        yield folder
