"""Write what a run mined, or what it read, in another tool's format."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.artifacts import Artifact, ArtifactStore
from cluster.errors import UserError
from cluster.runs import Run
from pipelines.exchange.beir import write_beir
from pipelines.exchange.config import ExportConfig
from pipelines.exchange.flagembedding import write_flagembedding
from pipelines.exchange.groups import MinedGroups
from pipelines.exchange.imports import known
from pipelines.exchange.judged import Judged
from pipelines.exchange.placing import placed
from pipelines.exchange.tevatron import write_tevatron
from pipelines.exchange.trec import write_trec
from pipelines.exchange.tuples import write_pairs, write_tuples

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Mined:
    """The artifacts of a run that can be exported.

    Args:
        data: What was read.
        groups: What selection chose, the last time it did; None where the run has no such stage.
        candidates: Name of a ranking -> its artifact.
    """

    data: Artifact
    groups: Artifact | None
    candidates: dict[str, Artifact]


@dataclass
class Exported:
    """What an export wrote.

    Args:
        rows: File, relative to the target -> rows.
        left_out: What was not written, by reason.
        notes: What the user should know, by what.
    """

    rows: dict[str, int]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def artifacts_of(store: ArtifactStore, run: Run, dataset: str | None = None) -> Mined:
    """Return the artifacts that the finished stages of a run took or made, of one data set.

    Args:
        store: Where they are.
        run: The run.
        dataset: Name of its data. None: the main one, which a run reads before those under `also`.

    Raises:
        UserError: The run read no data, or none of this name, or an artifact is gone.
    """
    finished = [store.get(stage.key) for stage in run.record.stages if stage.state == "done"]
    read = [artifact for artifact in finished if artifact.manifest.stage == "ingest"]
    if not read:
        raise UserError("the run has no data yet", where=run.id, fix="choose another: stope runs ls")
    data = next((each for each in read if dataset in (None, each.manifest.label)), None)
    if data is None:
        labels = [each.manifest.label for each in read]
        raise UserError(
            "the run read no data of this name", where=run.id, got=str(dataset), expected=" or ".join(labels)
        )
    own = [artifact for artifact in finished if artifact.manifest.inputs.get("data") == data.key]
    groups = [artifact for artifact in own if "groups" in artifact.manifest.tables]
    rankings = [artifact for artifact in own if "candidates" in artifact.manifest.tables]
    return Mined(data, groups[-1] if groups else None, _named(rankings))


def _named(rankings: Sequence[Artifact]) -> dict[str, Artifact]:
    labels = Counter(f"{artifact.manifest.stage}-{artifact.manifest.label}" for artifact in rankings)
    named = {}
    for artifact in rankings:
        label = f"{artifact.manifest.stage}-{artifact.manifest.label}"
        named[label if labels[label] == 1 else f"{label}-{artifact.manifest.fingerprint[:6]}"] = artifact
    return named


def export_run(
    mined: Mined, name: str, config: ExportConfig, target: Path, overwrite: bool, advance: Advance
) -> Exported:
    """Write ``mined`` to ``target``.

    Args:
        mined: Artifacts of a run.
        name: A key of WRITERS.
        config: Split, shape, scores.
        target: A file for sentence-transformers (.parquet) and flagembedding (.jsonl), else a directory.
        overwrite: Whether ``target`` may exist.
        advance: Told how many rows were read.

    Raises:
        UserError: The format is unknown, takes no such setting, or the run has nothing of the kind.
    """
    known(name, tuple(WRITERS), "--format")
    _refuse_unread(name, config)
    suffix = SUFFIXES.get(name)
    if suffix and target.suffix != suffix:
        raise UserError(
            "wrong kind of file", where=str(target), got=target.suffix, expected=f"a {suffix} file"
        )
    with placed(target, overwrite) as building:
        exported = WRITERS[name](mined, config, building, advance)
    # A file is built under another name than it gets.
    if suffix:
        exported.rows = {target.name: sum(exported.rows.values())}
    exported.left_out, exported.notes = +exported.left_out, +exported.notes
    return exported


def _refuse_unread(name: str, config: ExportConfig) -> None:
    for option, formats in OPTIONS.items():
        flag = f"--{option.replace('_', '-')}"
        default = ExportConfig.model_fields[option].get_default()
        if getattr(config, option) != default and name not in formats:
            raise UserError(
                f"{name} does not read {FLAGS.get(option, flag)}",
                expected=f"--format {' or '.join(formats)}",
                fix="leave it out",
            )
    if name == "sentence-transformers" and config.shape == "pair":
        for option in ("scores", "teacher", "num_negatives"):
            if getattr(config, option) is not None:
                raise UserError(f"a pair has no {option}", fix="leave it out, or take another --shape")


def _groups(mined: Mined, config: ExportConfig) -> MinedGroups:
    if mined.groups is None:
        raise UserError(
            "the run mined no groups",
            where=mined.data.key,
            expected="a run of `stope mine run`, `stope train` or `stope run`",
            fix="--format beir, or --shape pair, need no groups",
        )
    wanted = Judged(mined.data, config.split).queries() if config.split else None
    return MinedGroups(mined.data, mined.groups, wanted, config.teacher)


def _flagembedding(mined: Mined, config: ExportConfig, target: Path, advance: Advance) -> Exported:
    groups = _groups(mined, config)
    return Exported(write_flagembedding(target, groups, config, advance), groups.left_out, groups.notes)


def _tevatron(mined: Mined, config: ExportConfig, target: Path, advance: Advance) -> Exported:
    groups = _groups(mined, config)
    return Exported(write_tevatron(target, groups, advance), groups.left_out)


def _sentence_transformers(mined: Mined, config: ExportConfig, target: Path, advance: Advance) -> Exported:
    if config.shape == "pair":
        return Exported(write_pairs(target, Judged(mined.data, config.split), advance))
    groups = _groups(mined, config)
    return Exported(write_tuples(target, groups, config, advance), groups.left_out, groups.notes)


def _beir(mined: Mined, config: ExportConfig, target: Path, advance: Advance) -> Exported:
    return Exported(write_beir(target, mined.data, config.split, config.parquet, advance))


def _trec(mined: Mined, config: ExportConfig, target: Path, advance: Advance) -> Exported:
    return Exported(write_trec(target, mined.data, mined.candidates, config.split, advance))


WRITERS: dict[str, Callable[[Mined, ExportConfig, Path, Advance], Exported]] = {
    "sentence-transformers": _sentence_transformers,
    "flagembedding": _flagembedding,
    "tevatron": _tevatron,
    "beir": _beir,
    "trec": _trec,
}
SUFFIXES = {"sentence-transformers": ".parquet", "flagembedding": ".jsonl"}
"""Formats that are one file -> its suffix; the others are a directory."""
OPTIONS = {
    "shape": ("sentence-transformers",),
    "scores": ("sentence-transformers", "flagembedding"),
    "teacher": ("sentence-transformers", "flagembedding"),
    "num_negatives": ("sentence-transformers",),
    "prompt": ("flagembedding",),
    "parquet": ("beir",),
}
"""Setting of ExportConfig -> the formats that read it."""
FLAGS = {"num_negatives": "--negatives"}
"""Setting -> what is typed, where that is not its name."""
