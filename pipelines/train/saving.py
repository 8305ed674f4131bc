"""A trained model in its directory: layout, card, and the proof that other libraries load it as it is."""

from pathlib import Path
from typing import Any

import numpy as np

from models.checkpoint import resolve_model, save_encoder, verify_export
from models.encoder import Encoder
from models.moe.files import is_own_modelling_file
from models.prompts import Kind
from models.reranking.directory import save_cross_encoder, verify_cross_encoder
from models.reranking.scorers import CrossEncoder
from pipelines.located_model import LocatedModel
from pipelines.texts import TABLES, read_texts
from pipelines.train.card import model_card
from pipelines.train.cross_encoder_card import cross_encoder_card
from pipelines.train.naming import data_of
from pipelines.train.task import TrainTask
from pipelines.train.tokens import TokenStore

NUM_CHECKED_TEXTS = 100
NUM_CHECKED_DOCUMENTS = 16
"""They are compared for their prompt and their length, and are longer than queries."""


def save_embedding_model(encoder: Encoder, task: TrainTask, directory: Path) -> None:
    """Write what sentence-transformers and transformers load.

    Raises:
        ModelError: sentence-transformers embeds with it differently.
    """
    model = task.model
    assert isinstance(model, LocatedModel)
    queries = _first_texts(task, "query", NUM_CHECKED_TEXTS)
    documents = _first_texts(task, "document", NUM_CHECKED_DOCUMENTS)
    source = resolve_model(model.location, model.trusted)
    # sentence-transformers has one limit for all texts.
    longest = max(model.max_query_tokens, model.max_document_tokens)
    save_encoder(encoder, directory, source, model.prompts, longest)
    for task_name in ("", *(name for name, _ in model.prompts.tasks)):
        verify_export(directory, queries, task_name, "query", model.max_query_tokens, model.trusted)
    verify_export(directory, documents, "", "document", model.max_document_tokens, model.trusted)
    own_code = is_own_modelling_file(directory) or model.trusted
    card = model_card(task, encoder.dimension, own_code, projected=bool(encoder.projections))
    (directory / "README.md").write_text(card)


def save_cross_encoder_model(scorer: CrossEncoder, task: TrainTask, directory: Path) -> None:
    """Write what CrossEncoder of sentence-transformers and AutoModelForSequenceClassification load.

    Raises:
        ModelError: sentence-transformers scores with it differently.
    """
    save_cross_encoder(scorer.network, directory, Path(task.model.location))
    verify_cross_encoder(directory, checked_pairs(task))
    (directory / "README.md").write_text(cross_encoder_card(task))


def checked_pairs(task: TrainTask) -> list[tuple[str, str]]:
    """Return queries beside their positives, and beside the positives of others."""
    order = task.plan.read("order", columns=["query", "positive"])
    queries, positives = (order.column(name).to_numpy() for name in ("query", "positive"))
    own = (queries < task.data.num_rows("queries")) & (positives < task.data.num_rows("documents"))
    # Those of the main data set first, whose texts are at hand.
    chosen = np.argsort(~own, kind="stable")[: NUM_CHECKED_TEXTS // 2]
    queries, positives = queries[chosen], positives[chosen]
    query, document = (
        _texts(task, "query", np.unique(queries)),
        _texts(task, "document", np.unique(positives)),
    )
    return [
        (query[one], document[other])
        for others in (positives, np.roll(positives, 1))
        for one, other in zip(queries.tolist(), others.tolist(), strict=True)
    ]


def _first_texts(task: TrainTask, kind: Kind, count: int) -> list[str]:
    """Return texts of a plan; its ordinals begin with those of the main data set."""
    ordinals = TokenStore.load(task.plan.directory(TABLES[kind][0])).ordinals
    return list(_texts(task, kind, np.asarray(ordinals[:count])).values())


def _texts(task: TrainTask, kind: Kind, ordinals: np.ndarray) -> dict[int, str]:
    """Return the texts of a plan's ordinals, which rise, from the data sets that they are of."""
    firsts: Any = task.plan.manifest.summary["first_ordinals"]
    # The sets come in the order of their ordinals.
    begin = [(int(first[kind]), str(name)) for name, first in firsts.items()]
    places = np.searchsorted([first for first, _ in begin], ordinals, side="right") - 1
    found: dict[int, str] = {}
    for place in np.unique(places).tolist():
        first, name = begin[place]
        for some, texts in read_texts(data_of(task.plan, name), kind, ordinals[places == place] - first):
            found |= dict(zip((some + first).tolist(), texts, strict=True))
    return found
