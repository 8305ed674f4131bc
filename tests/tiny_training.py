"""A training that takes seconds: a tiny BERT, a tiny data set, real steps on a real local cluster.

python tests/tiny_training.py FOLDER [train.key=value ...]  trains in FOLDER and prints the digest of the model.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.artifacts import ArtifactStore
from cluster.definition import load_definition
from cluster.session import Session
from pipelines import schemas
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.steps import Step, Work
from pipelines.train.config import TrainConfig
from pipelines.train.cross_encoder import CrossEncoderModel
from pipelines.train.pipeline import plan_step, train_step

MARK = "STOPE_TEST_MARK"
"""Environment variable by which the processes of a session are found."""
LIMITS = {"max_query_tokens": 10, "max_document_tokens": 40}
WORDS = [f"w{index}" for index in range(200)]
NUM_QUERIES, NUM_DOCUMENTS = 60, 100
SETTINGS = {
    "epochs": 2, "batch_size": 16, "num_negatives": 2, "learning_rate": 1e-3, "dtype": "float32",
    "checkpoint_every_steps": 3,
}  # fmt: skip


def make_model(directory):
    """Write a BERT of 3,000 weights with its tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(directory)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(directory)


def data_step():
    """Return a step that writes documents of random words, and queries that share a word with their document."""
    return Step("ingest", "tiny", 1, {}, (), {}, _write_data)


def _write_data(work: Work):
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(WORDS, generator.integers(5, 30))) for _ in range(NUM_DOCUMENTS)]
    # A copy under another ordinal, which the plan must know for the same text.
    documents[70] = documents[1]
    queries = [f"{documents[i].split()[0]} {WORDS[i]}" for i in range(NUM_QUERIES)]
    for index, docs in enumerate(np.array_split(np.arange(NUM_DOCUMENTS), 2)):
        columns = {
            "doc": docs, "doc_id": [f"d{i}" for i in docs], "title": [None] * len(docs),
            "text": [documents[i] for i in docs], "dataset": ["tiny"] * len(docs), "language": ["en"] * len(docs),
        }  # fmt: skip
        work.writer.write_shard("documents", index, pa.table(columns, schema=schemas.DOCUMENTS))
    number = np.arange(NUM_QUERIES)
    columns = {
        "query": number, "query_id": [f"q{i}" for i in number], "text": queries, "dataset": ["tiny"] * NUM_QUERIES,
        "task": [""] * NUM_QUERIES, "language": ["en"] * NUM_QUERIES,
    }  # fmt: skip
    work.writer.write_shard("queries", 0, pa.table(columns, schema=schemas.QUERIES))
    columns = {
        "query": number,
        "doc": number,
        "relevance": [1.0] * NUM_QUERIES,
        "split": ["train"] * NUM_QUERIES,
    }
    work.writer.write_shard("qrels", 0, pa.table(columns, schema=schemas.QRELS))
    return work.commit({"documents": 2, "queries": 1, "qrels": 1})


def groups_step(data):
    """Return a step that draws three negatives a query, for some fewer; most of them answer another query."""
    return Step("select", "tiny", 2, {}, (), {"data": data}, _write_groups)


def _write_groups(work: Work):
    generator = np.random.default_rng(1)
    rows = []
    for query in range(NUM_QUERIES):
        negatives = generator.choice(np.arange(60, NUM_DOCUMENTS), 1 if query % 9 == 0 else 3, replace=False)
        rows.append(
            {
                "query": query,
                "task": "",
                "dataset": "tiny",
                "positives": [{"doc": query, "scores": [1.0]}],
                "negatives": [
                    {
                        "doc": int(doc),
                        "scores": [0.5 - 0.1 * rank],
                        "teacher": 0,
                        "rank": rank,
                        "answers": [int(doc) - 60] if doc % 3 else [],
                    }
                    for rank, doc in enumerate(negatives)
                ],
            }
        )
    work.writer.write_shard("groups", 0, pa.Table.from_pylist(rows, schema=schemas.GROUPS))
    return work.commit({"groups": 1}, {"teachers": ["tiny"]})


