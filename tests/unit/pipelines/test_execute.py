"""Steps: what is cached is not computed, what changed is, and nothing runs that nobody reads."""

from dataclasses import replace

import pyarrow as pa
import pytest
from rich.console import Console

from cluster.artifacts import ArtifactStore
from cluster.roots import rooted_keys
from cluster.runs import Run
from pipelines import schemas
from pipelines.execute import execute, survey
from pipelines.progress import Progress
from pipelines.steps import Step, label_of


class Workshop:
    """Three steps in a chain that count how often each runs."""

    def __init__(self, root):
        self.store = ArtifactStore(str(root))
        self.ran = []

    def step(self, name, version=1, value=0, **inputs):
        def run(work):
            self.ran.append(name)
            table = schemas.conform(
                pa.table({"query": [value], "doc": [0], "relevance": [1.0], "split": ["test"]}), schemas.QRELS
            )
            work.writer.write_shard("qrels", 0, table)
            return work.commit({"qrels": 1})

        return Step(name, "data", version, {"value": value}, (), inputs, run, lambda _: 4)

    def chain(self, version=1, value=0):
        a = self.step("a", value=value)
        b = self.step("b", version=version, a=a)
        return {"a": a, "b": b, "c": self.step("c", b=b)}

    def go(self, steps, targets=("c",)):
        self.ran.clear()
        run = Run.create(self.store.storage, {}, {}, "test")
        return execute(steps, targets, self.store, None, Progress(Console(quiet=True)), run)

    def collect(self):
        return self.store.collect(rooted_keys(self.store, None), dry_run=True)


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def test_a_second_run_computes_nothing(workshop):
    workshop.go(workshop.chain())
    assert workshop.ran == ["a", "b", "c"]
    done = workshop.go(workshop.chain())
    assert workshop.ran == [] and all(each.cached for each in done.values())


def test_a_raised_stage_version_recomputes_it_and_what_follows(workshop):
    workshop.go(workshop.chain())
    workshop.go(workshop.chain(version=2))
    assert workshop.ran == ["b", "c"]


def test_a_changed_config_recomputes_everything_after_it(workshop):
    workshop.go(workshop.chain())
    workshop.go(workshop.chain(value=5))
    assert workshop.ran == ["a", "b", "c"]


def test_a_step_that_nobody_reads_any_more_does_not_run(workshop):
    steps = workshop.chain()
    workshop.go(steps)
    workshop.store.storage.delete(steps["a"].key)
    done = workshop.go(workshop.chain())
    assert workshop.ran == [] and done["a"].artifact is None


def test_a_target_leaves_later_steps_alone_and_a_survey_runs_nothing(workshop):
    steps = workshop.chain()
    assert survey(steps, ("c",), workshop.store) == {"a": "to run", "b": "to run", "c": "to run"}
    workshop.go(steps, ("b",))
    assert workshop.ran == ["a", "b"]
    assert survey(steps, ("c",), workshop.store) == {"a": "cached", "b": "cached", "c": "to run"}


def test_a_half_written_step_is_told_apart(workshop):
    steps = workshop.chain()
    workshop.go(steps, ("b",))
    writer = workshop.store.open("c", "data", steps["c"].fingerprint)
    table = workshop.store.find("b", "data", steps["b"].fingerprint).read("qrels")
    writer.write_shard("qrels", 0, schemas.conform(table, schemas.QRELS))
    assert survey(steps, ("c",), workshop.store)["c"] == "partial (1 of 4 shards)"


def test_the_loser_of_two_runs_at_once_adopts_the_result_of_the_winner(workshop):
    steps = workshop.chain()
    workshop.go(steps, ("b",))

    def run(work):
        workshop.go(workshop.chain())
        raise FileNotFoundError("the winner's commit swept this shard away")

    late = replace(steps["c"], run=run)
    done = workshop.go({**steps, "c": late})
    assert done["c"].artifact.key == steps["c"].key and done["c"].rows == 1


def test_a_failure_is_raised_where_nobody_else_has_the_result(workshop):
    def run(work):
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        workshop.go({"c": replace(workshop.step("c"), run=run)})


def test_labels_are_path_safe():
    assert label_of("org/some model@2") == "org_some_model_2"


def test_what_a_step_makes_besides_belongs_to_its_run(workshop):
    aside = workshop.step("aside", of=workshop.step("deep"))

    def run(work):
        made = work.compute(aside)
        if interrupted:
            raise KeyboardInterrupt
        return work.commit({}, {"of": made.key})

    whole = replace(workshop.step("whole"), run=run)
    interrupted = True
    with pytest.raises(KeyboardInterrupt):
        workshop.go({"whole": whole}, ("whole",))
    assert workshop.ran == ["deep", "aside"] and workshop.collect() == []
    interrupted = False
    workshop.go({"whole": whole}, ("whole",))
    assert workshop.ran == [] and workshop.collect() == []
