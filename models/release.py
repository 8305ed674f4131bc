"""What is served together: a manifest binds model, tokenizer, prompts, pooling, dimension and index."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import ModelError
from models.layout import describe_model, file_digest, model_digest, tokenizer_digest
from models.prompts import Prompts

MANIFEST_NAME = "release.json"


class RecallEntry(BaseModel):
    """What an index finds of the documents that an exact search finds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(ge=1)
    """Documents of a query that are compared."""
    value: float = Field(ge=0, le=1)
    """Share of them that the index finds too."""
    num_queries: int = Field(ge=1)
    asked: Literal["queries", "documents"]
    """What was asked: queries of the data, or documents where it has none."""


class EmbeddingsEntry(BaseModel):
    """The file of the whole embeddings, which is mapped into memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the release's directory."""
    sha256: str


class RescoreEntry(BaseModel):
    """How the candidates of an index of codes are scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    multiplier: int = Field(ge=1)
    """Candidates for each document asked for."""
    embeddings: EmbeddingsEntry | None
    """What they are scored with; None: what their codes stand for."""
    recall: RecallEntry | None
    """Measured when the index was built; None: it was not."""


class IndexEntry(BaseModel):
    """An index file and the model whose embeddings it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the release's directory."""
    sha256: str
    model_digest: str
    """Of the model that embedded the documents."""
    num_documents: int = Field(ge=0)
    kind: Literal["flat", "int8", "binary"] = "flat"
    """What it holds of a component: a number, a byte, a bit."""
    dimension: int | None = Field(default=None, ge=1)
    """Components that it holds, the first ones; None: all."""
    num_bytes: int | None = Field(default=None, ge=0)
    """Of memory, without the mapped file; None: not stated."""
    rescore: RescoreEntry | None = None
    """None: it is flat, holds all components and is searched exactly."""

    @model_validator(mode="after")
    def _codes_are_rescored(self) -> "IndexEntry":
        if self.rescore is None and (self.kind != "flat" or self.dimension is not None):
            raise ValueError(f"an index of kind {self.kind} and dimension {self.dimension} says no `rescore`")
        return self


class ReleaseManifest(BaseModel):
    """One version of what the endpoints answer with."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(min_length=1)
    created_at: str
    """ISO 8601, UTC."""
    model_digest: str
    tokenizer_digest: str
    pooling: Literal["mean", "cls", "last", "latent_attention"]
    prompts: Prompts
    dimension: int = Field(ge=1)
    shorter: tuple[int, ...] = ()
    """Numbers of leading components that are embeddings of their own: what the matryoshka loss trained."""
    dtype: Literal["bfloat16", "float16", "float32"]
    max_query_tokens: int = Field(ge=3)
    max_document_tokens: int = Field(ge=3)
    trust_remote_code: bool = False
    """Whether code that the model brings may run."""
    index: IndexEntry | None = None
    """None: the release embeds and does not search."""
    run_id: str | None = None
    """The run that made it."""


def write_release(manifest: ReleaseManifest, directory: str | Path) -> Path:
    """Write the manifest into a release's directory and return its path."""
    path = Path(directory) / MANIFEST_NAME
    path.write_text(manifest.model_dump_json(indent=2) + "\n")
    return path


def read_release(directory: str | Path) -> ReleaseManifest:
    """Read the manifest of a release's directory.

    Raises:
        ModelError: No release there, or a manifest that does not read.
    """
    path = Path(directory) / MANIFEST_NAME
    if not path.is_file():
        raise ModelError("this directory holds no release", str(directory), expected=MANIFEST_NAME)
    try:
        return ReleaseManifest.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            "the release's manifest does not read",
            str(path),
            got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            fix="create the release again",
        ) from error


def check_model(manifest: ReleaseManifest, model_directory: str | Path) -> None:
    """Refuse a model that is not the one released.

    Raises:
        ModelError: Its bytes or its dimension differ.
    """
    where = f"release {manifest.name}"
    for name, got, expected in (
        ("model", model_digest(model_directory, manifest.trust_remote_code), manifest.model_digest),
        ("tokenizer", tokenizer_digest(model_directory), manifest.tokenizer_digest),
        ("dimension", str(describe_model(model_directory).dimension), str(manifest.dimension)),
    ):
        if got != expected:
            raise ModelError(
                f"the {name} is not the one released",
                where,
                got=got,
                expected=expected,
                fix="serve the directory that the release was created with, or create a release of this one",
            )


def check_index(manifest: ReleaseManifest, directory: str | Path) -> Path | None:
    """Refuse an index that another model built, or one of whose files has changed.

    Args:
        manifest: Of the release.
        directory: Of the release.

    Returns:
        The index file; None where the release has none.

    Raises:
        ModelError: The index belongs to another model, or a file of it is missing or has other bytes.
    """
    index = manifest.index
    if index is None:
        return None
    where = f"release {manifest.name}"
    if index.model_digest != manifest.model_digest:
        raise ModelError(
            "the index was built by another model",
            where,
            got=index.model_digest,
            expected=manifest.model_digest,
            fix="build the index with this release's model",
        )
    _check_file(Path(directory) / index.path, index.sha256, "index file", where)
    embeddings = index.rescore.embeddings if index.rescore else None
    if embeddings is not None:
        _check_file(Path(directory) / embeddings.path, embeddings.sha256, "file of embeddings", where)
    return Path(directory) / index.path


def _check_file(path: Path, sha256: str, what: str, where: str) -> None:
    if not path.is_file():
        raise ModelError(f"the {what} is missing", where, expected=str(path), fix="build the index again")
    found = file_digest(path)
    if found != sha256:
        raise ModelError(
            f"the {what} has changed since the release",
            where,
            got=found,
            expected=sha256,
            fix="restore the file, or create a new release",
        )
