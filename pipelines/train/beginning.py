"""Whether a recipe's training fits the model that it begins with, read off the model's files before anything starts."""

from pathlib import Path
from typing import Any

from models.layout import read_config, weight_shapes
from pipelines.train.checks import check_dimensions
from pipelines.train.config import TrainConfig


def check_beginning(directory: Path, config: TrainConfig) -> None:
    """Refuse what the ranks would refuse once everything is mined, as far as files tell; no weight is read.

    Args:
        directory: Of the model, as ``resolve_model`` returns it.
        config: Of the training.

    Raises:
        ModelError: Experts in layers that are not there or in an architecture that is not known, patterns of
            `lora.targets` or `only_train` that match nothing, matryoshka's prefixes longer than an embedding.
    """
    content = read_config(directory)
    check_dimensions(config, int(content["hidden_size"]))
    if config.moe is not None:
        _check_experts(config, content)
        return  # Experts have names that the file does not hold.
    shapes = weight_shapes(directory)
    if config.lora is not None:
        layers = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) >= 2}
        _check_patterns(config.lora.targets, layers, "train.lora.targets", "linear layer")
    if config.only_train is not None:
        # A pooler's weights may be made first.
        patterns = [p.removeprefix("backbone.") for p in config.only_train if "latent_attention" not in p]
        _check_patterns(patterns, set(shapes), "train.only_train", "weight")


def _check_experts(config: TrainConfig, content: dict[str, Any]) -> None:
    from models.moe.upcycle import family_of, resolve_layers

    assert config.moe is not None
    family_of(str(content.get("model_type")))
    layers = int(content.get("num_hidden_layers", 0))
    if layers:
        resolve_layers(config.moe.layers, layers)


def _check_patterns(patterns: Any, names: set[str], where: str, what: str) -> None:
    from models.adapters import match_names

    match_names(tuple(patterns), dict.fromkeys(names), where, what)
