"""Code that a model's directory brings, and whether it may run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.bidirectional import DECODERS, ENCODERS, attention_of
from models.errors import ModelError
from models.layout import read_config


def check_code(directory: Path, trusted: bool) -> None:
    """Refuse a model that cannot be loaded without the code that it brings, unless that is trusted.

    Raises:
        ModelError: It is not.
    """
    config = read_config(directory)
    code = config.get("auto_map", {}).get("AutoModel")
    if code is None or config.get("moe") is not None:
        return
    if trusted and "--" in code:
        raise ModelError(
            "the model's code lies in another repository",
            str(directory),
            got=code,
            expected="code in the model's own directory",
            fix="copy it there, and write auto_map in config.json as module.Class",
        )
    if not trusted and not _is_native(config):
        raise ModelError(
            "the model brings code of its own, which runs only where the recipe trusts it",
            str(directory),
            got=f"{config.get('model_type')}: {code}",
            expected=f"a model that transformers knows, such as {', '.join((*DECODERS, *ENCODERS)[:8])}",
            fix="read the code, then set trust_remote_code: true beside the model's source",
        )


def _is_native(config: Mapping[str, Any]) -> bool:
    if attention_of(config) is not None:
        return True
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return config.get("model_type") in CONFIG_MAPPING_NAMES
