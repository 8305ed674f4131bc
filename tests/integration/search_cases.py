"""Small ingest and encode artifacts for searches, and what brute force finds in them."""

import numpy as np
import pyarrow as pa
from rich.console import Console

from cluster.artifacts import Artifact, ArtifactStore
from models.search.exact import pair_scores
from pipelines import schemas
from pipelines.progress import Progress
from pipelines.steps import Step, Work

WORDS = np.array(
    ["ore", "shaft", "drift", "seam", "vein", "lode", "adit", "stope", "tunnel", "winze", "sump"]
)


class Mine:
    """A store with one ingest artifact and one encode artifact, and a way to run steps over them.

    Args:
        root: Folder of the store.
        session: The cluster; None where a step must not need one.
        doc_ND: Embeddings of the rows of documents, float32.
        q_QD: Embeddings of all queries, float32.
        row_docs: Document of every row; None: one row a document.
        documents_a_shard: Of the ingest artifact.
        queries_a_shard: Of the ingest artifact.
    """

    def __init__(
        self, root, session, doc_ND, q_QD, row_docs=None, documents_a_shard=40, queries_a_shard=8, seed=0
    ):
        self.store, self.session = ArtifactStore(str(root)), session
        self.doc_ND, self.q_QD = doc_ND.astype(np.float16), q_QD.astype(np.float16)
        self.row_docs = np.arange(len(doc_ND)) if row_docs is None else row_docs
        self.num_documents = int(self.row_docs.max()) + 1
        rng = np.random.default_rng(seed)
        self.texts = [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(self.num_documents)]
        self.questions = [" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(len(q_QD))]
        self.pairs = sorted(
            {
                (query, int(doc))
                for query in range(len(q_QD))
                for doc in rng.integers(0, self.num_documents, 1 + query % 2)
            }
        )
        # Queries of two splits lie side by side in every shard.
        self.split = ["train" if query % 3 else "test" for query in range(len(q_QD))]
        self.data = self._ingest(documents_a_shard, queries_a_shard)
        self.embeddings = self._encode(documents_a_shard, queries_a_shard)

    def run(self, step: Step) -> Artifact:
        """Run a step over what is in the store, unless it is there."""
        found = self.store.find(step.stage, step.label, step.fingerprint)
        if found:
            return found
        inputs = {name: self.store.get(of.key) for name, of in step.inputs.items()}
        writer = self.store.open(step.stage, step.label, step.fingerprint)
        return step.run(Work(step, inputs, writer, self.session, Progress(Console(quiet=True))))

    def queries_of(self, split: str) -> list[int]:
        return [query for query in range(len(self.q_QD)) if self.split[query] == split]

    def ranked(self, split: str, depth: int, queries=None) -> list[tuple]:
        """Return the rows of `candidates` that brute force finds: query, doc, rank, is_positive."""
        rows = []
        for query in queries if queries is not None else self.queries_of(split):
            score = self.scores(query)
            order = sorted(range(self.num_documents), key=lambda doc: (-score[doc], doc))[:depth]
            positives = {doc for asked, doc in self.pairs if asked == query}
            rows += [(query, doc, rank, doc in positives) for rank, doc in enumerate(order, 1)]
            rows += [(query, doc, 0, True) for doc in sorted(positives - set(order))]
        return rows

    def scores(self, query: int) -> np.ndarray:
        """Return the score of every document, that of its best row."""
        rows = np.arange(len(self.doc_ND))
        by_row = pair_scores(self.q_QD[query : query + 1], self.doc_ND, np.zeros_like(rows), rows)
        best = np.full(self.num_documents, -np.inf, np.float32)
        np.maximum.at(best, self.row_docs, by_row)
        return best

    def step(self, stage: str, tables: dict[str, list[pa.Table]], summary=None) -> Step:
        """Commit tables as the artifact of a step of its own."""

        def run(work):
            for table, shards in tables.items():
                for index, shard in enumerate(shards):
                    work.writer.write_shard(table, index, shard)
            return work.commit({table: len(shards) for table, shards in tables.items()}, summary)

        digest = [[shard.to_pydict() for shard in shards] for shards in tables.values() if stage != "encode"]
        step = Step(stage, "small", 1, {"content": str(digest)}, (), {}, run)
        self.run(step)
        return step

    def starved(self, shards: list[list[int]]) -> Step:
        schema = pa.schema([pa.field("query", pa.int64(), nullable=False)])
        return self.step("select", {"starved": [pa.table({"query": q}, schema=schema) for q in shards]})

    def _ingest(self, documents_a_shard: int, queries_a_shard: int) -> Step:
        documents = pa.table(
            {
                "doc": np.arange(self.num_documents),
                "doc_id": [f"d{doc}" for doc in range(self.num_documents)],
                "title": pa.nulls(self.num_documents, pa.string()),
                "text": self.texts,
                "dataset": ["small"] * self.num_documents,
                "language": pa.nulls(self.num_documents, pa.string()),
            }
        )
        count = len(self.questions)
        queries = pa.table(
            {
                "query": np.arange(count),
                "query_id": [f"q{query}" for query in range(count)],
                "text": self.questions,
                "dataset": ["small"] * count,
                "task": ["retrieval"] * count,
                "language": pa.nulls(count, pa.string()),
            }
        )
        query, doc = (list(column) for column in zip(*self.pairs, strict=True))
        qrels = pa.table(
            {
                "query": query,
                "doc": doc,
                "relevance": np.ones(len(query), np.float32),
                "split": [self.split[each] for each in query],
            }
        )
        return self.step(
            "ingest",
            {
                "documents": cut(schemas.conform(documents, schemas.DOCUMENTS), documents_a_shard),
                "queries": cut(schemas.conform(queries, schemas.QUERIES), queries_a_shard),
                "qrels": [schemas.conform(qrels, schemas.QRELS)],
            },
        )

    def _encode(self, documents_a_shard: int, queries_a_shard: int) -> Step:
        edges = np.searchsorted(self.row_docs, np.arange(0, self.num_documents, documents_a_shard)).tolist()
        documents = embeddings_table(self.row_docs, self.doc_ND)
        stops = [*edges[1:], len(self.row_docs)]
        queries = embeddings_table(np.arange(len(self.q_QD)), self.q_QD)
        # As where a split is not asked for: shards are those of the ingest artifact, without its queries.
        asked = pa.array([split == "train" for split in self.split])
        kept = zip(cut(queries, queries_a_shard), range(0, len(asked), queries_a_shard), strict=True)
        return self.step(
            "encode",
            {
                "documents": [documents.slice(a, b - a) for a, b in zip(edges, stops, strict=True)],
                "queries": [shard.filter(asked.slice(start, queries_a_shard)) for shard, start in kept],
            },
            {"dimension": self.doc_ND.shape[1]},
        )


def cut(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]


def embeddings_table(ids: np.ndarray, x_ND: np.ndarray) -> pa.Table:
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x_ND).ravel()), x_ND.shape[1])
    return schemas.conform(
        pa.table({"id": ids, "embedding": values}), schemas.embeddings(x_ND.shape[1], str(x_ND.dtype))
    )


def tied_embeddings(num_documents: int, num_queries: int, dimension: int = 16, seed: int = 0):
    """Return unit-norm documents, a third of them copies of a few, and queries near some of them."""
    rng = np.random.default_rng(seed)
    doc_ND = rng.standard_normal((num_documents, dimension))
    copies = rng.permutation(num_documents)[: num_documents // 3]
    doc_ND[copies] = doc_ND[rng.integers(0, 4, len(copies))]
    q_QD = doc_ND[rng.integers(0, num_documents, num_queries)] + 0.3 * rng.standard_normal(
        (num_queries, dimension)
    )
    q_QD[:4] = doc_ND[:4]
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (doc_ND, q_QD))


def rows_of(artifact: Artifact) -> list[tuple]:
    """Return query, doc, rank and is_positive of all candidates, in the order of the shards."""
    table = artifact.read("candidates").select(["query", "doc", "rank", "is_positive"]).to_pydict()
    return list(zip(*table.values(), strict=True))
