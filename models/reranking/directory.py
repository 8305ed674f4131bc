"""Cross-encoders as directories: begun on a backbone, saved, and proven equal to what other libraries make of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.errors import ModelError
from models.inference import BATCH_MULTIPLE
from models.layout import max_positions, read_config
from models.lean_imports import import_sentence_transformers, import_transformers
from models.reranking.description import ARCHITECTURES
from models.reranking.network import load_network
from models.reranking.rendering import make_rendering
from models.silence import silence
from models.tokenization import padded_length
from models.tokenizer_files import complete_tokenizer, copy_tokenizer
from models.weights import read_weights

MAX_SCORE_DIFFERENCE = 1e-3
"""Between two ways to compute a logit in float32, of which one pads its batches otherwise."""
CHARACTERS_A_POSITION = 0.1
"""Share of a model's positions, in characters, that texts are compared with: none is cut then, in any script."""
MAX_CHARACTERS = 2000
"""Of them, however many positions there are: it is the cuts and the head that are compared, not long texts."""
MIN_TOKEN_BUDGET = 4096
"""Tokens of a forward pass of this comparison, or as many as its longest pair has."""


def is_cross_encoder(directory: Path) -> bool:
    """Return whether a directory holds a sequence classifier, by its config alone."""
    names = [str(name) for name in read_config(directory).get("architectures") or []]
    return any(name.endswith(ARCHITECTURES["cross_encoder"]) for name in names)


def check_beginning(directory: Path) -> None:
    """Refuse a model that no cross-encoder of one label can begin with, by its config alone.

    Raises:
        ModelError: It has experts that transformers knows nothing of, or is a classifier of several labels.
    """
    config = read_config(directory)
    labels = len(config.get("id2label") or {0: "", 1: ""})
    if is_cross_encoder(directory) and labels != 1:
        raise ModelError(
            "a cross-encoder is trained with one label",
            str(directory),
            got=f"{labels} labels",
            expected="1, or an encoder without a head",
            fix="name the encoder that this classifier was made of",
        )
    if config.get("moe") is not None:
        raise ModelError(
            "a cross-encoder cannot begin with experts: no library would load it",
            str(directory),
            expected="a dense encoder or decoder",
            fix="name the model that the experts were made of",
        )


def write_untrained(source: Path, directory: Path, seed: int) -> None:
    """Write the cross-encoder that a training begins with, in float32.

    Args:
        source: A cross-encoder, which is taken as it is, or any encoder or decoder, which is given a head.
        directory: Made if absent.
        seed: Of a new head, which is equal for it on every machine.

    Raises:
        ModelError: Weights that do not fit their config, or a model that ``check_beginning`` refuses.
    """
    check_beginning(source)
    if is_cross_encoder(source):
        network: Any = load_network(source, "cross_encoder", "float32", "cpu")
    else:
        network = _with_new_head(source, seed)
    save_cross_encoder(network, directory, source)


def save_cross_encoder(network: Any, directory: Path, tokenizer_from: Path) -> None:
    """Write a directory that CrossEncoder(path), AutoModelForSequenceClassification and ``load_reranker`` load.

    Args:
        network: A transformers model for sequence classification, whole and unsharded.
        directory: Made if absent.
        tokenizer_from: The model's directory whose tokenizer files are copied.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with silence():
        network.save_pretrained(str(directory))
    copy_tokenizer(tokenizer_from, directory)
    # A decoder's head reads the last token that is no padding: whoever pads must mean the same token.
    pad_token_id = complete_tokenizer(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if config.get("pad_token_id") != pad_token_id:
        path.write_text(json.dumps(config | {"pad_token_id": pad_token_id}, indent=2, sort_keys=True) + "\n")


def verify_cross_encoder(directory: Path, pairs: Sequence[tuple[str, str]]) -> float:
    """Score pairs here and through sentence-transformers, in float32, and compare the logits.

    Args:
        directory: What ``save_cross_encoder`` wrote.
        pairs: About a hundred (query, document), at least one; only their beginnings are compared, since either side
            has its own way to cut.

    Returns:
        The largest difference.

    Raises:
        ModelError: A difference exceeds MAX_SCORE_DIFFERENCE.
    """
    from models.reranker import load_reranker

    positions = max_positions(read_config(directory)) or 512
    characters = max(1, min(int(positions * CHARACTERS_A_POSITION), MAX_CHARACTERS))
    short = [(query[:characters], document[:characters]) for query, document in pairs]
    rendering = make_rendering(
        "cross_encoder", max_query_tokens=positions // 2, max_document_tokens=positions // 2
    )
    reranker = load_reranker(directory, rendering)
    longest = int(reranker.tokenizer.tokenize(short).lengths.max())
    ours_P = reranker.score(short, max(MIN_TOKEN_BUDGET, padded_length(longest, BATCH_MULTIPLE)))
    with silence():
        import_sentence_transformers()
        from sentence_transformers import CrossEncoder

        peer = CrossEncoder(
            str(directory),
            device="cpu",
            local_files_only=True,
            max_length=positions,
            model_kwargs={"dtype": "float32"},
        )
        theirs_P = peer.predict(
            [list(pair) for pair in short], activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
    differences_P = np.abs(ours_P - np.asarray(theirs_P, np.float32))
    worst = int(differences_P.argmax())
    if not differences_P[worst] <= MAX_SCORE_DIFFERENCE:
        raise ModelError(
            "sentence-transformers scores this cross-encoder's pairs differently",
            str(directory),
            got=f"{theirs_P[worst]:.4f} instead of {ours_P[worst]:.4f} for {short[worst]!r}",
            expected=f"a difference of at most {MAX_SCORE_DIFFERENCE}",
            fix="do not publish this directory; check its tokenizer files",
        )
    return float(differences_P[worst])


def _with_new_head(source: Path, seed: int) -> Any:
    import_transformers()
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, loading = read_weights(
            transformers.AutoModelForSequenceClassification,
            source,
            (
                "transformers makes no cross-encoder of this model",
                "a model whose family has a *ForSequenceClassification",
                "name another backbone under train.cross_encoder.source",
            ),
            num_labels=1,
            dtype=torch.float32,
        )
    body = f"{network.base_model_prefix}."
    missing = [
        name
        for name in sorted(loading["missing_keys"])
        if name.startswith(body) and not name.startswith(f"{body}pooler.")
    ]
    misfits = sorted(str(key[0]) for key in loading["mismatched_keys"])
    if missing or misfits:
        raise ModelError(
            "the weights do not fit the config",
            str(source),
            got=f"{len(missing)} absent, {len(misfits)} misshapen: {', '.join((missing + misfits)[:4])}",
            expected="a weight for every parameter of the backbone",
            fix="copy config.json and the weights from one and the same model",
        )
    return network
