"""Models on disk: found, loaded, saved, and proven equal to what sentence-transformers makes of them."""

import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.bidirectional import Attention, set_attention
from models.encoder import Encoder
from models.errors import ModelError
from models.gguf import gguf_file, plain_directory
from models.latent_attention import LatentAttention
from models.layout import (
    ModelDescription,
    describe_model,
    max_positions,
    model_digest,
    read_config,
    tokenizer_digest,
)
from models.lean_imports import import_sentence_transformers
from models.low_bit import Quantize, low_bit_options
from models.moe.files import check_leftovers, is_own_modelling_file, model_class, write_modelling_file
from models.pooling import LATENT_ATTENTION, POOLERS
from models.projection import Projection
from models.prompts import Kind, Prompts
from models.sentence_layout import POOLING_FLAGS, is_own_pooler, write_layout
from models.sentence_modules import LATENT_ATTENTION_FOLDER, read_modules
from models.silence import silence
from models.weights import check_weights, read_weights

__all__ = [
    "ModelDescription",
    "describe_model",
    "load_encoder",
    "max_positions",
    "model_digest",
    "read_config",
    "resolve_model",
    "save_encoder",
    "silence",
    "tokenizer_digest",
    "verify_export",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_EAGER = ("deberta", "deberta-v2", "mpnet")
"""Families whose attention transformers computes in one way alone."""
MIN_EXPORT_COSINE = 0.9999


def resolve_model(source: str | Path, trusted: bool = False) -> Path:
    """Return the local directory of a model.

    Args:
        source: A directory or a GGUF file; ``package:<module>`` for weights that an installed package brings (the
            module names its directory MODEL_DIR, or holds a GGUF file); else a hub id, which is downloaded
            (safetensors only) or found in the cache. A model in GGUF is turned into a plain directory once.
        trusted: Whether code that the model brings is downloaded too.

    Raises:
        ModelError: Nothing there, or nothing that can be loaded.
    """
    text = str(source)
    if text.startswith("package:"):
        directory = _package_directory(text)
    elif Path(text).expanduser().is_dir():
        directory = Path(text).expanduser().resolve()
    elif Path(text).suffix == ".gguf" and Path(text).expanduser().is_file():
        directory = plain_directory(Path(text).expanduser().resolve())
    elif _HUB_ID.fullmatch(text):
        directory = _download(text, [*_HUB_FILES, *(["*.py"] if trusted else [])])
    else:
        raise ModelError(
            "no such model",
            text,
            expected="a directory, package:<module>, or a hub id such as org/name",
            fix="check the spelling; a relative path counts from the working directory",
        )
    packed = gguf_file(directory)
    directory = plain_directory(packed) if packed else directory
    read_config(directory)
    return directory


def load_encoder(
    directory: str | Path,
    dtype: str = "float32",
    device: str = "cpu",
    pooling: str | None = None,
    attention: Attention | None = None,
    latents: tuple[int, int] = (512, 8),
    quantize: Quantize | None = None,
    trusted: bool = False,
) -> Encoder:
    """Load a model in evaluation mode; no progress bar, no log.

    Args:
        directory: As ``resolve_model`` returns it.
        dtype: ``"bfloat16"``, ``"float32"`` or ``"float16"``, of weights and activations.
        device: A torch device.
        pooling: Name of the pooler; None means what the directory declares, else mean.
        attention: ``"bidirectional"`` or ``"causal"``; None means what the directory's config says.
        latents: Number of latents and of heads, where pooling is latent_attention and the directory holds no
            weights of it.
        quantize: ``"8bit"`` or ``"4bit"`` weights of linear layers; None: none.
        trusted: Whether code that the directory brings may run.

    Raises:
        ModelError: No model there, weights that do not fit its config, an attention it cannot be given, or
            ``quantize`` without bitsandbytes.
    """
    import torch

    directory = Path(directory)
    config = read_config(directory)
    loader = model_class(config, directory)
    modules = read_modules(directory)
    pooling = pooling or modules.pooling or "mean"
    low_bit = low_bit_options(quantize, dtype, device) if quantize else {}
    backbone, loading = read_weights(
        loader,
        directory,
        (
            "transformers cannot load this model",
            f"weights of a {config.get('model_type')} model",
            "check that all of its files are here",
        ),
        dtype=getattr(torch, dtype),
        trust_remote_code=trusted,
        **({} if trusted else {"attn_implementation": "eager" if config["model_type"] in _EAGER else "sdpa"}),
        **low_bit,
    )
    if config.get("moe") is not None:
        check_leftovers(loading["unexpected_keys"], directory)
    check_weights(backbone, loading, str(directory))
    if attention is not None:
        set_attention(backbone.config, attention, str(directory))
    if getattr(backbone, "pooler", None) is not None:
        if loading["missing_keys"]:
            backbone.pooler = None
        else:
            # Kept for the file's sake; embeddings do not pass through it, so no optimizer should touch it.
            backbone.pooler.requires_grad_(False)
    latent = _latent_attention(directory, backbone, latents) if pooling == LATENT_ATTENTION else None
    return Encoder(
        # Weights in few bits are on their device already.
        backbone if quantize else backbone.to(device),
        pooling,
        latent_attention=latent and latent.to(device, getattr(torch, dtype)),
        projections=[Projection.read(directory / folder).to(device) for folder in modules.projections],
    ).eval()


def _latent_attention(directory: Path, backbone: Any, latents: tuple[int, int]) -> LatentAttention:
    try:
        if (directory / LATENT_ATTENTION_FOLDER).is_dir():
            return LatentAttention.read(directory / LATENT_ATTENTION_FOLDER)
        return LatentAttention(int(backbone.config.hidden_size), *latents)
    except (ValueError, OSError) as error:
        raise ModelError("latent attention cannot be set up", str(directory), got=str(error)) from error


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
    if getattr(encoder.backbone.config, "moe", None):
        write_modelling_file(directory)
    write_layout(encoder, directory, tokenizer_from, prompts, max_tokens)


def verify_export(
    directory: str | Path,
    texts: Sequence[str],
    task: str = "",
    kind: Kind = "query",
    max_tokens: int | None = None,
    trusted: bool = False,
) -> float:
    """Embed texts here and through sentence-transformers, in float32, and compare.

    Args:
        directory: What ``save_encoder`` wrote.
        texts: About a hundred, at least one; long ones are cut before either side sees them.
        task: Of queries; one that the prompts name has a prompt of its own.
        kind: Of these texts.
        max_tokens: Where they are cut, prompt and suffix counted. None: where the directory says.
        trusted: Whether code that the directory brings may run.

    Returns:
        The smallest cosine.

    Raises:
        ModelError: A cosine is at most MIN_EXPORT_COSINE.
    """
    from models.cutting import cut_to_fit
    from models.inference import BATCH_MULTIPLE, embed
    from models.tokenization import TextTokenizer, padded_length

    directory = Path(directory)
    description = describe_model(directory)
    prompts, longest = description.prompts, description.max_tokens or 512
    tokenizer = TextTokenizer.load(directory, prompts, longest, longest)
    # sentence-transformers has one limit for all texts, and cuts a suffix off.
    texts = cut_to_fit(tokenizer, texts, kind, task, min(max_tokens or longest, longest))
    tokens = tokenizer.tokenize(texts, kind, [task] * len(texts))
    encoder = load_encoder(directory, trusted=trusted)
    ours_ND = embed(encoder, tokens, max(4096, padded_length(longest, BATCH_MULTIPLE)))
    with silence():
        import_sentence_transformers()
        from sentence_transformers import SentenceTransformer

        # A checkpoint saved in bfloat16 would otherwise be computed in it.
        peer = SentenceTransformer(
            str(directory),
            device="cpu",
            local_files_only=True,
            model_kwargs={"dtype": "float32"},
            trust_remote_code=trusted or is_own_modelling_file(directory) or is_own_pooler(directory),
        )
        # What ends every query has no place in its prompts: whoever embeds queries there adds it.
        theirs_ND = peer.encode(
            [text + (prompts.suffix if kind == "query" else "") for text in texts],
            prompt=prompts.prefix(kind, task) or None,
            show_progress_bar=False,
            normalize_embeddings=True,
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
        found = importlib.util.find_spec(module)
        # A package of weights for llama.cpp need not be imported, nor all that it imports be installed.
        folders = list(found.submodule_search_locations or []) if found else []
        if folders and gguf_file(Path(folders[0])):
            return Path(folders[0])
        return Path(importlib.import_module(module).MODEL_DIR)
    except ImportError as error:
        raise ModelError(
            "this package is not installed",
            source,
            got=str(error),
            fix=f"pip install {module.replace('_', '-')}",
        ) from error
    except AttributeError as error:
        raise ModelError(
            "this package brings no model", source, expected=f"{module}.MODEL_DIR, or a GGUF file"
        ) from error


def _download(model_id: str, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with silence():
            return Path(
                snapshot_download(model_id, allow_patterns=files, ignore_patterns=["onnx/*", "openvino/*"])
            )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            "neither a directory nor a model that can be fetched from the hub",
            model_id,
            got=str(error).strip().splitlines()[0],
            expected="a directory, package:<module> or a hub id",
            fix="check the spelling and the network; a private model needs HF_TOKEN",
        ) from error


assert set(POOLING_FLAGS) == set(POOLERS)
