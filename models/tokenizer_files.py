"""The tokenizer of a model's directory, and the Rust tokenizer in it, which travels as a string."""

import json
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ModelError
from models.layout import TOKENIZER_FILES, lower_cases
from models.lean_imports import import_transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_OTHER_MODALITIES = re.compile("image|audio|video|vision", re.IGNORECASE)
"""What the special tokens are called that stand for something else than text."""


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


def complete_tokenizer(directory: Path) -> int:
    """Write what other libraries need to know of a tokenizer to read texts as they are read here.

    Decoders often name no padding token, without which no two texts make a batch there: that of the end takes its
    place. Texts are cut at their end.

    Args:
        directory: Of a model; its `tokenizer_config.json` is written anew, if need be.

    Returns:
        The id of the padding token.

    Raises:
        ModelError: There is no tokenizer, or it names neither a padding token nor an end.
    """
    path = directory / "tokenizer_config.json"
    tokenizer = load_tokenizer(directory)
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    missing: dict[str, Any] = {}
    if tokenizer.truncation_side != "right":
        missing["truncation_side"] = "right"
    token = padding_token(directory, tokenizer)
    if tokenizer.pad_token is None:
        missing["pad_token"] = token
    if missing:
        path.write_text(json.dumps(config | missing, indent=2) + "\n")
    return int(tokenizer.convert_tokens_to_ids(token))


def padding_token(directory: Path, tokenizer: Any) -> str:
    """Return what other libraries are to pad with: the tokenizer's own token, else the one that ends a text.

    Raises:
        ModelError: There is neither.
    """
    named = tokenizer.pad_token or tokenizer.eos_token
    if named:
        return str(named)
    config = json.loads((directory / "config.json").read_text())
    ids = config.get("pad_token_id") if config.get("pad_token_id") is not None else config.get("eos_token_id")
    ids = ids[0] if isinstance(ids, list) and ids else ids
    token = None if ids is None else tokenizer.convert_ids_to_tokens(int(ids))
    if token is None:
        raise ModelError(
            "the tokenizer names neither a padding token nor one that ends a text",
            str(directory),
            expected="pad_token or eos_token in tokenizer_config.json, or eos_token_id in config.json",
            fix='add "pad_token" to tokenizer_config.json',
        )
    return str(token)


def load_backend(directory: Path) -> "Tokenizer":
    """Return the Rust tokenizer of a model's directory, as ``load_tokenizer`` finds it.

    Raises:
        ModelError: The directory has no fast tokenizer.
    """
    backend: Tokenizer = load_tokenizer(directory).backend_tokenizer
    return backend


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy a model's tokenizer files; one that lower-cases by order of sentence-transformers does so by itself then."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    if lower_cases(source):
        write_backend(load_backend(source).to_str(), directory)


def write_backend(serialized: str, directory: Path) -> None:
    """Write a Rust tokenizer in the place of the one that a directory holds.

    Classes with a name of their own build the tokenizer from its vocabulary and leave out what was added. For some
    families (Qwen2) transformers takes such a class whatever is written here.

    Args:
        serialized: As ``Tokenizer.to_str`` returns it.
        directory: Of a model.
    """
    (directory / "tokenizer.json").write_text(serialized)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")


def text_tokens_only(serialized: str, num_embeddings: int) -> str:
    """Return a tokenizer without special tokens of other modalities that its model has no embeddings for.

    Gemma 3 has one tokenizer for all sizes, whose token of images lies behind the table of those that read text alone.

    Args:
        serialized: As ``Tokenizer.to_str`` returns it.
        num_embeddings: Rows of the model's table.
    """
    content = json.loads(serialized)
    added = content.get("added_tokens") or []
    kept = [
        token
        for token in added
        if token["id"] < num_embeddings
        or not (token.get("special") and _OTHER_MODALITIES.search(token["content"]))
    ]
    if len(kept) == len(added):
        return serialized
    return json.dumps({**content, "added_tokens": kept}, ensure_ascii=False)


def load_tokenizer(directory: Path) -> Any:
    """Return the tokenizer of a model's directory.

    ``tokenizer_config.json`` may add to ``tokenizer.json`` (lower-casing, BOS, EOS), so it is transformers
    that reads them; ``sentence_bert_config.json`` may ask for lower case besides.

    Raises:
        ModelError: The directory has no fast tokenizer.
    """
    import_transformers()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
        backend = tokenizer.backend_tokenizer
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise ModelError(
            "no usable tokenizer",
            str(directory),
            got=str(error).splitlines()[0] if str(error) else repr(error),
            expected="tokenizer.json (a fast tokenizer)",
            fix="copy the model's tokenizer files into this directory",
        ) from error
    if lower_cases(directory):
        from tokenizers.normalizers import Lowercase, Sequence

        # Twice is as good as once.
        backend.normalizer = Sequence([Lowercase(), *filter(None, [backend.normalizer])])
    return tokenizer
