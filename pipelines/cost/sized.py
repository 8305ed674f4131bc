"""A model of a recipe beside the texts of one data set: how long they are as this model cuts them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.sentence_modules import ProjectionSettings, read_modules
from pipelines.cost.corpus import Corpus
from pipelines.cost.shape import ModelShape, model_directory, read_shape
from pipelines.cost.texts import Texts, measure_texts, read_prefix, token_lengths
from pipelines.encode.config import EncodeConfig


@dataclass(frozen=True)
class SizedModel:
    """A model with its shape and the texts of one data set.

    Args:
        name: For tables.
        settings: As the recipe has them.
        shape: Of its layers.
        documents: The corpus, cut as this model cuts it; chunks count.
        queries: One query's worth of moments; ``times`` gives the number wanted.
        prefixes: What stands before a query and before a document.
    """

    name: str
    settings: Mapping[str, Any]
    shape: ModelShape
    documents: Texts
    queries: Texts
    prefixes: tuple[str, str]

    @property
    def dimension(self) -> int:
        """Components of an embedding; of a model that embeds."""
        directory = model_directory(str(self.settings["source"]))
        folders = read_modules(directory).projections
        return ProjectionSettings.read(directory / folders[-1]).outputs if folders else self.shape.hidden

    @property
    def max_tokens(self) -> int:
        """The longest text."""
        return max(int(self.settings["max_query_tokens"]), int(self.settings["max_document_tokens"]))


def sized_model(
    settings: Mapping[str, Any], corpus: Corpus, encode: EncodeConfig, query_prompt: str | None = None
) -> SizedModel:
    """Return a model beside the texts of a data set.

    Args:
        settings: Of a model or a reranker, as the recipe has them.
        corpus: The data set.
        encode: Says whether documents are cut into chunks.
        query_prompt: In place of the model's own; None: that one.
    """
    source = str(settings["source"])
    directory = model_directory(source)
    prompts = settings.get("prompts") or {}
    asking, answering = (prompts.get(kind, read_prefix(directory, kind)) for kind in ("query", "document"))
    asking = asking if query_prompt is None else query_prompt
    queries = measure_texts(1, corpus.queries, directory, asking, int(settings["max_query_tokens"]))
    longest, count = int(settings["max_document_tokens"]), corpus.num_documents
    documents = measure_texts(count, corpus.documents, directory, answering, longest)
    if encode.chunk and corpus.documents.texts:
        lengths = token_lengths(corpus.documents.texts, directory, answering)
        documents = chunked(documents, lengths, encode.chunk.tokens, encode.chunk.overlap)
    name = source.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    return SizedModel(name, settings, read_shape(source), documents, queries, (asking, answering))


def chunked(documents: Texts, lengths_N: np.ndarray, tokens: int, overlap: int) -> Texts:
    """Return the chunks of documents that a sample of uncut lengths stands for."""
    step = tokens - overlap
    counts = np.maximum(1, np.ceil((lengths_N - overlap) / step))
    last = lengths_N - (counts - 1) * step
    total = counts.sum()
    mean = float(((counts - 1) * tokens + last).sum() / total)
    squares = float(((counts - 1) * tokens**2 + last**2).sum() / total)
    per_document = float(counts.mean())
    return Texts(round(documents.count * per_document), mean, squares, documents.mean_bytes / per_document)
