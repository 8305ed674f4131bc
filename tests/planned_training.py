"""A training of a few tiny data sets, planned and not yet begun."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.artifacts import ArtifactStore
from pipelines.located_model import LocatedModel
from pipelines.steps import Step
from pipelines.train.config import TrainConfig
from pipelines.train.planning import write_plan
from pipelines.train.sources import OpenSource, input_name
from pipelines.train.task import TrainTask
from tests.tiny_training import Silent, compute

NUMBERS = itertools.count()
"""A plan is made anew each time."""


def planned_task(
    root: Path, sets: Mapping[str, Sequence[Step]], model: LocatedModel, config: TrainConfig
) -> TrainTask:
    """Return a training on some data sets: name -> the steps ingest and select."""
    store = ArtifactStore(str(root))
    made = {name: [compute(step, store, None, Silent()) for step in steps] for name, steps in sets.items()}
    writer = store.open("plan", "-".join(sets), f"{next(NUMBERS):020x}")
    sources = [OpenSource(name, *artifacts) for name, artifacts in made.items()]
    summary, counters = write_plan(writer, sources, model, config)
    inputs = {
        input_name(name, kind): artifact.key
        for name, artifacts in made.items()
        for kind, artifact in zip(("data", "groups"), artifacts, strict=True)
    }
    plan = writer.commit(
        stage_version=1,
        num_shards={"order": 1},
        identity={},
        summary=summary,
        counters=counters,
        inputs=inputs,
    )
    trained = store.open("train", "tiny-tuned", "1" * 20)
    return TrainTask(plan, made["main"][0], trained, model, config, 1, None)
