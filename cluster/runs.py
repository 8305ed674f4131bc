"""Runs: what was asked for, what each stage took or made, how it ended. ``runs/<id>/run.json``."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from cluster.errors import UserError
from cluster.storage import MissingObject, Storage

RunState = Literal["running", "done", "failed", "interrupted"]
_OBJECT = TypeAdapter(dict[str, JsonValue])
_OBJECTS = TypeAdapter(list[dict[str, JsonValue]])


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageRecord(_Record):
    """One stage of a run."""

    key: str
    """Key of the artifact that it took or makes: ``stage/label-fp``."""
    stage: str
    """Name of the stage."""
    state: RunState
    """How far it is."""
    rows: int = 0
    """Rows of its artifact, or done so far."""
    seconds: float = 0.0
    """Wall time in this run."""
    cached: bool = False
    """Whether the artifact was there already."""


class Event(_Record):
    """One line of a run's log."""

    at: str
    """UTC, ISO 8601."""
    text: str
    """What happened."""


class RunRecord(_Record):
    """All that is kept of a run."""

    id: str
    """Sorts by the time of creation."""
    name: str
    """Name of the recipe."""
    state: RunState
    """How far it is; a run that is ``running`` long after its last event was killed."""
    created_at: str
    """UTC, ISO 8601."""
    finished_at: str | None = None
    """UTC, ISO 8601; none while it runs."""
    recipe: dict[str, JsonValue]
    """The recipe, resolved."""
    definition: dict[str, JsonValue]
    """The cluster definition, resolved."""
    stages: list[StageRecord] = []
    """In the order they began."""
    artifacts: list[str] = []
    """Keys of what stages made or took besides, such as an index of words."""
    metrics: list[dict[str, JsonValue]] = []
    """Rows of the table of metrics."""
    events: list[Event] = []
    """What happened, oldest first."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Run:
    """One run; each change rewrites its record in one step.

    Args:
        storage: Where the workspace is.
        record: What is known of it.
    """

    def __init__(self, storage: Storage, record: RunRecord) -> None:
        self.storage = storage
        self.record = record

    @property
    def id(self) -> str:
        """Time of creation, name, and four digits that tell apart runs of one second."""
        return self.record.id

    @classmethod
    def create(
        cls, storage: Storage, recipe: Mapping[str, object], definition: Mapping[str, object], name: str
    ) -> Self:
        """Begin a run.

        Args:
            storage: Where the workspace is.
            recipe: The resolved recipe, JSON values only.
            definition: The resolved cluster definition, JSON values only.
            name: Name of the recipe; letters, digits, dots, dashes and underscores are kept.
        """
        clean = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        record = RunRecord(
            id=f"{stamp}-{clean.strip('-')[:40] or 'run'}-{secrets.token_hex(2)}",
            name=name,
            state="running",
            created_at=_now(),
            recipe=_OBJECT.validate_python(dict(recipe)),
            definition=_OBJECT.validate_python(dict(definition)),
        )
        run = cls(storage, record)
        run._save()
        return run

    @classmethod
    def find(cls, storage: Storage, name: str) -> Self:
        """Return the run with this id, or the newest for ``latest``.

        Raises:
            UserError: There is none, or its record cannot be read.
        """
        ids = cls._ids(storage)
        if not ids:
            raise UserError(
                "there are no runs yet", where=storage.locate("runs"), fix="start one: stope demo"
            )
        wanted = ids[-1] if name == "latest" else name
        if wanted not in ids:
            raise UserError(
                "no such run",
                where=storage.locate("runs"),
                got=name,
                expected=f"latest, or one of {', '.join(ids[-5:])}",
            )
        return cls._load(storage, wanted)

    @classmethod
    def list(cls, storage: Storage) -> "list[Self]":
        """Return all runs, newest first."""
        return [cls._load(storage, run_id) for run_id in reversed(cls._ids(storage))]

    @classmethod
    def _load(cls, storage: Storage, run_id: str) -> Self:
        key = f"runs/{run_id}/run.json"
        try:
            return cls(storage, RunRecord.model_validate_json(storage.read(key)))
        except (ValidationError, MissingObject) as error:
            raise UserError(
                "the record of the run cannot be read",
                where=storage.locate(key),
                got=str(error).splitlines()[0],
                fix=f"delete {storage.locate(f'runs/{run_id}')}; the artifacts stay",
            ) from error

    @staticmethod
    def _ids(storage: Storage) -> "Sequence[str]":
        parts = (key.split("/") for key in storage.list("runs"))
        return sorted(names[1] for names in parts if len(names) == 3 and names[2] == "run.json")

    def record_stage(
        self, key: str, stage: str, state: RunState, rows: int = 0, seconds: float = 0.0, cached: bool = False
    ) -> None:
        """Note how far a stage is; a second note of the same key replaces the first.

        Args:
            key: Key of its artifact.
            stage: Its name.
            state: How far it is.
            rows: Rows done.
            seconds: Wall time in this run.
            cached: Whether the artifact was there already.
        """
        noted = StageRecord(key=key, stage=stage, state=state, rows=rows, seconds=seconds, cached=cached)
        stages = [noted if known.key == key else known for known in self.record.stages]
        if noted not in stages:
            stages.append(noted)
        self._change(stages=stages)

    def record_artifact(self, key: str) -> None:
        """Note an artifact that a stage needs besides its inputs; again is free."""
        if key not in self.record.artifacts:
            self._change(artifacts=[*self.record.artifacts, key])

    def event(self, text: str) -> None:
        """Add a line to the run's log."""
        self._change(events=[*self.record.events, Event(at=_now(), text=text)])

    def set_metrics(self, metrics: Sequence[Mapping[str, object]]) -> None:
        """Keep the rows of the table of metrics."""
        self._change(metrics=_OBJECTS.validate_python([dict(row) for row in metrics]))

    def finish(self, state: RunState) -> None:
        """End the run; stages that were running end the same way."""
        stages = [
            known.model_copy(update={"state": state}) if known.state == "running" else known
            for known in self.record.stages
        ]
        self._change(state=state, finished_at=_now(), stages=stages)

    def _change(self, **changes: object) -> None:
        self.record = self.record.model_copy(update=changes)
        self._save()

    def _save(self) -> None:
        self.storage.write(f"runs/{self.id}/run.json", self.record.model_dump_json(indent=1).encode())
