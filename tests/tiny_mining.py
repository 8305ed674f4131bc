"""A collection in BEIR's layout, tiny models and a recipe whose mining exercises every stage in seconds."""

import json
from pathlib import Path

import numpy as np
from rich.console import Console

from cluster.artifacts import Artifact, ArtifactStore
from cluster.runs import Run
from cluster.session import Session
from pipelines.execute import execute
from pipelines.progress import Progress
from pipelines.recipe import load_recipe
from pipelines.run import plan
from tests.tiny_rerankers import WORDS, make_cross_encoder
from tests.tiny_training import make_model

RECIPE = """
name: faults
data: {kind: beir, name: tiny, path: collection, shard_tokens: 400, query_shard_tokens: 60}
model: {source: MODEL, max_query_tokens: 16, max_document_tokens: 48, dtype: float32}
encode: {token_budget: 512}
mine:
  teachers:
    dense: {kind: dense}
    judge:
      {kind: reranker, over: dense, depth: 6, row_tokens: 1500, group_pairs: 100,
       model: {source: JUDGE, max_query_tokens: 8, max_document_tokens: 40, dtype: float32, token_budget: 512}}
  search: {retrieval_depth: 10, max_retrieval_depth: 10, range_queries: 8, tile_queries: 4, group_mb: 1}
  select: {teachers: [judge], num_negatives: 2, filter: {method: naive}}
train: {num_negatives: 2}
"""
"""Paths count from the recipe's folder but for models, which are named as they are."""

Digests = dict[str, list[tuple[str, str]]]


def random_texts(count: int, shortest: int, longest: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(shortest, longest))) for _ in range(count)]


def write_collection(
    folder: Path, documents: dict[str, str], queries: dict[str, str], qrels: list[tuple[str, str, str]]
) -> None:
    """Write corpus, queries and judgments (split, query, document) in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    for split in ("train", "test"):
        rows = [f"{query}\t{doc}\t1\n" for each, query, doc in qrels if each == split]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))


def write_inputs(
    folder: Path, num_documents: int = 80, num_queries: int = 24, collection: bool = True
) -> Path:
    """Write models, recipe and, where wanted, a plain collection into ``folder``; returns the recipe's path."""
    make_model(folder / "model")
    make_cross_encoder(folder / "judge")
    recipe = RECIPE.replace("MODEL", str(folder / "model")).replace("JUDGE", str(folder / "judge"))
    (folder / "recipe.yaml").write_text(recipe)
    if collection:
        documents = random_texts(num_documents, 4, 40)
        queries = random_texts(num_queries, 2, 5, seed=1)
        qrels = [("test" if q % 6 == 5 else "train", f"q{q}", f"d{q}") for q in range(num_queries)]
        write_collection(
            folder / "collection",
            {f"d{i}": text for i, text in enumerate(documents)},
            {f"q{i}": text for i, text in enumerate(queries)},
            qrels,
        )
    return folder / "recipe.yaml"


def mine(
    recipe: Path,
    store: ArtifactStore,
    session: Session,
    *settings: str,
    wanted: tuple[str, ...] = ("groups", "audit"),
) -> dict[str, Artifact]:
    """Do what `stope mine run` does, within ``session``; returns the artifacts by the (first) names of their steps."""
    loaded = load_recipe(str(recipe), settings)
    steps = plan(loaded, session)
    run = Run.create(store.storage, loaded.model_dump(mode="json"), {}, loaded.name)
    done = execute(steps, wanted, store, session, Progress(Console(quiet=True)), run)
    run.finish("done")
    made: dict[str, Artifact] = {}
    for name, each in done.items():
        if each.artifact is not None and each.artifact not in made.values():
            made[name] = each.artifact
    return made


def digests(root: Path) -> Digests:
    """Return every committed artifact -> its shards and files with their sha256.

    `deltas` is left out: which files of the score store the scores were read from is a matter of history.
    """
    return {
        manifest.key: [
            (f"{shard.table}-{shard.index}", shard.sha256)
            for name, table in manifest.tables.items()
            if name != "deltas"
            for shard in table.shards
        ]
        + [(file.name, file.sha256) for file in manifest.files]
        for manifest in ArtifactStore(str(root)).list()
    }