def training(folder, session, **settings):
    """Return the steps of a training in ``folder``, whose model lies in ``folder/model``."""
    if not (folder / "model").is_dir():
        make_model(folder / "model")
    config = ModelConfig(
        source=str(folder / "model"), max_query_tokens=16, max_document_tokens=48, dtype="float32"
    )
    model = Model.resolve(config, session)
    train = TrainConfig(**{**SETTINGS, **settings})
    data = data_step()
    groups = groups_step(data)
    plan = plan_step(data, groups, model, train)
    return {
        "data": data,
        "groups": groups,
        "plan": plan,
        "trained": train_step(plan, model, train),
    }


def cross_training(folder, session, **settings):
    """Return the steps that train a cross-encoder, made of the model in ``folder/model``."""
    train = TrainConfig(**{**SETTINGS, "cross_encoder": LIMITS, **settings})
    if not (folder / "model").is_dir():
        make_model(folder / "model")
    model = CrossEncoderModel.begin(train.cross_encoder, str(folder / "model"), train.seed, session)
    data = data_step()
    plan = plan_step(data, groups_step(data), model, train)
    return {"data": data, "untrained": model.start, "plan": plan, "trained": train_step(plan, model, train)}


def candidates_step(data, depth=8):
    """Return a step that finds each query's document last, behind some of those that negatives are drawn from."""
    return Step(
        "search", "tiny", 1, {"depth": depth}, (), {"data": data}, partial(_write_candidates, depth=depth)
    )


def _write_candidates(work: Work, depth: int):
    query, place = np.repeat(np.arange(NUM_QUERIES), depth), np.tile(np.arange(depth), NUM_QUERIES)
    last = place == depth - 1
    columns = {
        "query": query, "doc": np.where(last, query, 60 + (query * 7 + place) % 40), "rank": place + 1,
        "score": 1.0 - 0.1 * place, "is_positive": last,
    }  # fmt: skip
    work.writer.write_shard("candidates", 0, schemas.conform(pa.table(columns), schemas.CANDIDATES))
    return work.commit({"candidates": 1})


class Silent:
    """Progress that remembers what it was told."""

    def __init__(self):
        self.notes = []
        self.seen = []
        self.done = 0

    def begin(self, stage):
        pass

    def total(self, total, unit, done=0):
        self.done = done

    def advance(self, amount=1, note=""):
        self.done += amount
        self.seen.append(self.done)
        self.notes.append(note)

    def note(self, note):
        self.notes.append(note)

    def log(self, line):
        self.notes.append(line)


class Printing(Silent):
    """The same, and it says at once how far the training is."""

    def advance(self, amount=1, note=""):
        super().advance(amount, note)
        print("at", self.done, flush=True)


def compute(step, store, session, progress):
    """Return the artifact of ``step``, computing it and its inputs where they are absent."""
    found = store.find(step.stage, step.label, step.fingerprint)
    if found is not None:
        return found
    inputs = {name: compute(source, store, session, progress) for name, source in step.inputs.items()}
    writer = store.open(step.stage, step.label, step.fingerprint)
    return step.run(Work(step, inputs, writer, session, progress))


def digests(artifact):
    """Return the digests of everything that a training makes."""
    files = {stored.name: stored.sha256 for stored in artifact.manifest.files}
    return {**files, "training_steps": artifact.manifest.tables["training_steps"].shards[0].sha256}


def local_session():
    return Session(load_definition("local"))


def main():
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = Path(sys.argv[1])
    settings = {
        key.removeprefix("train."): json.loads(value) for key, value in (s.split("=") for s in sys.argv[2:])
    }
    with local_session() as session:
        step = training(folder, session, **settings)["trained"]
        print("scratch", folder / "store" / step.key / "scratch", flush=True)
        progress = Printing()
        artifact = compute(step, ArtifactStore(str(folder / "store")), session, progress)
    print("seen", json.dumps(progress.seen), flush=True)
    print("digests", json.dumps(digests(artifact)), flush=True)


if __name__ == "__main__":
    main()
