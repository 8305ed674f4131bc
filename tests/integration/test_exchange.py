"""Exported files in the hands of the libraries that they are meant for."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cluster.runs import Run
from pipelines.exchange.config import ExportConfig
from pipelines.exchange.exports import artifacts_of, export_run
from tests.tiny_training import make_model
from tests.unit.pipelines.exchange.conftest import make_run

SCALE = 20.0


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    store = make_run(tmp_path_factory.mktemp("exchange") / "store")
    return artifacts_of(store, Run.find(store.storage, "latest"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return SentenceTransformer(str(folder), device="cpu").eval()


def exported(mined, path, **settings):
    export_run(mined, "sentence-transformers", ExportConfig(**settings), path, False, lambda _: None)
    return pq.read_table(path).to_pylist()


def collated(model, rows):
    """What the trainer's collator makes of the rows, a dict of tensors a text column, and the labels."""
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

    batch = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)(rows)
    columns = [name for name in rows[0] if name not in ("scores", "label", "score", "labels")]
    ends = ("input_ids", "attention_mask", "token_type_ids")
    features = [{end: batch[f"{name}_{end}"] for end in ends if f"{name}_{end}" in batch} for name in columns]
    return columns, features, batch.get("label")


@pytest.mark.parametrize(("shape", "width"), [("pair", 0), ("triplet", 1), ("n-tuple", 2)])
def test_sentence_transformers_trains_on_the_columns(mined, model, tmp_path, shape, width):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    rows = exported(mined, tmp_path / "mined.parquet", shape=shape)
    columns, features, label = collated(model, rows)
    assert columns[:2] == ["anchor", "positive"] and len(columns) == 2 + width
    assert label is None if shape == "pair" else label.shape == (len(rows), 1 + width)
    with torch.no_grad():
        loss = MultipleNegativesRankingLoss(model, scale=SCALE)(features, label).item()
    anchors = model.encode([row["anchor"] for row in rows], normalize_embeddings=True)
    # All positives first, then each column of negatives: every one is a negative of all other rows.
    texts = [row[name] for name in columns[1:] for row in rows]
    logits = SCALE * anchors @ model.encode(texts, normalize_embeddings=True).T
    naive = [np.log(np.exp(row - row.max()).sum()) + row.max() - row[i] for i, row in enumerate(logits)]
    assert loss == pytest.approx(np.mean(naive), rel=1e-4)


def test_scores_are_what_a_distillation_loss_takes(mined, model, tmp_path):
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    rows = exported(mined, tmp_path / "mined.parquet", shape="triplet", teacher="dense")
    _, features, label = collated(model, rows)
    assert label.tolist() == [row["scores"] for row in rows]
    margins = label[:, :1] - label[:, 1:]
    with torch.no_grad():
        loss = MarginMSELoss(model)(features, margins).item()
    query, positive, negative = (
        model.encode([row[name] for row in rows]) for name in ("anchor", "positive", "negative")
    )
    wanted = (query * positive).sum(1) - (query * negative).sum(1) - margins[:, 0].numpy()
    assert loss == pytest.approx((wanted**2).mean(), rel=1e-4)


def test_labeled_pairs_have_one_label_column(mined, model, tmp_path):
    rows = exported(mined, tmp_path / "mined.parquet", shape="labeled-pair")
    columns, _, label = collated(model, rows)
    assert columns == ["anchor", "document"] and set(label.tolist()) == {0, 1}


def test_datasets_loads_what_is_exported(mined, tmp_path):
    import datasets

    rows = exported(mined, tmp_path / "mined.parquet")
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "mined.parquet"), split="train")
    assert loaded.to_list() == rows
    path = tmp_path / "mined.jsonl"
    export_run(mined, "flagembedding", ExportConfig(), path, False, lambda _: None)
    loaded = datasets.load_dataset("json", data_files=str(path), split="train")
    assert loaded.to_list() == [json.loads(line) for line in path.read_text().splitlines()]


def test_trec_files_are_measured_alike(mined, tmp_path):
    """ir_measures reads the files; the values are those of a loop over the candidates."""
    import ir_measures
    from ir_measures import RR, nDCG

    export_run(mined, "trec", ExportConfig(split="train"), tmp_path / "trec", False, lambda _: None)
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "trec/qrels/train.txt")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "trec/runs/search-tiny.train.txt")))
    measured = ir_measures.calc_aggregate([RR, nDCG @ 10], qrels, run)
    # q0: its documents are at rank 2 (relevance 1) and nowhere (2); q1: rank 1; q2 has no ranking.
    gain = (1 / np.log2(3)) / (2 + 1 / np.log2(3))
    assert measured[RR] == pytest.approx((0.5 + 1 + 0) / 3)
    assert measured[nDCG @ 10] == pytest.approx((gain + 1 + 0) / 3)
