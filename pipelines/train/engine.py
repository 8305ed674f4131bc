"""The model under DeepSpeed: float32 weights, gradients and optimizer state, matrix products in bfloat16."""

from dataclasses import dataclass
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from pydantic import JsonValue
from torch import distributed, nn

from models.adapters import Lora, add_lora, train_only
from models.encoder import Encoder
from pipelines.train.attention import use_plain_attention
from pipelines.train.checks import check_dimensions
from pipelines.train.config import TrainConfig
from pipelines.train.dealing import Inputs


class Tower(nn.Module):
    """Run several padded batches through one encoder in one forward pass of the engine.

    One call, because ZeRO-3 learns the order in which weights are needed from a pass of the engine's module.

    Args:
        encoder: With float32 weights.
        dtype: Of matrix products. bfloat16 through autocast: with weights rounded to bfloat16 the gradient of
            a contrastive loss at temperature 0.05 was 17% off, through autocast 1%, in the same time.
    """

    def __init__(self, encoder: Encoder, dtype: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.dtype = getattr(torch, dtype)

    def forward(self, batches: list[Inputs]) -> list[torch.Tensor]:
        """Return the embeddings [B, D], float32, of each batch."""
        device = self.encoder.device
        low = self.dtype != torch.float32
        with torch.autocast(device.type, dtype=self.dtype if low else None, enabled=low):
            return [self.encoder(*(tensor.to(device) for tensor in inputs)) for inputs in batches]


@dataclass(frozen=True)
class Trainable:
    """An encoder and the DeepSpeed engine that updates it.

    Args:
        encoder: Its weights are whole on every rank, except under ZeRO-3.
        engine: Wraps a Tower around it.
    """

    encoder: Encoder
    engine: Any


def make_trainable(encoder: Encoder, config: TrainConfig, dtype: str) -> Trainable:
    """Put ``encoder`` under DeepSpeed; the process group exists already.

    Args:
        encoder: With float32 weights; changed in place.
        config: Of the training.
        dtype: Resolved, of matrix products.

    Raises:
        ModelError: A pattern of `lora.targets` or `only_train` matches nothing, or matryoshka's prefixes are longer
            than an embedding.
    """
    check_dimensions(config, encoder.dimension)
    set_dropout(encoder, config.dropout)
    lora = lora_of(config)
    if lora:
        add_lora(encoder.backbone, lora, config.seed)
    if config.only_train:
        train_only(encoder.backbone, config.only_train)
    if encoder.device.type == "cpu" and dtype == "bfloat16":
        use_plain_attention(encoder.backbone)
    if config.gradient_checkpointing:
        encoder.backbone.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    # Otherwise DeepSpeed compiles a shared-memory collective for a minute, and needs a compiler for it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if encoder.device.type == "cuda" else "gloo", verbose=False
    )
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        # Gains and biases: pulling them to zero only rescales what follows.
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        # DeepSpeed cannot flatten an empty group.
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        fused=True,
    )
    tower = Tower(encoder, dtype).train()
    engine, *_ = deepspeed.initialize(model=tower, optimizer=optimizer, config=deepspeed_config(config))
    return Trainable(encoder, engine)


def deepspeed_config(config: TrainConfig) -> dict[str, JsonValue]:
    """Return DeepSpeed's own configuration: the user's settings, and those that follow from the recipe."""
    zero = config.deepspeed.get("zero_optimization", {})
    assert isinstance(zero, dict)
    offload: dict[str, JsonValue] = {}
    if config.offload == "optimizer":
        offload = {"offload_optimizer": {"device": "cpu", "pin_memory": False}}
    return {
        "steps_per_print": 2**31,
        **config.deepspeed,
        "zero_optimization": {"overlap_comm": False, **offload, **zero, "stage": config.zero_stage},
        # Its own optimizer for the processor would be compiled for a minute first; torch's does as well.
        **({"zero_force_ds_cpu_optimizer": False} if offload else {}),
        # DeepSpeed only counts with these two: batches are cut by the plan.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_gradient_norm,
        # Its own AdamW would be compiled for two minutes first.
        "zero_allow_untested_optimizer": True,
    }


def lora_of(config: TrainConfig) -> Lora | None:
    """Return the adapters that a recipe asks for."""
    asked = config.lora
    return Lora(asked.rank, asked.alpha, asked.dropout, asked.targets) if asked else None


def set_dropout(encoder: Encoder, dropout: float) -> None:
    """Set every dropout of the backbone, that of attention included."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        # Decoders keep the probability of their attention's dropout as a number.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout  # type: ignore[assignment]


def whole_weights(trainable: Trainable) -> dict[str, torch.Tensor]:
    """Return copies of the encoder's weights, float32, on the processor.

    Every rank must call it; rank 0 gets them, the others nothing.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in trainable.encoder.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if distributed.get_rank() == 0:
                weights[name] = parameter.detach().to("cpu", torch.float32, copy=True)
    return weights
