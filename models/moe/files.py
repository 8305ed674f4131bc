"""Models with experts on disk: the modelling file beside the weights, and which class reads them."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import ModelError
from models.lean_imports import import_transformers

MODELLING_FILE = "modeling_moe.py"
PARTS = ("router.py", "experts.py", "layer.py", "modeling.py")
HEADER = '''"""A backbone of transformers with experts in feed-forward blocks; `moe` in config.json says in which.

AutoModel.from_pretrained(path, trust_remote_code=True) and SentenceTransformer(path, trust_remote_code=True) load it.
It needs torch and transformers alone.
"""
'''


def modelling_source() -> str:
    """Return the modelling file: this package's own code, one file after the other, without imports among them."""
    sources = [HEADER]
    for name in PARTS:
        text = (Path(__file__).parent / name).read_text()
        lines = text.splitlines()
        for node in reversed(ast.parse(text).body):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("models."):
                del lines[node.lineno - 1 : node.end_lineno]
        sources.append("\n".join(lines).strip() + "\n")
    return "\n\n".join(sources)


def write_modelling_file(directory: Path) -> None:
    """Write the modelling file, and name it in the config, which ``save_pretrained`` has written there."""
    from models.moe.modeling import MOE_MODELS

    path = directory / "config.json"
    config = json.loads(path.read_text())
    name = MOE_MODELS[config["model_type"]].__name__
    config |= {
        "architectures": [name],
        "auto_map": {"AutoModel": f"{MODELLING_FILE.removesuffix('.py')}.{name}"},
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (directory / MODELLING_FILE).write_text(modelling_source())


def is_own_modelling_file(directory: Path) -> bool:
    """Return whether the modelling file of a directory is the one that this version writes."""
    path = directory / MODELLING_FILE
    return path.is_file() and path.read_text() == modelling_source()


def model_class(config: Mapping[str, Any], directory: Path) -> Any:
    """Return the class that loads the backbone of ``directory``: ours where it has experts, else AutoModel.

    Args:
        config: Its `config.json`.
        directory: For errors.

    Raises:
        ModelError: Its config names experts that cannot be.
    """
    if config.get("moe") is None:
        import_transformers()
        from transformers import AutoModel

        return AutoModel
    from models.moe.modeling import MOE_MODELS
    from models.moe.upcycle import check_description, family_of, read_description

    where = f"{directory / 'config.json'}: moe"
    family_of(str(config.get("model_type")))
    check_description(read_description(config["moe"], where), int(config["num_hidden_layers"]), where)
    return MOE_MODELS[config["model_type"]]


def check_leftovers(unexpected: list[str], directory: Path) -> None:
    """Refuse weights that a model with experts has no place for.

    Raises:
        ModelError: There are some.
    """
    if unexpected:
        raise ModelError(
            "weights are left over",
            str(directory),
            got=f"{len(unexpected)}: {', '.join(sorted(unexpected)[:4])}",
            expected="a place for every weight, as `moe` in config.json describes the model",
            fix="copy config.json and the weights from one and the same model",
        )
