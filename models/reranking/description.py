"""What is known of a reranker before its weights are loaded; torch is not imported."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from models.errors import ModelError
from models.layout import model_digest, read_config
from models.reranking.rendering import Rendering

SCORING_VERSION = 1
"""Raised whenever the score of a pair would change by more than rounding."""

ARCHITECTURES = {
    "cross_encoder": ("ForSequenceClassification",),
    "yes_no": ("ForCausalLM", "LMHeadModel"),
    "query_likelihood": ("ForCausalLM", "LMHeadModel"),
}
"""Method -> how the names of the architectures end that can do it."""


def check_architecture(directory: str | Path, method: str) -> None:
    """Refuse a model that was made for something else, by its config alone.

    Raises:
        ModelError: Its architecture cannot do ``method``, or it has more than two labels.
    """
    config = read_config(Path(directory))
    architectures = [str(name) for name in config.get("architectures") or []]
    fitting = ARCHITECTURES[method]
    if architectures and not any(name.endswith(fitting) for name in architectures):
        others = [name for name, ends in ARCHITECTURES.items() if architectures[0].endswith(ends)]
        raise ModelError(
            f"this model is no reranker of method {method}",
            str(directory),
            got=", ".join(architectures),
            expected="an architecture *" + " or *".join(fitting),
            fix=f"write method: {others[0]}" if others else "name a reranker, or train one on this model",
        )
    labels = len(config.get("id2label") or {0: "", 1: ""})
    if method == "cross_encoder" and labels > 2:
        raise ModelError(
            "a cross-encoder has one label, or two with the relevant one last",
            str(directory),
            got=f"{labels} labels",
            expected="1 or 2",
        )


def reranker_digest(directory: str | Path, rendering: Rendering) -> str:
    """Return the sha256 (64 hex digits) over a reranker's files, its template and its limits.

    Raises:
        ModelError: The directory holds no model.
    """
    told = {"model": model_digest(directory), "version": SCORING_VERSION, **asdict(rendering)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
