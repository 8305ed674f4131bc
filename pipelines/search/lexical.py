"""BM25 as a retriever: the same candidates table as a dense search, without a model."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from pipelines import schemas
from pipelines.steps import Step, Work

STAGE_VERSION = 1
SHARD = 0


def lexical_step(data: Step, split: str, retrieval_depth: int) -> Step:
    """Find the best documents for the queries of one split by BM25.

    Returns:
        A step whose artifact has the table `candidates`; positives beyond the depth have no row.
    """
    return Step(
        stage="search",
        label=f"{data.label}-bm25-{split}",
        stage_version=STAGE_VERSION,
        identity={"retriever": "bm25", "split": split, "retrieval_depth": retrieval_depth},
        libraries=("bm25s", "numpy", "regex"),
        inputs={"data": data},
        run=partial(_run, split=split, retrieval_depth=retrieval_depth),
    )


def _run(work: Work, split: str, retrieval_depth: int) -> Artifact:
    data = work.inputs["data"]
    work.progress.total(1, "index")
    if work.writer.missing("candidates", 1):
        table = work.session.run_on("search", bm25_candidates, data, split, retrieval_depth)
        work.writer.write_shard("candidates", SHARD, table)
    work.progress.advance()
    return work.commit({"candidates": 1})


def bm25_candidates(data: Artifact, split: str, retrieval_depth: int) -> pa.Table:
    """Index all documents in memory and rank them for the queries of ``split``; schema CANDIDATES."""
    from models.lexical import Bm25

    documents = data.read("documents", columns=["title", "text"])
    qrels = data.read("qrels", columns=["query", "doc", "split"])
    pairs = qrels.filter(pc.equal(qrels.column("split"), split))
    queries = data.read("queries", columns=["query", "text"])
    queries = queries.filter(pc.is_in(queries.column("query"), pairs.column("query").unique()))
    query_ids = queries.column("query").to_numpy()
    depth = min(retrieval_depth, documents.num_rows)
    scores_QK, docs_QK = Bm25(schemas.rendered_texts(documents)).search(
        schemas.rendered_texts(queries), depth
    )
    found = docs_QK >= 0
    rank_QK = np.broadcast_to(np.arange(1, docs_QK.shape[1] + 1), docs_QK.shape)
    query_QK = np.broadcast_to(query_ids[:, None], docs_QK.shape)
    labelled = pairs.column("query").to_numpy() * documents.num_rows + pairs.column("doc").to_numpy()
    table = pa.table(
        {
            "query": query_QK[found],
            "doc": docs_QK[found],
            "rank": rank_QK[found].astype(np.int32),
            "score": scores_QK[found].astype(np.float32),
            "is_positive": np.isin((query_QK * documents.num_rows + docs_QK)[found], labelled),
        }
    )
    return schemas.conform(table, schemas.CANDIDATES)
