"""Negatives mined anew with the model as it stands, every so many steps of one training (ANCE, arXiv 2007.00808)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from cluster.artifacts import Artifact
from pipelines.model import Model
from pipelines.steps import Step, Work

Renew = Callable[[Model], Mapping[str, Step]]
"""A model -> the steps that mine with it, among them `audit`, and `order`: the plan of what is mined."""


def renewed_plan(
    work: Work,
    model: Model,
    ends: Iterable[int],
    renew: Renew,
    train: Callable[[Artifact, int, Work], Artifact],
) -> tuple[Artifact, list[str]]:
    """Train stretch by stretch and mine between two of them; what is there already is taken from the storage.

    Optimizer and learning rates go on from one stretch to the next, and so do the batches: a stretch takes up the plan
    of its own negatives at the step that it begins with.

    Args:
        work: Of the whole training.
        model: That it began with.
        ends: Steps after which negatives are mined anew.
        renew: Says what is mined with a model.
        train: Trains by a plan up to a step, and commits the model as it is then.

    Returns:
        The plan of the last stretch, which is still to be trained, and the keys of the audits of what was mined.
    """
    plan, audits = work.inputs["plan"], []
    for end in ends:
        until = replace(
            work.step,
            label=f"{work.step.label[:70]}-{end}",
            identity={**work.step.identity, "until": end},
            run=partial(train, plan, end),
        )
        if work.compute(until).num_rows("training_steps") < end:
            # The dev metric gained no more.
            break
        mined = renew(model.trained(until))
        plan = work.compute(mined["order"])
        audits.append(work.compute(mined["audit"]).manifest.key)
        work.progress.log(f"  [dim]step {end:,}: negatives mined anew with the model as it is[/]")
    return plan, audits
