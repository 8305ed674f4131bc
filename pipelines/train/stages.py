"""The stages of a training with every setting in place: what a recipe leaves out is filled in here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Literal, TypeVar

from cluster.errors import UserError
from pipelines.train.config import TrainConfig
from pipelines.train.stage_config import StageConfig

MAIN = "main"
"""What the data set under `data` is called among others."""

OWN_GROUP_TASKS = {"classification", "clustering", "sts"}
"""Tasks whose documents answer most queries of a batch, so that those of other rows are no negatives."""

Scope = Literal["batch", "task", "group"]
"""Whose documents are a row's negatives: of all rows of the batch, of the rows of its task, of its own group."""

Value = TypeVar("Value", int, bool)


@dataclass(frozen=True)
class SetSettings:
    """What a recipe says of one data set.

    Args:
        num_negatives: Mined negatives of a query in one step. None: as `train` says.
        in_batch_negatives: Whether documents of other rows are negatives. None: as `train` says.
        weight: Multiplies the chance that a homogeneous batch is of this set.
    """

    num_negatives: int | None = None
    in_batch_negatives: bool | None = None
    weight: float = 1.0


NOTHING_SAID = SetSettings()


@dataclass(frozen=True)
class SetRule:
    """How one data set is trained on in one stage.

    Args:
        num_negatives: Mined negatives of a query in one step, at most.
        in_batch_negatives: Whether documents of other rows are negatives. None: unless the task says otherwise.
        weight: Multiplies the chance that a homogeneous batch is of this set.
        key: The recipe's key that says num_negatives.
    """

    num_negatives: int
    in_batch_negatives: bool | None = None
    weight: float = 1.0
    key: str = "train.num_negatives"


@dataclass(frozen=True)
class Stage:
    """A stretch of the training.

    Args:
        epochs: Passes over the groups.
        batch_size: Queries of one global batch.
        sets: Data set -> how it is trained on, for those that are.
        mixed_share: Share of the rows, the last ones, whose batches mix tasks: 0 for none, 1 for all.
        alpha: A homogeneous batch's task is drawn by its remaining rows to this power.
        across_tasks: Whether documents of another task are negatives in a mixed batch.
        dynamic: Whether a row begins with its first negatives and may go on to the next ones.
    """

    epochs: int
    batch_size: int
    sets: Mapping[str, SetRule]
    mixed_share: float = 1.0
    alpha: float = 1.0
    across_tasks: bool = False
    dynamic: bool = False

    def scope(self, dataset: str, task: str) -> Scope:
        """Return whose documents are negatives of a row of this set and task."""
        in_batch = self.sets[dataset].in_batch_negatives
        if in_batch is None:
            in_batch = task not in OWN_GROUP_TASKS
        if not in_batch:
            return "group"
        return "batch" if self.across_tasks else "task"

    @property
    def identity(self) -> dict[str, object]:
        """What the order of the stage's batches depends on, as JSON."""
        rules = {name: asdict(rule) for name, rule in self.sets.items()}
        for rule in rules.values():
            del rule["key"]
        return {**asdict(self), "sets": rules}


def resolve_stages(config: TrainConfig, sets: Mapping[str, SetSettings]) -> tuple[Stage, ...]:
    """Return the stages of a training; one, where the recipe names none.

    A number of negatives is what the stage says, else what the data set says, else what `train` says.

    Args:
        config: As the recipe says.
        sets: Every data set of the recipe by name.

    Raises:
        UserError: A stage names a data set that the recipe has not, or leaves a loss without the negatives that it
            needs.
    """
    return tuple(
        _resolve(config, sets, stage, f"train.stages.{place}")
        for place, stage in enumerate(config.stages or (StageConfig(),))
    )


def _resolve(config: TrainConfig, sets: Mapping[str, SetSettings], stage: StageConfig, where: str) -> Stage:
    used = tuple(sets) if stage.data is None else tuple(dict.fromkeys(stage.data))
    for name in used:
        _check_name(name, tuple(sets), f"{where}.data")
    rules: dict[str, SetRule] = {}
    for key in ("num_negatives", "in_batch_negatives"):
        value = getattr(stage, key)
        for name in value if isinstance(value, dict) else ():
            _check_name(name, used, f"{where}.{key}")
    for name in used:
        own = sets[name]
        counts = {
            f"{where}.num_negatives": _of_set(stage.num_negatives, name),
            f"also.{name}.num_negatives": own.num_negatives,
            "train.num_negatives": config.num_negatives,
        }
        key, count = next((key, value) for key, value in counts.items() if value is not None)
        said = (_of_set(stage.in_batch_negatives, name), own.in_batch_negatives, config.in_batch_negatives)
        in_batch = next((value for value in said if value is not None), None)
        if count == 0:
            _check_no_negatives(config, name, key, in_batch)
        rules[name] = SetRule(count, in_batch, own.weight, key)
    batches = config.batches
    shares = {"mixed": 1.0, "homogeneous": 0.0, "phased": batches.mixed_share}
    return Stage(
        epochs=stage.epochs or config.epochs,
        batch_size=stage.batch_size or config.batch_size,
        sets=rules,
        mixed_share=shares[stage.order or batches.order],
        alpha=batches.alpha,
        across_tasks=batches.across_tasks,
        dynamic=config.dynamic_negatives is not None,
    )


def _of_set(value: Value | Mapping[str, Value] | None, name: str) -> Value | None:
    return value.get(name) if isinstance(value, Mapping) else value


def _check_no_negatives(config: TrainConfig, name: str, key: str, in_batch: bool | None) -> None:
    loss = config.compares_own_negatives
    if loss is None and in_batch is not False:
        return
    without = f"loss {loss} compares a query's own negatives" if loss else "in_batch_negatives is false"
    raise UserError(
        f"{without}, and the queries of {name} have none",
        where=key,
        got="0",
        expected="1 or more",
        fix=f"set num_negatives to 1 or more, or leave {name} out of the stage's data",
    )


def _check_name(name: str, known: Sequence[str], where: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise UserError(
            "no such data set",
            where=where,
            got=name,
            expected=", ".join(known),
            fix=f"write {near[0]}" if near else f"write {MAIN} for `data`, or add also.{name}",
        )
