"""Tiny models and data sets, built on the spot."""

import json
from pathlib import Path

import pytest

WORDS = "the mine is deep and its ore rich so a shaft leads down to where gold lies in the vein".split()  # noqa: SIM905


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A BERT of two layers with its weights, without a tokenizer; do not write to it."""
    from transformers import BertConfig, BertModel

    directory = tmp_path_factory.mktemp("tiny") / "bert"
    config = BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(str(directory))
    return directory


@pytest.fixture
def beir(tmp_path) -> Path:
    """A BEIR folder: 40 documents, 10 queries for training with two positives each, 4 for testing with one."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "", "text": " ".join(WORDS[: 3 + i % 10])} for i in range(40)]
    queries = [{"_id": f"q{i}", "text": " ".join(WORDS[: 2 + i % 3])} for i in range(14)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = "query-id\tcorpus-id\tscore\n"
    train = [(f"q{i}", f"d{i + shift}", 1) for i in range(10) for shift in (0, 20)]
    test = [(f"q{i}", f"d{i}", 1) for i in range(10, 14)]
    for split, rows in (("train", train), ("test", test)):
        lines = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (folder / "qrels" / f"{split}.tsv").write_text(header + lines)
    return folder


@pytest.fixture
def recipe_file(tmp_path, beir, tiny_bert) -> Path:
    """A recipe of that data and that model."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"name: tiny\ndata: {{kind: beir, name: tiny, path: {beir}}}\n"
        f"model: {{source: {tiny_bert}, max_query_tokens: 16, max_document_tokens: 32}}\n"
        "train: {epochs: 2, batch_size: 4, num_negatives: 1}\n"
    )
    return path
