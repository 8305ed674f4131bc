"""What a model's directory holds, read without loading any weight or importing torch."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.prompts import Prompts
from models.sentence_modules import (
    LATENT_ATTENTION_FOLDER,
    POOLERS,
    PROJECTION,
    ProjectionSettings,
    module_folders,
    read_modules,
)

_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")
"""What families call the width of their states in config.json."""

# Positions of these families begin behind the padding id.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "chat_template.jinja",
)
_LAYOUT_FILES = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
_MODULE_FILES = ("config.json", "pooling.json", "model.safetensors")


@dataclass(frozen=True)
class ModelDescription:
    """What is known of a model before its weights are loaded.

    Args:
        pooling: Name of the pooler; ``"mean"`` where the directory does not say.
        prompts: Of queries and documents.
        max_tokens: The longest text that the directory allows; None for no limit.
        dimension: Components of one embedding.
        architecture: Class name of the backbone.
        num_parameters: Without the embedding tables and idle experts: what one token costs, in multiply-adds.
    """

    pooling: str
    prompts: Prompts
    max_tokens: int | None
    dimension: int
    architecture: str
    num_parameters: int


def describe_model(directory: str | Path) -> ModelDescription:
    """Read a model's directory, in the layout of sentence-transformers or of transformers.

    Args:
        directory: As ``resolve_model`` returns it.

    Raises:
        ModelError: No model, or one that needs more than a transformer, a pooler, projections and unit
            length.
    """
    directory = Path(directory)
    config, modules = read_config(directory), read_modules(directory)
    architectures = config.get("architectures") or [str(config.get("model_type"))]
    projections = [ProjectionSettings.read(directory / folder) for folder in modules.projections]
    return ModelDescription(
        pooling=modules.pooling or "mean",
        prompts=Prompts.from_directory(directory),
        max_tokens=_max_tokens(directory, config),
        dimension=projections[-1].outputs if projections else int(config["hidden_size"]),
        architecture=str(architectures[0]),
        num_parameters=_num_parameters(directory, config),
    )


def read_config(directory: Path) -> dict[str, Any]:
    """Return ``config.json`` of a directory that holds a loadable model.

    Raises:
        ModelError: The directory, its config or its safetensors weights are missing.
    """
    if not directory.is_dir():
        raise ModelError("no such directory", str(directory), expected="a model's directory")
    if not (directory / "config.json").is_file():
        raise ModelError(
            "this directory holds no model",
            str(directory),
            got=_listing(directory),
            expected="config.json",
            fix="name the directory that a training or a download wrote, the one with config.json",
        )
    if not weight_files(directory):
        pickled = sorted(path.name for path in directory.glob("*.bin"))
        convert = (
            f"transformers.AutoModel.from_pretrained({str(directory)!r}).save_pretrained({str(directory)!r})"
        )
        raise ModelError(
            "no weights that can be read safely" if pickled else "no weights",
            str(directory),
            got=", ".join(pickled) or _listing(directory),
            expected="*.safetensors",
            fix=f'python -c "import transformers; {convert}"' if pickled else "copy the model's weights here",
        )
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    named = next((name for name in _WIDTHS if name in config), None)
    if named is not None:
        config["hidden_size"] = config[named]
    if named is None:
        raise ModelError(
            "the config names no hidden_size",
            str(directory / "config.json"),
            got=str(config.get("model_type")),
            expected="a text encoder or decoder of transformers",
        )
    return config


def weight_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every weight in a directory; the headers of its files are read, no weight is."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(directory):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        shapes |= {name: tuple(one["shape"]) for name, one in header.items() if name != "__metadata__"}
    return shapes


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a directory, sorted; adapters' are not a model's."""
    return sorted(path for path in directory.glob("*.safetensors") if not path.name.startswith("adapter_"))


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens the position embeddings cover; None where they set no limit."""
    positions = config.get("max_position_embeddings")
    if not positions or int(positions) < 0:
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        return int(positions) - int(config.get("pad_token_id") or 0) - 1
    return int(positions)


def model_digest(directory: str | Path, trusted: bool = False) -> str:
    """Return the sha256 (64 hex digits) over every weight, tokenizer, config and prompt file of a model.

    Equal for copies of a directory, wherever they lie; a README does not count. torch is not imported.

    Args:
        directory: Of the model.
        trusted: Whether code that it brings may run, and counts too.

    Raises:
        ModelError: The directory holds no model.
    """
    directory = Path(directory)
    read_config(directory)
    code = directory.glob("*.py") if trusted else ()
    names = [path.name for path in (*weight_files(directory), *code)]
    # A recipe may ask for the pooler of a directory that does not list it.
    folders = (LATENT_ATTENTION_FOLDER, *module_folders(directory, (*POOLERS, PROJECTION)))
    modules = [f"{folder}/{name}" for folder in folders for name in _MODULE_FILES]
    return _digest_of(directory, [*names, *TOKENIZER_FILES, *_LAYOUT_FILES, *modules])


def tokenizer_digest(directory: str | Path) -> str:
    """Return the sha256 (64 hex digits) over a model's tokenizer files."""
    return _digest_of(Path(directory), list(TOKENIZER_FILES))


def _digest_of(directory: Path, names: list[str]) -> str:
    total = hashlib.sha256()
    for name in sorted(set(names)):
        path = directory / name
        if path.is_file():
            total.update(f"{name}\0{file_digest(path)}\0".encode())
    if lower_cases(directory):
        total.update(b"lower-cased\0")
    return total.hexdigest()


def lower_cases(directory: Path) -> bool:
    """Return whether sentence-transformers lower-cases texts for a model, whatever its tokenizer does."""
    path = directory / "sentence_bert_config.json"
    return path.is_file() and bool(json.loads(path.read_text()).get("do_lower_case"))


def file_digest(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file, read once while its size and time are the same."""
    status = path.stat()
    return _digest_once(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_once(path: str, num_bytes: int, modified_ns: int) -> str:  # noqa: ARG001 (part of the key)
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _max_tokens(directory: Path, config: Mapping[str, Any]) -> int | None:
    limits = [max_positions(config)]
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        path = directory / name
        declared = json.loads(path.read_text()).get(key) if path.is_file() else None
        # Tokenizers without a limit store 1e30.
        limits.append(int(declared) if declared and declared < 1e9 else None)
    return min((limit for limit in limits if limit), default=None)


def _num_parameters(directory: Path, config: Mapping[str, Any]) -> int:
    total = 0
    moe = config.get("moe") or {}
    used = moe.get("experts_per_token", 1) / moe.get("num_experts", 1)
    for name, shape in weight_shapes(directory).items():
        if "embed" not in name and "lm_head" not in name:
            # Stacked weights [experts, out, in]: a token passes through some of them.
            total += int(prod(shape) * (used if len(shape) == 3 else 1.0))
    return total


def _listing(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "an empty directory"
