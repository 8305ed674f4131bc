"""FLOPs of the matrix products; a multiplication and an addition are two."""

from dataclasses import dataclass

from pipelines.cost.shape import ModelShape
from pipelines.cost.texts import Texts

FORWARD_PASSES = 3
"""A training step in forward passes: the backward pass multiplies twice, for the inputs and for the weights."""
CHECKPOINTED_PASSES = 4
"""The same with gradient checkpointing, which runs the forward pass again."""
KMEANS_ITERATIONS = 10


def forward_flops(shape: ModelShape, texts: Texts) -> float:
    """Return the FLOPs of one forward pass over all texts, without padding.

    Two a weight and token, and 4 L w n^2 a text of n tokens for the scores and the sums of attention (every token
    to every other, as encoders have it; a causal mask saves nothing in the products that are computed).
    """
    products = 2.0 * shape.active_body * texts.tokens
    attention = 4.0 * shape.num_layers * shape.attention_width * texts.count * texts.mean_square_tokens
    return products + attention


def exact_flops(num_queries: int, num_documents: int, dimension: int) -> float:
    """Return the FLOPs of scoring every query against every document."""
    return 2.0 * num_queries * num_documents * dimension


@dataclass(frozen=True)
class IvfFlops:
    """The FLOPs of a search by inverted lists.

    Args:
        training: Of the lists.
        assigning: Every document to a list, every query to those that it looks into.
        scanning: Of the documents in them.
    """

    training: float
    assigning: float
    scanning: float


def ivf_flops(
    num_queries: int, num_documents: int, dimension: int, lists: int, probes: int, sample: int
) -> IvfFlops:
    """Return the FLOPs of ``lists`` trained on ``sample`` documents, of which a query looks into ``probes``."""
    trained = float(KMEANS_ITERATIONS) * min(num_documents, sample)
    scanned = exact_flops(num_queries, num_documents, dimension) * min(1.0, probes / lists)
    assigned = float(num_documents) + num_queries
    return IvfFlops(2.0 * dimension * lists * trained, 2.0 * dimension * lists * assigned, scanned)
