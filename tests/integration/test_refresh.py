"""Negatives mined anew in the middle of a training, on a real local session, against brute force."""

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from cluster.committed import find_committed
from models.checkpoint import load_encoder
from models.inference import embed
from pipelines import schemas
from pipelines.model import Model
from pipelines.recipe import load_recipe
from pipelines.report.tables import Audit
from pipelines.run import plan
from pipelines.train.pipeline import train_step
from tests.tiny_mining import write_inputs
from tests.tiny_training import Silent, compute

EVERY, NUM_STEPS, DEPTH = 6, 10, 20
SETTINGS = (
    "mine.teachers={dense: {kind: dense}}",
    f"mine.search={{retrieval_depth: {DEPTH}, max_retrieval_depth: {DEPTH}}}",
    "mine.select={teachers: [dense], num_negatives: 2, filter: {method: naive}}",
    "encode.precision=float32",
    "train={num_negatives: 2, batch_size: 4, epochs: 2, learning_rate: 0.005, temperature: 0.2, dtype: float32, "
    f"warmup_steps: 0, refresh_every_steps: {EVERY}}}",
)


def hardest(directory, data, tokenizer):
    """Return query -> its two best documents that are not labelled, by brute force with the model of a directory."""
    encoder = load_encoder(directory)
    emb = {
        kind: embed(encoder, tokenizer.tokenize(schemas.rendered_texts(data.read(table)), kind))
        for kind, table in (("query", "queries"), ("document", "documents"))
    }
    labelled = {(row["query"], row["doc"]) for row in data.read("qrels").to_pylist()}
    ranked_QN = np.argsort(-(emb["query"] @ emb["document"].T), axis=1, kind="stable")
    return {
        query: [int(doc) for doc in ranked if (query, int(doc)) not in labelled][:2]
        for query, ranked in enumerate(ranked_QN)
    }


def planned(artifact, first, last):
    """Return query -> its negatives in some steps of a plan."""
    rows = artifact.read("order").to_pylist()
    return {row["query"]: row["negatives"] for row in rows if first <= row["step"] < last}


def test_the_batches_go_on_with_what_the_model_confuses_now(session, here, tmp_path):
    recipe = load_recipe(str(write_inputs(tmp_path)), SETTINGS)
    steps, store = plan(recipe, session), ArtifactStore(str(tmp_path / "store"))
    trained, model = steps["trained"], Model.resolve(recipe.model, session)
    seen = []

    def lost(tuned):
        seen.append(tuned)
        raise ConnectionError("while the negatives were mined anew")

    # What is lost between two stretches goes on there.
    interrupted = train_step(steps["order"], model, recipe.train, lost)
    assert interrupted.fingerprint == trained.fingerprint
    with pytest.raises(ConnectionError):
        compute(interrupted, store, session, Silent())
    progress = Silent()
    artifact = compute(trained, store, session, progress)

    until = find_committed(store.storage, seen[0].trained_by.key)
    assert until.manifest.identity["config"]["until"] == EVERY
    table = artifact.read("training_steps").to_pydict()
    assert table["step"] == list(range(NUM_STEPS))
    assert {name: column[:EVERY] for name, column in table.items()} == until.read(
        "training_steps"
    ).to_pydict()
    # One schedule: it does not begin anew.
    rates = table["learning_rate"]
    assert rates[0] == max(rates) and rates == pytest.approx(
        [0.005 * (1 - k / NUM_STEPS) for k in range(NUM_STEPS)]
    )

    (audited,) = (store.get(key) for key in artifact.manifest.summary["audits"])
    audit = Audit.read(audited)
    assert audit.methods == ["naive"] and audit.measures()["negatives"]["naive"]["value"] > 0

    plans = [manifest for manifest in store.list() if manifest.stage == "plan"]
    assert len(plans) == 2 and any("mined anew" in note for note in progress.notes)
    first, second = sorted(
        (store.get(each.key) for each in plans), key=lambda each: "model" in each.manifest.inputs
    )
    assert second.manifest.inputs["model"] == until.manifest.key
    data, tokenizer = store.get(first.manifest.inputs["data"]), model.locate({}).tokenizer()
    before = hardest(tmp_path / "model", data, tokenizer)
    after = hardest(until.directory("model"), data, tokenizer)
    for made, expected, span in ((first, before, (0, NUM_STEPS)), (second, after, (EVERY, NUM_STEPS))):
        taken = planned(made, *span)
        assert taken and taken == {query: expected[query] for query in taken}
    assert sum(before[query] != after[query] for query in planned(second, EVERY, NUM_STEPS)) > 3
