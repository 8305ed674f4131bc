"""A transformer's shape, from its config.json alone: what a token costs, and how large the weights are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError

# A gate beside the up-projection, in models that do not normalise by root mean square, which tells the others apart.
_GATED_FAMILIES = ("modernbert", "nomic_bert", "new")
_OTHER_NAMES = {
    "dim": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "hidden_dim": "intermediate_size",
}
"""What DistilBERT calls its sizes."""
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class ModelShape:
    """The matrices of a transformer; biases, norms and poolers, about a percent, are left out.

    Args:
        num_layers: Transformer layers.
        hidden: Width of a token's state.
        attention_width: Heads times width of a head.
        num_heads: Query heads.
        intermediate: Width of the feed-forward layer.
        attention_parameters: Weights of one layer's attention.
        layer_parameters: Weights of one layer, all experts counted.
        active_parameters: Weights of one layer that one token is multiplied with.
        embedding_parameters: Weights of the token and position tables, which cost no multiplication.
        vocabulary: Rows of the token table.
    """

    num_layers: int
    hidden: int
    attention_width: int
    num_heads: int
    intermediate: int
    attention_parameters: int
    layer_parameters: int
    active_parameters: int
    embedding_parameters: int
    vocabulary: int

    @property
    def num_parameters(self) -> int:
        """All weights."""
        return self.num_layers * self.layer_parameters + self.embedding_parameters

    def adapter_parameters(self, rank: int) -> int:
        """Return the weights of low-rank updates of this rank beside every linear layer; experts share none."""
        grouped = (self.attention_parameters - 2 * self.hidden * self.attention_width) // (2 * self.hidden)
        attention = 2 * (self.hidden + self.attention_width) + 2 * (self.hidden + grouped)
        blocks = (self.layer_parameters - self.attention_parameters) // (self.hidden * self.intermediate)
        return rank * self.num_layers * (attention + blocks * (self.hidden + self.intermediate))

    @property
    def active_body(self) -> int:
        """Weights beside the embedding tables that one token is multiplied with: half its FLOPs."""
        return self.num_layers * self.active_parameters


def read_shape(source: str) -> ModelShape:
    """Return the shape of the model that a recipe names; of a hub id only small files are fetched.

    Raises:
        UserError: Its config does not tell the shape.
        ModelError: There is no such model.
    """
    path = model_directory(source) / "config.json"
    try:
        return shape_of(json.loads(path.read_text()))
    except KeyError as error:
        raise UserError(
            "the config does not tell the size of the model",
            where=str(path),
            got=f"no {error.args[0]}",
            expected="a text encoder or decoder of transformers",
        ) from error


def model_directory(source: str) -> Path:
    """Return a directory with the model's small files: config, tokenizer, prompts.

    Raises:
        ModelError: There is no such model.
    """
    from models.checkpoint import resolve_model

    is_file = source.startswith("package:") or source.endswith(".gguf") or "/" not in source
    if is_file or Path(source).expanduser().is_dir():
        return resolve_model(source)
    return _small_files(source)


def _small_files(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            "the model's config cannot be fetched",
            where=hub_id,
            got=str(error).splitlines()[0],
            expected="a directory, package:<module>, or the id of a model that can be reached",
        ) from error


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """Return the shape that a config of transformers describes.

    Args:
        config: Of an encoder (BERT and its kin) or of a decoder (Llama and its kin), dense or with experts.

    Raises:
        KeyError: It lacks a size.
    """
    config = {**{name: config[own] for own, name in _OTHER_NAMES.items() if own in config}, **config}
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    layers = int(config["num_hidden_layers"])
    head_width = int(config.get("head_dim") or hidden // heads)
    groups = int(config.get("num_key_value_heads") or heads)
    attention = 2 * hidden * heads * head_width + 2 * hidden * groups * head_width
    is_gated = "rms_norm_eps" in config or config.get("model_type") in _GATED_FAMILIES
    experts = next((int(config[key]) for key in _EXPERTS if config.get(key)), 1)
    chosen = int(config.get("num_experts_per_tok") or 1)
    intermediate = int(config["intermediate_size"])
    width = int(config.get("moe_intermediate_size") or intermediate) if experts > 1 else intermediate
    expert = (3 if is_gated else 2) * hidden * width
    router = hidden * experts if experts > 1 else 0
    # Rotary positions have no table; their configs name a theta.
    rotary = "rope_theta" in config or "rope_parameters" in config or is_gated
    positions = 0 if rotary else int(config.get("max_position_embeddings") or 0)
    return ModelShape(
        num_layers=layers,
        hidden=hidden,
        attention_width=heads * head_width,
        num_heads=heads,
        intermediate=width,
        attention_parameters=attention,
        layer_parameters=attention + experts * expert + router,
        active_parameters=attention + chosen * expert + router,
        embedding_parameters=(int(config["vocab_size"]) + positions) * hidden,
        vocabulary=int(config["vocab_size"]),
    )
