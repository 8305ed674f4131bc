"""Whether a recipe's training fits the model that it begins with, told by its config before anything starts."""

from pathlib import Path
from typing import Any

from models.layout import describe_model, read_config
from pipelines.train.checks import check_dimensions
from pipelines.train.config import TrainConfig


def check_beginning(directory: Path, config: TrainConfig, pooling: str, trusted: bool) -> None:
    """Refuse what the ranks would refuse once everything is mined; no weight is read.

    Args:
        directory: Of the model, as ``resolve_model`` returns it.
        config: Of the training.
        pooling: Name of the pooler.
        trusted: Whether code that the directory brings may run.

    Raises:
        ModelError: Experts in layers that are not there or in an architecture that is not known, patterns of
            `lora.targets` or `only_train` that match nothing, matryoshka's prefixes longer than an embedding.
    """
    content = read_config(directory)
    check_dimensions(config, describe_model(directory).dimension)
    if config.moe is not None:
        _check_experts(config, content)
    elif config.lora is not None or config.only_train is not None:
        _check_patterns(directory, config, pooling, trusted)


def _check_experts(config: TrainConfig, content: dict[str, Any]) -> None:
    from models.moe.upcycle import family_of, resolve_layers

    assert config.moe is not None
    family_of(str(content.get("model_type")))
    layers = int(content.get("num_hidden_layers", 0))
    if layers:
        resolve_layers(config.moe.layers, layers)


def _check_patterns(directory: Path, config: TrainConfig, pooling: str, trusted: bool) -> None:
    from models.adapters import adaptable_layers, match_names, train_only
    from models.weightless import weightless_encoder

    encoder = weightless_encoder(directory, pooling, trusted)
    if config.lora is not None:
        match_names(
            config.lora.targets, adaptable_layers(encoder.backbone), "train.lora.targets", "linear layer"
        )
    if config.only_train is not None:
        train_only(encoder, config.only_train)
