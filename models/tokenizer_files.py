"""The tokenizer of a model's directory, and the Rust tokenizer in it, which travels as a string."""

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ModelError
from models.lean_imports import import_transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@lru_cache(maxsize=8)
def deserialize(serialized: str, max_tokens: int | None) -> "Tokenizer":
    """Return a Rust tokenizer that does not pad, once a process.

    Args:
        serialized: As ``Tokenizer.to_str`` returns it.
        max_tokens: Where it cuts. None: nowhere.
    """
    from tokenizers import Tokenizer

    # Said outright, or the Rust library turns its threads off, with a warning, in every forked process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    backend: Tokenizer = Tokenizer.from_str(serialized)
    backend.no_padding()
    if max_tokens is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(max_tokens)
    return backend


def load_backend(directory: Path) -> "Tokenizer":
    """Return the Rust tokenizer of a model's directory, as transformers builds it.

    Raises:
        ModelError: The directory has no fast tokenizer.
    """
    backend: Tokenizer = load_tokenizer(directory).backend_tokenizer
    return backend


def load_tokenizer(directory: Path) -> Any:
    """Return the tokenizer of a model's directory.

    ``tokenizer_config.json`` may add to ``tokenizer.json`` (lower-casing, BOS, EOS), so it is transformers
    that reads them.

    Raises:
        ModelError: The directory has no fast tokenizer.
    """
    import_transformers()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        _ = tokenizer.backend_tokenizer
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise ModelError(
            "no usable tokenizer",
            str(directory),
            got=str(error).splitlines()[0] if str(error) else repr(error),
            expected="tokenizer.json (a fast tokenizer)",
            fix="copy the model's tokenizer files into this directory",
        ) from error
    return tokenizer
