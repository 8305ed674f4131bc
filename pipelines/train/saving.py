"""A trained model in its directory: layout, card, and the proof that other libraries load it as it is."""

from pathlib import Path

import numpy as np

from models.checkpoint import resolve_model, save_encoder, verify_export
from models.encoder import Encoder
from models.moe.files import is_own_modelling_file
from models.prompts import Kind
from models.reranking.directory import save_cross_encoder, verify_cross_encoder
from models.reranking.scorers import CrossEncoder
from pipelines.model import LocatedModel
from pipelines.train.card import model_card
from pipelines.train.cross_encoder_card import cross_encoder_card
from pipelines.train.task import TrainTask
from pipelines.train.tokens import TokenStore, read_texts

NUM_CHECKED_TEXTS = 100


def save_embedding_model(encoder: Encoder, task: TrainTask, directory: Path) -> None:
    """Write what sentence-transformers and transformers load.

    Raises:
        ModelError: sentence-transformers embeds with it differently.
    """
    model = task.model
    assert isinstance(model, LocatedModel)
    ordinals = TokenStore.load(task.plan.directory("queries")).ordinals
    # Those beyond are of further data sets.
    queries = ordinals[ordinals < task.data.num_rows("queries")][:NUM_CHECKED_TEXTS]
    texts = list(_texts(task, "query", queries).values())
    source = resolve_model(model.location)
    save_encoder(encoder, directory, source, model.prompts, model.max_document_tokens)
    for task_name in ("", *(name for name, _ in model.prompts.tasks)):
        verify_export(directory, texts, task_name)
    card = model_card(task, encoder.dimension, is_own_modelling_file(directory))
    (directory / "README.md").write_text(card)


def save_cross_encoder_model(scorer: CrossEncoder, task: TrainTask, directory: Path) -> None:
    """Write what CrossEncoder of sentence-transformers and AutoModelForSequenceClassification load.

    Raises:
        ModelError: sentence-transformers scores with it differently.
    """
    save_cross_encoder(scorer.network, directory, Path(task.model.location))
    verify_cross_encoder(directory, _checked_pairs(task))
    (directory / "README.md").write_text(cross_encoder_card(task))


def _checked_pairs(task: TrainTask) -> list[tuple[str, str]]:
    """Return queries beside their positives, and beside the positives of others."""
    order = task.plan.read("order", columns=["query", "positive"])
    queries, positives = (order.column(name).to_numpy() for name in ("query", "positive"))
    own = (queries < task.data.num_rows("queries")) & (positives < task.data.num_rows("documents"))
    queries, positives = (each[own][: NUM_CHECKED_TEXTS // 2] for each in (queries, positives))
    query, document = (
        _texts(task, "query", np.unique(queries)),
        _texts(task, "document", np.unique(positives)),
    )
    return [
        (query[one], document[other])
        for others in (positives, np.roll(positives, 1))
        for one, other in zip(queries.tolist(), others.tolist(), strict=True)
    ]


def _texts(task: TrainTask, kind: Kind, ordinals: np.ndarray) -> dict[int, str]:
    found: dict[int, str] = {}
    for some, texts in read_texts(task.data, kind, np.asarray(ordinals)):
        found |= dict(zip(some.tolist(), texts, strict=True))
    return found
