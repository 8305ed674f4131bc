"""A small part of the data on which a training is measured while it runs."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.located_model import LocatedModel
from pipelines.metrics import Relevance
from pipelines.own_documents import own_documents, without
from pipelines.train.dev_config import DevConfig
from pipelines.train.tokens import TokenStore, tokenize_unique

MAX_SHARDS = 16
"""Shards that the random documents are drawn from, at most: of a large corpus only so much is read."""


@dataclass(frozen=True)
class DevCut:
    """Queries, their positives and other documents, tokenised as the model is used later.

    Args:
        queries: Distinct texts.
        documents: Distinct texts.
        relevance: Of documents to queries, by the ordinals of the two stores.
        ignore: int64 [P, 2], pairs of a query and the document that it is itself.
    """

    queries: TokenStore
    documents: TokenStore
    relevance: Relevance
    ignore: NDArray[np.int64]


def make_cut(data: Artifact, model: LocatedModel, config: DevConfig, seed: int) -> DevCut:
    """Draw the cut and tokenise it.

    Args:
        data: Ingest artifact.
        model: Whose tokenizer, prompts and lengths are used.
        config: Says how large it is.
        seed: Of the draw: the same cut for the same data.

    Raises:
        UserError: The split has no labelled query.
    """
    judged = _judged(data, config, seed)
    positives = np.unique(judged.doc)
    rest = _draw_documents(data, positives, max(0, config.documents - len(positives)), seed)
    tokenizer = model.tokenizer()
    queries = np.unique(judged.query)
    documents = np.union1d(positives, rest)
    query_tokens, query_of = tokenize_unique(data, "query", queries, tokenizer)
    document_tokens, document_of = tokenize_unique(data, "document", documents, tokenizer)
    relevance = Relevance(
        query_of[np.searchsorted(queries, judged.query)],
        document_of[np.searchsorted(documents, judged.doc)],
        judged.relevance,
    )
    own = own_documents(data, queries)
    query, doc = own[np.isin(own[:, 1], documents)].T
    pairs = np.stack(
        [query_of[np.searchsorted(queries, query)], document_of[np.searchsorted(documents, doc)]], axis=1
    )
    # A relevant document may have the same text.
    ignore = without(pairs, relevance.query, relevance.doc)
    return DevCut(query_tokens, document_tokens, relevance, ignore)


def _judged(data: Artifact, config: DevConfig, seed: int) -> Relevance:
    """Return the positive labels of the chosen queries."""
    qrels = data.read("qrels", ["query", "doc", "relevance", "split"])
    positive = qrels.filter(pc.greater(qrels.column("relevance"), 0))
    mine = positive.filter(pc.equal(positive.column("split"), config.split))
    if not mine.num_rows:
        splits = sorted(set(positive.column("split").to_pylist()))
        raise UserError(
            "no labelled query to measure the training on",
            where="train.dev.split",
            got=config.split,
            expected=", ".join(splits) or "labels",
            fix="name one of these splits, give the data a dev split, or set train.dev to null",
        )
    query, doc, relevance = (mine.column(name).to_numpy() for name in ("query", "doc", "relevance"))
    chosen = np.unique(query)
    if len(chosen) > config.queries:
        chosen = np.random.default_rng([seed, 0]).choice(chosen, config.queries, replace=False)
    kept = np.isin(query, chosen)
    return Relevance(query[kept], doc[kept], relevance[kept])


def _draw_documents(data: Artifact, positives: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return ``count`` random documents, or all there are, none of them in ``positives``."""
    generator = np.random.default_rng([seed, 1])
    first_rows = data.first_rows("documents")
    shards = generator.permutation(len(first_rows) - 1)[:MAX_SHARDS]
    ranges = [np.arange(first_rows[shard], first_rows[shard + 1]) for shard in np.sort(shards)]
    others = np.setdiff1d(np.concatenate(ranges), positives)
    return others if len(others) <= count else generator.choice(others, count, replace=False)
