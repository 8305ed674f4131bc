"""Training on a real local session: what the artifact holds, what listens, how progress is shown, what is refused."""

import math
import re
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from models.checkpoint import load_encoder
from models.errors import ModelError
from models.inference import embed
from models.moe.upcycle import moe_blocks
from pipelines.train.card import HERE
from pipelines.train.dev_config import DevConfig
from pipelines.train.dev_cut import make_cut
from tests.event_files import events
from tests.tiny_training import NUM_QUERIES, Silent, compute, digests, training

NUM_STEPS = 2 * math.ceil(NUM_QUERIES / 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def store(folder):
    return ArtifactStore(str(folder / "store"))


class Listeners(threading.Thread):
    """Looks, until it is ended, on which addresses the processes that this one started listen."""

    def __init__(self):
        super().__init__(daemon=True)
        self.addresses, self.of_ranks, self._ended = set(), set(), threading.Event()

    def run(self):
        while not self._ended.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    connections = process.net_connections("tcp")
                    is_rank = "RayTrainWorker" in " ".join(process.cmdline())
                except psutil.Error:
                    continue
                found = {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
                self.addresses |= found
                self.of_ranks |= found if is_rank else set()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self.join()


@pytest.fixture(scope="module")
def listeners():
    return Listeners()


@pytest.fixture(scope="module")
def trained(session, folder, store, listeners):
    steps, progress = training(folder, session), Silent()
    with listeners:
        artifact = compute(steps["trained"], store, session, progress)
    return steps, artifact, progress


def test_it_listens_on_the_loopback_only(trained, listeners):
    assert listeners.of_ranks, "the ranks were not caught while they trained"
    assert listeners.addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_the_loss_falls_and_every_step_is_recorded(trained):
    _, artifact, _ = trained
    table = artifact.read("training_steps").to_pydict()
    assert table["step"] == list(range(NUM_STEPS))
    assert np.mean(table["loss"][-3:]) < 0.95 * np.mean(table["loss"][:3])
    assert max(table["learning_rate"]) == pytest.approx(1e-3)
    assert artifact.manifest.summary["workers"] == 2


def test_the_model_has_moved_and_is_float32(trained, folder):
    _, artifact, _ = trained
    before = load_encoder(folder / "model").state_dict()
    after = load_encoder(artifact.directory("model")).state_dict()
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.dtype == torch.float32
        if not name.endswith(("key.bias", "token_type_embeddings.weight", "position_embeddings.weight")):
            assert not torch.equal(weight, before[name]), name


def test_progress_reaches_the_total_and_says_how_it_goes(trained):
    _, _, progress = trained
    assert "starting workers" in progress.notes
    live = r"loss [\d.]+  rate [\de.+-]+  gradient [\d.]+  [\d,]+ tokens/s"
    assert any(re.search(live, note) for note in progress.notes)
    assert progress.done == NUM_STEPS


def test_the_card_loads_the_model_both_ways(trained, folder):
    _, artifact, _ = trained
    directory = artifact.directory("model")
    blocks = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    of_transformers, of_sentence_transformers = {}, {}
    exec(blocks[0].replace(HERE, str(directory)), of_sentence_transformers)
    exec(blocks[1].replace(HERE, str(directory)), of_transformers)
    assert of_sentence_transformers["scores"].shape == (1, 2)
    np.testing.assert_allclose(
        of_transformers["embeddings"].numpy(), of_sentence_transformers["queries"], atol=1e-5
    )
    for path in directory.rglob("*.json"):
        assert str(folder) not in path.read_text(), path.name


class Watching(Silent):
    """Progress that looks for checkpoints whenever it is told of a step."""

    def __init__(self, scratch):
        super().__init__()
        self.scratch, self.checkpoints = Path(scratch), set()

    def advance(self, amount=1, note=""):
        super().advance(amount, note)
        self.checkpoints |= {path.name for path in self.scratch.glob("*/checkpoint_*") if path.is_dir()}


DEV = {"split": "train", "queries": 25, "documents": 70, "every_steps": 3, "metric": "recall@3"}


def recall_at_3(directory, cut):
    """Measure the model of a directory with everything that is not the training's own."""
    encoder = load_encoder(directory)
    q_QD, doc_ND = (embed(encoder, store.tokens) for store in (cut.queries, cut.documents))
    found = []
    for query, scores in zip(cut.queries.ordinals, q_QD @ doc_ND.T, strict=True):
        relevant = set(cut.relevance.doc[cut.relevance.query == query].tolist())
        best = cut.documents.ordinals[np.argsort(-scores, kind="stable")[:3]]
        found.append(len(relevant & set(best.tolist())) / len(relevant))
    return np.mean(found)


def test_measured_watched_and_saved_by_the_minute_it_is_the_same_training(session, folder, trained):
    steps, quiet, _ = trained
    watching = {"tensorboard": True, "checkpoint_every_minutes": 1e-4, "checkpoint_every_steps": 1000}
    step, store = training(folder, session, **watching)["trained"], ArtifactStore(str(folder / "watched"))
    assert step.fingerprint == quiet.manifest.fingerprint
    step = training(folder, session, dev=DEV, **watching)["trained"]
    progress = Watching(folder / "watched" / step.key / "scratch")
    artifact = compute(step, store, session, progress)
    assert len(progress.checkpoints) > 2
    assert digests(artifact)["training_steps"] == digests(quiet)["training_steps"]

    # What is measured is what the weights that are kept achieve.
    metrics = artifact.read("training_metrics").to_pydict()
    assert metrics["steps"] == [*range(0, NUM_STEPS, 3), *([NUM_STEPS] if NUM_STEPS % 3 else [])]
    assert set(metrics["metric"]) == {"recall@3"}
    data = compute(steps["data"], ArtifactStore(str(folder / "store")), session, Silent())
    model = step.run.keywords["model"].locate({})
    cut = make_cut(data, model, DevConfig(**DEV), 0)
    assert metrics["value"][0] == pytest.approx(recall_at_3(folder / "model", cut))
    assert max(metrics["value"][1:]) == pytest.approx(recall_at_3(artifact.directory("model"), cut))
    assert max(metrics["value"][1:]) > metrics["value"][0]
    assert any(re.search(r"\d% of peak  dev recall@3 0\.\d{3}$", note) for note in progress.notes)

    table, logged = (
        artifact.read("training_steps").to_pydict(),
        events(artifact.directory("tensorboard")),
    )
    for column in ("loss", "learning_rate", "gradient_norm"):
        assert list(logged[f"train/{column}"].values()) == pytest.approx(table[column], rel=1e-6)
    assert min(logged["train/tokens_per_s"].values()) > 0
    assert list(logged["dev/recall_at_3"].values())[1:] == pytest.approx(metrics["value"][1:], abs=1e-6)


@pytest.fixture(scope="module")
def diverged(session, folder, trained):
    """Return the step at which a training of two workers must stop, what it says, and the store with its scratch."""
    losses = trained[1].read("training_steps").column("loss").to_pylist()
    ratios = [loss / np.mean(losses[:step]) for step, loss in enumerate(losses) if step]
    limit = 1 + (ratios[int(np.argmax(ratios))] - 1) / 2
    expected = next(step for step, ratio in enumerate(ratios, 1) if ratio > limit)
    settings = {"max_loss_ratio": limit, "max_loss_steps": 1, "checkpoint_every_steps": 1}
    store = ArtifactStore(str(folder / "diverging"))
    with pytest.raises(UserError) as caught:
        compute(training(folder, session, **settings)["trained"], store, session, Silent())
    return expected, str(caught.value), store


def test_a_diverging_loss_names_the_step_and_the_queries(diverged):
    step, text, _ = diverged
    assert re.search(rf"step {step}, queries q\d+, .*diverges", text)


class Beginning(Silent):
    """Progress that remembers where it began."""

    def total(self, total, unit, done=0):
        super().total(total, unit, done)
        self.begun = done


def test_one_worker_goes_on_where_two_ended(session, folder, diverged, trained):
    step, _, store = diverged
    role = session.definition.roles.train.model_copy(update={"workers": 1})
    roles = session.definition.roles.model_copy(update={"train": role})
    alone, before = session.definition.model_copy(update={"roles": roles}), session.definition
    session.definition, progress = alone, Beginning()
    try:
        artifact = compute(training(folder, session)["trained"], store, session, progress)
    finally:
        session.definition = before
    assert artifact.manifest.summary["workers"] == 1 and progress.begun == step > 0
    assert artifact.manifest.fingerprint == trained[1].manifest.fingerprint
    found, expected = (each.read("training_steps").to_pydict() for each in (artifact, trained[1]))
    assert found["step"] == expected["step"] and found["tokens"] == expected["tokens"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    after, reference = (load_encoder(each.directory("model")).state_dict() for each in (artifact, trained[1]))
    for name, weight in after.items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(
                weight, reference[name], rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_identical_texts_are_one_document_of_the_plan(trained, store):
    steps, _, _ = trained
    plan = store.find("plan", steps["plan"].label, steps["plan"].fingerprint)
    order = plan.read("order").to_pydict()
    used = set(order["positive"]) | {doc for row in order["negatives"] for doc in row}
    assert 1 in used and 70 not in used
    assert plan.manifest.summary["steps"] == NUM_STEPS
    assert plan.manifest.counters["negatives_missing"] == 2 * math.ceil(NUM_QUERIES / 9)


def test_the_scratch_is_removed_with_the_commit(trained, store):
    _, artifact, _ = trained
    assert not [key for key in store.storage.list(artifact.key) if "scratch" in key]


def test_zero_3_in_bfloat16_stops_early_on_all_ranks_without_a_gain(session, folder, store):
    settings = {
        "zero_stage": 3,
        "dtype": "bfloat16",
        "dropout": 0.1,
        "gradient_checkpointing": True,
        "learning_rate": 1e-12,
        "dev": {**DEV, "every_steps": 1, "patience": 2},
    }
    artifact = compute(training(folder, session, **settings)["trained"], store, session, Silent())
    assert artifact.read("training_steps").num_rows == 2
    metrics = artifact.read("training_metrics")
    assert metrics.column("steps").to_pylist() == [0, 1, 2]
    assert len(set(metrics.column("value").to_pylist())) == 1
    assert set(digests(artifact)) > {"model/model.safetensors", "training_steps"}


def test_experts_shared_by_the_ranks_come_back_as_one_model(session, folder, store):
    moe = {"where": "ffn", "num_experts": 2, "layers": [1], "engine": "deepspeed"}
    settings = {"zero_stage": 2, "moe": moe, "dev": {**DEV, "keep": "best"}, "epochs": 1}
    artifact = compute(training(folder, session, **settings)["trained"], store, session, Silent())
    encoder = load_encoder(artifact.directory("model"))
    (block,) = moe_blocks(encoder)
    for weight_EOI in (block.up.weight, block.down.weight):
        assert not torch.equal(weight_EOI[0], weight_EOI[1])
    assert artifact.read("training_steps").column("largest_expert_share").null_count == 0
    assert artifact.read("training_metrics").num_rows > 1


def test_adapters_on_a_weighted_sum_of_losses_chunk_by_chunk_while_negatives_give_way(session, folder, store):
    from peft import PeftModel

    settings = {
        "zero_stage": 3,
        "lora": {"rank": 4, "targets": ["query", "intermediate.dense"], "keep_adapter": True},
        "gradcache_chunk": 4,
        "epochs": 3,
        "num_negatives": 1,
        "dynamic_negatives": {"ratio": 1.001, "max_score": 1.0},
        "schedule": "cosine",
        "warmup_steps": 1,
        "loss": [
            {"name": "clp", "false_negative_margin": 0.1},
            {"name": "soft_labels", "weight": 0.5, "teacher": "tiny", "teacher_temperature": 0.1},
        ],
    }
    artifact = compute(training(folder, session, **settings)["trained"], store, session, Silent())
    base, merged = load_encoder(folder / "model"), load_encoder(artifact.directory("model"))
    before, after = base.state_dict(), merged.state_dict()
    assert before.keys() == after.keys()
    for name, weight in after.items():
        targeted = name.endswith(("query.weight", "intermediate.dense.weight"))
        assert torch.equal(weight, before[name]) is not targeted, name
    adapted = PeftModel.from_pretrained(base.backbone, str(artifact.directory("adapter"))).merge_and_unload()
    for name, weight in adapted.state_dict().items():
        torch.testing.assert_close(weight, after[f"backbone.{name}"], msg=lambda m, n=name: f"{n}: {m}")
    rates = artifact.read("training_steps").column("learning_rate").to_numpy()
    assert rates[1] == pytest.approx(1e-3) and rates[-1] < 1e-3 / 10
    replaced = artifact.read("training_steps").column("replaced_negatives").to_pylist()
    epoch = math.ceil(NUM_QUERIES / 16)
    assert not any(replaced[:epoch]) and 0 < sum(replaced[epoch : 2 * epoch]) <= NUM_QUERIES


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # The ranks refuse the first, the driver the second.
        ({"lora": {"targets": ["q_proj"]}}, r"attention\.self\.query"),
        ({"loss": {"name": "soft_labels", "teacher": "judge"}}, r"tiny"),
    ],
)
def test_what_does_not_fit_the_model_or_the_plan_is_refused_before_the_first_step(
    session, folder, store, settings, words
):
    step, progress = training(folder, session, **settings)["trained"], Silent()
    with pytest.raises((UserError, ModelError), match=words):
        compute(step, store, session, progress)
    assert not progress.seen


def test_more_negatives_than_mined_are_refused_before_training(session, folder, store):
    with pytest.raises(UserError, match=r"lower train\.num_negatives to 3"):
        compute(training(folder, session, num_negatives=4)["trained"], store, session, Silent())
