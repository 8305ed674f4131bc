"""Models in a GGUF file, as llama.cpp keeps them: turned once into a plain directory of safetensors."""

import os
import shutil
import struct
import tempfile
from importlib.util import find_spec
from pathlib import Path

from models.errors import ModelError
from models.layout import file_digest
from models.silence import silence

CONVERSION_VERSION = 1
"""Raised whenever the directory made of a file would change."""


def gguf_file(directory: Path) -> Path | None:
    """Return the one GGUF file of a directory that holds no plain model; None where there is none.

    Raises:
        ModelError: There are several.
    """
    if (directory / "config.json").is_file():
        return None
    files = sorted(directory.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(
            "several GGUF files",
            str(directory),
            got=", ".join(file.name for file in files),
            expected="one",
            fix=f"name the file: {directory / files[0].name}",
        )
    return files[0] if files else None


def plain_directory(file: Path, cache: Path | None = None) -> Path:
    """Return a directory with what a GGUF file holds: float32 weights, config, tokenizer, chat template.

    Made once a machine and file (by its bytes), and then found again; processes that make it at the same time
    do not disturb each other. Dequantising is exact: what a file has rounded stays rounded, nothing is added.

    Args:
        file: The GGUF file.
        cache: Where such directories are kept. None: beside the hub's own cache.

    Raises:
        ModelError: The package gguf is not installed, or transformers cannot read this file.
    """
    kept = (cache or _cache()) / f"{file.stem}-{file_digest(file)[:24]}-v{CONVERSION_VERSION}"
    if (kept / "config.json").is_file():
        return kept
    if find_spec("gguf") is None:
        raise ModelError(
            "reading a GGUF file needs the package gguf",
            str(file),
            fix="pip install -c constraints.txt 'stope[gguf]'",
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{kept.name}.", dir=kept.parent))
    try:
        _convert(file, made)
        made.chmod(0o755)
        _publish(made, kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return kept


def _publish(made: Path, kept: Path) -> None:
    try:
        made.replace(kept)
    except OSError:
        # Another process was faster; its directory has the same content.
        if not (kept / "config.json").is_file():
            raise


def _convert(file: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": file.name, "local_files_only": True}
    with silence():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **place)
            loaded = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **place)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, struct.error) as error:
            raise ModelError(
                "transformers cannot read this GGUF file",
                str(file),
                got=(str(error).strip() or repr(error)).splitlines()[0],
                expected="a text model of a family that transformers reads from GGUF",
                fix="name the same model in safetensors",
            ) from error
        # save_pretrained refuses a model that says it is quantised, which this one is no longer.
        config = loaded.config
        del config.quantization_config
        plain = type(loaded)(config).to(torch.float32)
        plain.load_state_dict(loaded.state_dict())
        tokenizer.save_pretrained(str(directory))
        plain.save_pretrained(str(directory))


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    preferred = Path(HF_HOME) / "stope" / "gguf"
    existing = next(folder for folder in (preferred, *preferred.parents) if folder.is_dir())
    if os.access(existing, os.W_OK):
        return preferred
    return Path(tempfile.gettempdir()) / f"stope-gguf-{os.getuid()}"
