"""What `modules.json` of a sentence-transformers directory lists behind the transformer; torch is not imported."""

import json
from dataclasses import dataclass
from pathlib import Path

from models.errors import ModelError

_POOLING_MODES = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
LATENT_ATTENTION_FOLDER = "1_LatentAttention"
_LATENT_ATTENTION_MODULE = "LatentAttentionPooling"
POOLERS = ("Pooling", _LATENT_ATTENTION_MODULE)
PROJECTION = "Dense"
"""Names of classes in `modules.json`."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
"""What may follow the product of a projection: classes of torch.nn that take no argument."""
PROJECTION_CONFIG = "config.json"
_VECTOR = "sentence_embedding"
_KNOWN = ("Transformer", *POOLERS, PROJECTION, "Normalize")


@dataclass(frozen=True)
class SentenceModules:
    """How token states become an embedding.

    Args:
        pooling: Name of the pooler; None where the directory names none.
        projections: Folders of the linear layers that a pooled vector passes, in order.
    """

    pooling: str | None = None
    projections: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProjectionSettings:
    """A linear layer behind the pooler: sentence-transformers' `Dense`.

    Args:
        inputs: Components before it.
        outputs: Components behind it.
        bias: Whether a bias is added.
        activation: A name in ACTIVATIONS.
    """

    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "Tanh"

    @staticmethod
    def read(folder: Path) -> "ProjectionSettings":
        """Return the settings in a folder of a `Dense` module.

        Raises:
            ModelError: It computes something else than a projection of the pooled vector does.
        """
        if not (folder / PROJECTION_CONFIG).is_file():
            raise ModelError(
                "a Dense module has no settings",
                str(folder),
                expected=PROJECTION_CONFIG,
                fix="copy all of the model's files, its folders too",
            )
        told = json.loads((folder / PROJECTION_CONFIG).read_text())
        written = str(told.get("activation_function", "torch.nn.modules.activation.Tanh"))
        module, _, activation = written.rpartition(".")
        supported = f"torch.nn.{' or '.join(ACTIVATIONS)}"
        named = module == "torch.nn" or module.startswith("torch.nn.modules.")
        within = named and activation in ACTIVATIONS
        for name, got, expected in (
            ("input", told.get("module_input_name") or _VECTOR, _VECTOR),
            ("output", told.get("module_output_name") or _VECTOR, _VECTOR),
            ("residual", bool(told.get("use_residual")), False),
            ("activation", supported if within else written, supported),
        ):
            if got != expected:
                raise ModelError(
                    f"this Dense module has another {name} than is supported",
                    str(folder / PROJECTION_CONFIG),
                    got=str(got),
                    expected=str(expected),
                    fix="choose another model",
                )
        return ProjectionSettings(
            int(told["in_features"]), int(told["out_features"]), bool(told.get("bias", True)), activation
        )


def module_folders(directory: Path, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders of the modules of these classes that ``modules.json`` lists; none where there is no file."""
    listed = ((str(module["type"]).rpartition(".")[2], str(module["path"])) for module in _listed(directory))
    return tuple(folder for name, folder in listed if name in kinds)


def read_modules(directory: Path) -> SentenceModules:
    """Return what a directory declares; nothing where it is one of transformers alone.

    Raises:
        ModelError: It pools in a way, has a module, or has modules in an order that is not supported.
    """
    path, listed = directory / "modules.json", _listed(directory)
    names = [str(module["type"]).rpartition(".")[2] for module in listed]
    unknown = [name for name in names if name not in _KNOWN]
    if unknown:
        raise ModelError(
            "the model has modules that are not supported",
            str(path),
            got=", ".join(unknown),
            expected=", ".join(_KNOWN),
            fix="choose a model without them",
        )
    ordered = sorted(names, key=lambda name: (0, 1, 1, 2, 3)[_KNOWN.index(name)])
    poolers = [i for i, name in enumerate(names) if name in POOLERS]
    if ordered != names or len(poolers) > 1 or (PROJECTION in names and not poolers):
        raise ModelError(
            "the model has its modules in an order that is not supported",
            str(path),
            got=", ".join(names),
            expected="Transformer, one pooler, any number of Dense, Normalize",
            fix="choose another model",
        )
    folders = [str(module["path"]) for module in listed]
    dense = tuple(folder for folder, name in zip(folders, names, strict=True) if name == PROJECTION)
    if not poolers:
        return SentenceModules()
    latent = names[poolers[0]] == _LATENT_ATTENTION_MODULE
    path = directory / folders[poolers[0]] / "config.json"
    return SentenceModules("latent_attention" if latent else _read_pooling(path), dense)


def includes_prompt(directory: Path) -> bool:
    """Return whether the tokens of a prompt are pooled, as the pooler's settings say; by default they are."""
    folders = [*module_folders(directory, POOLERS), "1_Pooling"]
    for path in (directory / folder / name for folder in folders for name in ("config.json", "pooling.json")):
        told = json.loads(path.read_text()) if path.is_file() else {}
        if "include_prompt" in told:
            return bool(told["include_prompt"])
    return True


def _listed(directory: Path) -> list[dict[str, str]]:
    path = directory / "modules.json"
    return json.loads(path.read_text()) if path.is_file() else []


def _read_pooling(path: Path) -> str:
    config = json.loads(path.read_text())
    modes = config.get("pooling_mode") or [flag for key, flag in _POOLING_FLAGS.items() if config.get(key)]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in {**_POOLING_MODES, "last": "last"}:
        raise ModelError(
            "this pooling is not supported",
            str(path),
            got=", ".join(map(str, modes)) or "none",
            expected="one of mean, cls, lasttoken",
            fix="choose another model",
        )
    return _POOLING_MODES.get(modes[0], modes[0])
