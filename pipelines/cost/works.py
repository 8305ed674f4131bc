"""What the stages have to do, as plain numbers: what costs are computed from."""

from dataclasses import dataclass
from typing import Literal

from pipelines.cost.shape import ModelShape
from pipelines.cost.texts import Texts
from pipelines.cost.train_work import TrainWork


@dataclass(frozen=True)
class IngestWork:
    """Read, check and cut a source.

    Args:
        texts: Documents and queries.
    """

    texts: tuple[Texts, ...]


@dataclass(frozen=True)
class EncodeWork:
    """Embed texts.

    Args:
        shape: The model.
        dtype: Of its products.
        texts: Documents and queries, as this model sees them.
        token_budget: Tokens of one forward pass.
        max_tokens: The longest text.
        dimension: Components of a stored embedding.
        precision: Of a stored embedding, a key of COMPONENT_BYTES.
        num_shards: Into how many shards the texts are cut: actors beyond that number idle.
    """

    shape: ModelShape
    dtype: str
    texts: tuple[Texts, ...]
    token_budget: int
    max_tokens: int
    dimension: int
    precision: str
    num_shards: int


@dataclass(frozen=True)
class SearchWork:
    """Find the best documents of every query by inner product.

    Args:
        num_queries: Queries.
        num_documents: Embedded documents.
        dimension: Components of an embedding.
        depth: Candidates kept for each query.
        group_bytes: Document embeddings, float32, that an actor holds at a time.
        range_queries: Queries of one tile.
        dtype: Of the products.
        is_fused: Whether scores are selected where they are computed; if not, each is written to memory and read.
        embedding_bytes: Of one stored embedding.
        index: exact, or ivf.
        num_lists: Lists of an inverted file.
        num_probes: Lists of it that a query scans.
        training_sample: Embeddings that its lists are trained on at most.
    """

    num_queries: int
    num_documents: int
    dimension: int
    depth: int
    group_bytes: int = 2**30
    range_queries: int = 8192
    dtype: str = "float32"
    is_fused: bool = False
    embedding_bytes: float = 0.0
    index: Literal["exact", "ivf"] = "exact"
    num_lists: int = 1
    num_probes: int = 1
    training_sample: int = 0


@dataclass(frozen=True)
class LexicalWork:
    """Index documents by their words and rank them for every query by BM25.

    Args:
        documents: Texts of the corpus.
        num_queries: Queries.
        depth: Candidates kept for each query.
    """

    documents: Texts
    num_queries: int
    depth: int


@dataclass(frozen=True)
class ScoreWork:
    """Score (query, document) pairs with a reranker.

    Args:
        shape: The model.
        dtype: Of its products.
        pairs: Query and document as one text.
        head_flops: Of one pair behind the last layer: the logits over the vocabulary that a language model needs.
        token_budget: Tokens of one forward pass.
        max_tokens: The longest pair.
        num_tasks: Pieces that actors share.
    """

    shape: ModelShape
    dtype: str
    pairs: Texts
    head_flops: float
    token_budget: int
    max_tokens: int
    num_tasks: int


@dataclass(frozen=True)
class GenerateWork:
    """Write a query for every prompt.

    Args:
        shape: The language model.
        dtype: Of its products.
        prompts: What it reads, examples included.
        written_tokens: Behind each prompt.
        token_budget: Tokens of one batch.
        max_tokens: The longest prompt with what is written.
        num_tasks: Pieces that actors share.
    """

    shape: ModelShape
    dtype: str
    prompts: Texts
    written_tokens: float
    token_budget: int
    max_tokens: int
    num_tasks: int


@dataclass(frozen=True)
class ListWork:
    """Candidate lists made of other lists or of chance: no model, no product.

    Args:
        num_rows: Rows written.
    """

    num_rows: int


@dataclass(frozen=True)
class SelectWork:
    """Filter candidates and sample negatives.

    Args:
        num_queries: Queries.
        num_candidates: Candidates of all teachers together.
        num_negatives: Negatives kept for a query.
    """

    num_queries: int
    num_candidates: int
    num_negatives: int


@dataclass(frozen=True)
class PlanWork:
    """Order the batches of a training and tokenise their texts once.

    Args:
        num_rows: Rows of all batches.
        num_documents: Positives and negatives of all rows, those that may take the place of others too.
        texts: The distinct queries and documents.
    """

    num_rows: int
    num_documents: int
    texts: tuple[Texts, ...]


@dataclass(frozen=True)
class EvaluateWork:
    """Score rankings with metrics and intervals.

    Args:
        num_rows: Rows of all rankings.
        num_resamples: Bootstrap samples, queries counted each.
    """

    num_rows: int
    num_resamples: int


@dataclass(frozen=True)
class IndexWork:
    """Write the index of a release and the texts that answers show.

    Args:
        documents: The corpus.
        held_bytes: Of one document in memory.
        mapped_bytes: Of its whole embedding in a file beside; 0: there is none.
        recall_flops: Of the exact search that the index is compared with; 0: it is exact itself.
    """

    documents: Texts
    held_bytes: float
    mapped_bytes: float = 0.0
    recall_flops: float = 0.0


Work = (
    IngestWork
    | EncodeWork
    | SearchWork
    | LexicalWork
    | ScoreWork
    | GenerateWork
    | ListWork
    | SelectWork
    | PlanWork
    | TrainWork
    | EvaluateWork
    | IndexWork
)


@dataclass(frozen=True)
class PlannedStep:
    """One step of a run.

    Args:
        name: As ``pipelines.run.plan`` names it, so that its artifact can be found.
        stage: Name of the stage's folder.
        label: What it works on, in a few words.
        work: What it has to do.
        setting: The key of the recipe that decides how this search is done; empty where there is none.
        dataset: `main`, a name under `also`, or several joined by +; empty where it is not known.
    """

    name: str
    stage: str
    label: str
    work: Work
    setting: str = ""
    dataset: str = ""


COMPONENT_BYTES = {
    "float16": 2.0,
    "float32": 4.0,
    "int8": 1.0,
    "uint8": 1.0,
    "binary": 0.125,
    "ubinary": 0.125,
}
"""Stored bytes of one component of an embedding."""
ORDINAL_BYTES = 8
EMBEDDING_COMPRESSION = 0.94
"""Stored bytes of a byte of embeddings: only signs and exponents repeat."""


def row_bytes(dimension: int, precision: str) -> float:
    """Return the bytes of one stored embedding with its ordinal."""
    return EMBEDDING_COMPRESSION * (dimension * COMPONENT_BYTES[precision] + ORDINAL_BYTES)
