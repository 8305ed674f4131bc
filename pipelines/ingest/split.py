"""Split queries so that nothing of a test positive, nor a near twin of it, is seen in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.ingest.config import SPLITS, SplitRatios
from pipelines.near_duplicates import near_duplicates
from pipelines.schemas import Split

# Queries are short: they are alike when they share this much of their words, whatever the order.
_QUERY_JACCARD = 0.8


@dataclass(frozen=True)
class Splits:
    """Which split every query belongs to.

    Args:
        of_query: One split a query.
        component_sizes: Queries of each connected component, largest first.
        num_near_duplicates: Pairs of documents that were joined for being alike.
    """

    of_query: list[Split]
    component_sizes: list[int]
    num_near_duplicates: int


def split_queries(
    queries: Sequence[str],
    documents: Sequence[str],
    edges: NDArray[np.int64],
    ratios: SplitRatios,
    jaccard: float,
    seed: int,
) -> Splits:
    """Split by connected components of queries, their documents, and what is nearly the same.

    Args:
        queries: Q distinct texts.
        documents: N distinct texts.
        edges: int64 [E, 2]; a query and a document that answers it.
        ratios: Wanted share of the queries in each split.
        jaccard: Near-duplicate threshold for documents, over 5-word shingles.
        seed: Seed of the draw.
    """
    twins = near_duplicates(documents, jaccard, seed=seed)
    alike = near_duplicates(queries, _QUERY_JACCARD, width=1, seed=seed)
    labels = _components(len(queries), len(documents), edges, twins, alike)
    splits = assign_components(labels, ratios, seed)
    sizes = np.sort(np.bincount(labels))[::-1]
    return Splits(splits, sizes[sizes > 0].tolist(), len(twins))


def _components(
    num_queries: int,
    num_documents: int,
    edges: NDArray[np.int64],
    twins: NDArray[np.int64],
    alike: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the component of every query, int64 [Q]; documents are nodes behind the queries."""
    links = np.concatenate([edges + np.array([0, num_queries]), twins + num_queries, alike])
    size = num_queries + num_documents
    graph = coo_array((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels[:num_queries], dtype=np.int64)


def assign_components(labels: NDArray[np.int64], ratios: SplitRatios, seed: int) -> list[Split]:
    """Give whole components to splits, the largest first, each to the split that lacks the largest share.

    Args:
        labels: int64 [Q], component of every query.
        ratios: Wanted share of the queries in each split.
        seed: Components of one size are taken in a random order.
    """
    names, members = np.unique(labels, return_inverse=True)
    sizes = np.bincount(members, minlength=len(names))
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    wanted = np.array([getattr(ratios, split) for split in SPLITS]) * len(labels)
    given = np.zeros(len(SPLITS))
    chosen = np.zeros(len(names), np.int64)
    for component in order:
        lacking = wanted - given
        share = np.where(wanted > 0, lacking / np.maximum(wanted, 1e-9), -np.inf)
        fits = lacking >= sizes[component]
        # What fits nowhere goes where it overshoots least.
        best = int(np.argmax(np.where(fits, share, -np.inf))) if fits.any() else int(np.argmax(lacking))
        chosen[component] = best
        given[best] += sizes[component]
    return [SPLITS[split] for split in chosen[members]]
