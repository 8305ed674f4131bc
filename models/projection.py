"""A linear layer behind the pooler, sentence-transformers' `Dense`, as EmbeddingGemma has two.

Shapes: B texts, I and O components before and behind it.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.errors import ModelError
from models.sentence_modules import PROJECTION_CONFIG, ProjectionSettings

_WEIGHTS = "model.safetensors"


class Projection(nn.Module):
    """``activation(x W^T + b)``, in float32 whatever the backbone computes in: it makes the embedding's last digits.

    Args:
        settings: Sizes and what follows the product.
    """

    def __init__(self, settings: ProjectionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.linear = nn.utils.skip_init(nn.Linear, settings.inputs, settings.outputs, bias=settings.bias)
        self.activation: nn.Module = getattr(nn, settings.activation)()

    def forward(self, emb_BI: torch.Tensor) -> torch.Tensor:
        """Return float32 [B, O]."""
        with torch.autocast(emb_BI.device.type, enabled=False):
            out_BO: torch.Tensor = self.activation(self.linear(emb_BI.to(self.linear.weight.dtype)))
        return out_BO.float()

    def save(self, folder: str | Path) -> None:
        """Write what sentence-transformers' `Dense` reads into a folder, made if absent."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.detach().contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, str(folder / _WEIGHTS), metadata={"format": "pt"})
        kind = type(self.activation)
        told = {
            "in_features": self.settings.inputs,
            "out_features": self.settings.outputs,
            "bias": self.settings.bias,
            "activation_function": f"{kind.__module__}.{kind.__qualname__}",
        }
        (folder / PROJECTION_CONFIG).write_text(json.dumps(told, indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> "Projection":
        """Return what ``save``, or sentence-transformers, wrote; in float32.

        Raises:
            ModelError: It computes something else, or its weights are missing, pickled or of other shapes.
        """
        folder = Path(folder)
        module = cls(ProjectionSettings.read(folder))
        if not (folder / _WEIGHTS).is_file():
            raise ModelError(
                "no weights that can be read safely",
                str(folder),
                got=", ".join(sorted(path.name for path in folder.iterdir())),
                expected=_WEIGHTS,
                fix="load the model in sentence-transformers and save it again",
            )
        try:
            module.load_state_dict(load_file(str(folder / _WEIGHTS)))
        except (RuntimeError, SafetensorError) as error:
            raise ModelError(
                "weights do not fit the settings",
                str(folder),
                got=str(error).splitlines()[-1].strip(),
                fix="copy the model's files here again",
            ) from error
        return module
