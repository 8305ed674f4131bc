"""Latent attention: token states attend to a trainable array, pass an MLP and are averaged (NV-Embed, 2405.17428).

The weights lie in a folder of their own, beside an exported copy of this file with which sentence-transformers loads
them; so it imports torch and safetensors alone, nothing of this project.

Shapes: B texts, T padded tokens, D dimensions of a token state, L latents, F hidden size of the MLP.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
POOLING = "pooling.json"


class LatentAttention(nn.Module):
    """Pool token states through a latent array; equal to the mean of the states until it is trained.

    ``o = h + Attention(norm(h), latents, latents) W_o; emb = mean(o + MLP(norm(o)))``, with W_o and the MLP's last
    matrix 0 at the start: what a model has learned under mean pooling is kept, and training departs from there.

    Args:
        dimension: D.
        num_latents: L; 512 in the paper.
        num_heads: Of the attention; divides D.
        seed: Of the weights at the start.
    """

    def __init__(self, dimension: int, num_latents: int = 512, num_heads: int = 8, seed: int = 0) -> None:
        super().__init__()
        if dimension % num_heads:
            raise ValueError(
                f"latent attention: {num_heads} heads do not divide {dimension} dimensions; "
                f"set num_heads to {next(n for n in range(num_heads, 0, -1) if dimension % n == 0)}"
            )
        self.num_heads = num_heads
        generator = torch.Generator().manual_seed(seed)
        self.latents_LD = nn.Parameter(torch.randn(num_latents, dimension, generator=generator) * 0.02)
        self.norm = nn.LayerNorm(dimension)
        self.latent_norm = nn.LayerNorm(dimension)
        self.query, self.key, self.value, self.output = (
            _linear(dimension, dimension, generator) for _ in range(4)
        )
        self.mlp_norm = nn.LayerNorm(dimension)
        self.up = _linear(dimension, 4 * dimension, generator)
        self.down = _linear(4 * dimension, dimension, generator)
        for last in (self.output, self.down):
            nn.init.zeros_(last.weight)

    @property
    def settings(self) -> dict[str, int]:
        """What the constructor needs to be told."""
        num_latents, dimension = self.latents_LD.shape
        return {"dimension": dimension, "num_latents": num_latents, "num_heads": self.num_heads}

    def states(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Return what each token's state becomes, in the dtype of the weights."""
        hidden_BTD = hidden_BTD.to(self.latents_LD.dtype)
        latents_LD = self.latent_norm(self.latents_LD)
        q_BTD, k_LD, v_LD = self.query(self.norm(hidden_BTD)), self.key(latents_LD), self.value(latents_LD)
        head = (self.num_heads, -1)
        attended_BhTd = nn.functional.scaled_dot_product_attention(
            q_BTD.unflatten(-1, head).transpose(1, 2),
            k_LD.unflatten(-1, head).transpose(0, 1).expand(len(hidden_BTD), -1, -1, -1),
            v_LD.unflatten(-1, head).transpose(0, 1).expand(len(hidden_BTD), -1, -1, -1),
        )
        out_BTD = hidden_BTD + self.output(attended_BhTd.transpose(1, 2).flatten(2))
        return out_BTD + self.down(nn.functional.gelu(self.up(self.mlp_norm(out_BTD))))

    def forward(self, hidden_BTD: torch.Tensor, pool_mask_BT: torch.Tensor) -> torch.Tensor:
        """Pool.

        Args:
            hidden_BTD: Hidden states, any float dtype.
            pool_mask_BT: 1 or True where a token counts.

        Returns:
            float32 [B, D]; the mean is summed in float32.
        """
        out_BTD = self.states(hidden_BTD)
        total_BD = (out_BTD * pool_mask_BT.unsqueeze(-1).to(out_BTD.dtype)).sum(dim=1, dtype=torch.float32)
        return total_BD / pool_mask_BT.sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)

    def save(self, folder: str | Path) -> None:
        """Write weights and settings into a folder, made if absent."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        weights = {name: weight.detach().contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, str(Path(folder) / WEIGHTS), metadata={"format": "pt"})
        (Path(folder) / CONFIG).write_text(json.dumps(self.settings, indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> "LatentAttention":
        """Return what ``save`` wrote.

        Raises:
            ValueError: The weights are not those of the settings.
        """
        module = cls(**json.loads((Path(folder) / CONFIG).read_text()))
        try:
            module.load_state_dict(load_file(str(Path(folder) / WEIGHTS)))
        except RuntimeError as error:
            raise ValueError(f"{folder}: weights do not fit the settings: {error}") from error
        return module


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    # Built without drawing from the global generator.
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5, generator=generator)
    return layer


class LatentAttentionPooling(nn.Module):
    """The pooler as a module of sentence-transformers, which builds it with ``load``.

    Args:
        pooler: The weights.
        include_prompt: Whether a prompt's tokens are pooled.
    """

    def __init__(self, pooler: LatentAttention, include_prompt: bool = True) -> None:
        super().__init__()
        self.pooler = pooler
        self.include_prompt = include_prompt

    def forward(self, features: dict[str, Any], **_options: object) -> dict[str, Any]:
        """Add ``sentence_embedding``; ``prompt_length`` says how many tokens of the prompt lead."""
        mask_BT = features["attention_mask"]
        if not self.include_prompt and features.get("prompt_length"):
            length = features["prompt_length"]
            length = int(length[0]) if isinstance(length, torch.Tensor) else int(length)
            # Padding may stand to the left.
            mask_BT = mask_BT * (mask_BT.cumsum(1) > length)
        features["sentence_embedding"] = self.pooler(features["token_embeddings"], mask_BT)
        return features

    def get_embedding_dimension(self) -> int:
        """Components of an embedding."""
        return self.pooler.settings["dimension"]

    def save(self, output_path: str, *_arguments: object, **_options: object) -> None:
        """Write what ``load`` reads."""
        self.pooler.save(output_path)
        (Path(output_path) / POOLING).write_text(json.dumps({"include_prompt": self.include_prompt}) + "\n")

    @classmethod
    def load(
        cls, model_name_or_path: str, subfolder: str = "", **_options: object
    ) -> "LatentAttentionPooling":
        """Return the module of a local directory."""
        folder = Path(model_name_or_path) / subfolder
        told = json.loads((folder / POOLING).read_text())
        return cls(LatentAttention.read(folder), bool(told["include_prompt"]))
