"""Merge the weights of encoders of one architecture: a weighted mean, or a point on the arc between two."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from models.errors import ModelError
from models.latent_attention import CONFIG
from models.layout import read_config, weight_files
from models.projection import Projection
from models.sentence_modules import LATENT_ATTENTION_FOLDER, read_modules
from models.weights import BUFFERS

MIN_SINE = 1e-6
"""Below, two weights have one direction, or opposite ones, as far as float32 tells: the arc is a line, or is not
defined, and the point on the line is taken."""
POOLER_HEADS = f"{LATENT_ATTENTION_FOLDER}.num_heads"
PROJECTIONS = "projections"
SHAPE_KEYS = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
    *(POOLER_HEADS, PROJECTIONS),
)
"""Of config.json: what models must share, beside the shapes of their weights, for a merge to mean something; and of
the settings of a pooler latent_attention and of projections."""


def soup(
    directories: Sequence[str | Path], output: str | Path, weights: Sequence[float] | None = None
) -> Path:
    """Write the weighted mean of several encoders (model soups, arXiv 2203.05482).

    Args:
        directories: Two or more models with the same config and tokenizer, such as checkpoints of one base model;
            config, tokenizer, pooling and prompts are taken from the first.
        output: A directory that is not there yet.
        weights: One a model, at least 0; divided by their sum. None: all the same.

    Returns:
        The output, loaded as the first model is. Float weights have the dtype of the first model's, the mean is taken
        in float64.

    Raises:
        ModelError: Too few models, weights that make no mean, or models that differ in more than their weights.
    """
    given = [1.0] * len(directories) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(directories) or len(given) < 2:
        raise ModelError(
            "a soup takes two models or more, and one weight each",
            got=f"{len(directories)} models, {len(given)} weights",
        )
    if not (all(0 <= weight < math.inf for weight in given) and sum(given) > 0):
        raise ModelError("the weights make no mean", got=str(given), expected="0 or more, not all of them 0")
    shares = [weight / sum(given) for weight in given]

    def mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([share * each.double() for share, each in zip(shares, tensors, strict=True)]).sum(
            0
        )

    return _merge([Path(directory) for directory in directories], Path(output), mean)


def slerp(first: str | Path, second: str | Path, output: str | Path, t: float = 0.5) -> Path:
    """Write the encoder at ``t`` on the arc between two, weight by weight; see slerp_tensors.

    Args:
        first: A model; config, tokenizer, pooling and prompts are taken from it.
        second: A model with the same config and tokenizer.
        output: A directory that is not there yet.
        t: 0 is the first model, 1 the second.

    Returns:
        As soup does.

    Raises:
        ModelError: ``t`` lies outside 0 to 1, or the models differ in more than their weights.
    """
    if not 0 <= t <= 1:
        raise ModelError("t lies outside the arc", got=str(t), expected="0 to 1")
    return _merge(
        [Path(first), Path(second)], Path(output), lambda tensors: slerp_tensors(tensors[0], tensors[1], t)
    )


def slerp_tensors(first: torch.Tensor, second: torch.Tensor, t: float) -> torch.Tensor:
    """Return the point at ``t`` on the arc between two tensors taken as vectors.

    ``sin((1 - t) O) / sin O * a + sin(t O) / sin O * b``, O the angle between a and b (Shoemake, SIGGRAPH 1985). Where
    they have the same direction, opposite ones, or one is 0: ``(1 - t) a + t b``.

    Args:
        first: Any shape, float.
        second: The same shape.
        t: 0 to 1.

    Returns:
        float64, of that shape.
    """
    a, b = first.double(), second.double()
    norm_a, norm_b = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    line = (1 - t) * a + t * b
    if not (norm_a > 0 and norm_b > 0):
        return line
    unit_a, unit_b = a / norm_a, b / norm_b
    # Of small angles the arc cosine of the inner product knows only half of the digits.
    angle = 2 * math.atan2(
        float(torch.linalg.vector_norm(unit_a - unit_b)), float(torch.linalg.vector_norm(unit_a + unit_b))
    )
    sine = math.sin(angle)
    if sine < MIN_SINE:
        return line
    return math.sin((1 - t) * angle) / sine * a + math.sin(t * angle) / sine * b


def _merge(
    directories: list[Path], output: Path, merged: Callable[[Sequence[torch.Tensor]], torch.Tensor]
) -> Path:
    from safetensors.torch import save_file

    if output.exists():
        raise ModelError("the output is there already", str(output), fix="name a new directory")
    configs = [_read_settings(directory) for directory in directories]
    for directory, config in zip(directories[1:], configs[1:], strict=True):
        for key in SHAPE_KEYS:
            if config.get(key) != configs[0].get(key):
                raise ModelError(
                    f"the models differ in {key}",
                    str(directory),
                    got=str(config.get(key)),
                    expected=str(configs[0].get(key)),
                    fix="merge models that were trained from one base model",
                )
    # The backbone's weights, and those of its pooler and its projections.
    folders = ("", LATENT_ATTENTION_FOLDER, *read_modules(directories[0]).projections)
    results = {folder: _merged_weights([each / folder for each in directories], merged) for folder in folders}
    leave_out = {path.name for path in weight_files(directories[0])}
    leave_out |= {path.name for path in directories[0].glob("*.safetensors.index.json")} | {"README.md"}

    def left_out(folder: str, names: list[str]) -> set[str]:
        return leave_out & set(names) if Path(folder) == directories[0] else set()

    shutil.copytree(directories[0], output, ignore=left_out)
    for folder, weights in results.items():
        if weights:
            save_file(weights, output / folder / "model.safetensors", metadata={"format": "pt"})
    return output


def _read_settings(directory: Path) -> dict[str, Any]:
    pooler = directory / LATENT_ATTENTION_FOLDER / CONFIG
    heads = json.loads(pooler.read_text()).get("num_heads") if pooler.is_file() else None
    folders = read_modules(directory).projections
    projections = [(folder, asdict(Projection.read(directory / folder).settings)) for folder in folders]
    return {**read_config(directory), POOLER_HEADS: heads, PROJECTIONS: projections}


def _merged_weights(
    directories: list[Path], merged: Callable[[Sequence[torch.Tensor]], torch.Tensor]
) -> dict[str, torch.Tensor]:
    models = [_read_weights(directory) for directory in directories]
    for directory, model in zip(directories[1:], models[1:], strict=True):
        _check_same(directory, model, models[0])
    return {
        # Not float: tables of positions and the like, equal in all.
        name: merged([model[name] for model in models]).to(weight.dtype).contiguous()
        if weight.is_floating_point()
        else weight
        for name, weight in models[0].items()
    }


def _read_weights(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(directory):
        weights |= load_file(path)
    # Old files hold what is computed, too; those that were trained from them do not.
    return {name: weight for name, weight in weights.items() if not name.endswith(BUFFERS)}


def _check_same(directory: Path, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    shapes, wanted = (
        {name: tuple(weight.shape) for name, weight in weights.items()} for weights in (found, expected)
    )
    different = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
    if different:
        name = different[0]
        raise ModelError(
            f"{len(different)} weights do not fit those of the first model",
            str(directory),
            got=f"{name}: {json.dumps(shapes.get(name))}",
            expected=json.dumps(wanted.get(name)),
            fix="merge models that were trained from one base model",
        )
