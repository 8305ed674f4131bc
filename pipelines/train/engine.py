"""The model under DeepSpeed: float32 weights, gradients and optimizer state, matrix products in bfloat16."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.moe.utils import is_moe_param, split_params_into_different_moe_groups_for_optimizer
from torch import distributed, nn

from cluster.environment import environment_variable
from models.adapters import Lora, add_lora, train_only
from models.encoder import Encoder
from models.errors import ModelError
from models.moe.upcycle import train_experts, upcycle
from models.reranking.scorers import CrossEncoder
from pipelines.train.attention import use_plain_attention
from pipelines.train.checks import check_dimensions
from pipelines.train.config import TrainConfig
from pipelines.train.dealing import Inputs
from pipelines.train.deepspeed_settings import deepspeed_config, section
from pipelines.train.dropout import Rows, check_draws, row_keys, seed_by_row
from pipelines.train.expert_parallel import ParallelFeedForward, share_out

Network = Encoder | CrossEncoder
"""What is trained: token ids, their mask and a mask of marked tokens in, a row a text out, float32."""


class Tower(nn.Module):
    """Run several padded batches through one encoder in one forward pass of the engine.

    One call, because ZeRO-3 learns the order in which weights are needed from a pass of the engine's module.

    Args:
        encoder: With float32 weights.
        dtype: Of matrix products. bfloat16 through autocast: with weights rounded to bfloat16 the gradient of
            a contrastive loss at temperature 0.05 was 17% off, through autocast 1%, in the same time.
        rows: What the encoder's dropouts draw by. None: it has none, or only evaluates.
    """

    def __init__(self, encoder: Network, dtype: str, rows: Rows | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.dtype = getattr(torch, dtype)
        self.rows = rows or Rows()

    def forward(self, batches: list[Inputs], seeds: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Embed, or score, batch by batch.

        Args:
            batches: Padded tensors.
            seeds: Of the dropout of each batch. None: in evaluation, where nothing is dropped.

        Returns:
            Embeddings [B, D], or scores [B] of a cross-encoder, float32, of each batch.
        """
        device = self.encoder.device
        low = self.dtype != torch.float32
        embedded = []
        with torch.autocast(device.type, dtype=self.dtype if low else None, enabled=low):
            for place, inputs in enumerate(batches):
                on_device = self._fitting(inputs, device)
                keys_B = None if seeds is None else row_keys(on_device, seeds[place])
                with self.rows.passing(keys_B):
                    embedded.append(self.encoder(*on_device))
        return embedded

    def _fitting(self, inputs: Inputs, device: torch.device) -> Inputs:
        """Return the inputs on the model's device, without padding that goes beyond the model's positions."""
        most = self.encoder.max_tokens
        ids_BT, mask_BT, pool_BT = (tensor[:, :most].to(device) for tensor in inputs)
        return ids_BT, mask_BT, pool_BT


@dataclass(frozen=True)
class Trainable:
    """An encoder and the DeepSpeed engine that updates it.

    Args:
        encoder: Its weights are whole on every rank, except under ZeRO-3.
        engine: Wraps a Tower around it.
    """

    encoder: Network
    engine: Any


def make_trainable(
    encoder: Network, config: TrainConfig, dtype: str, reads_universal: bool = False
) -> Trainable:
    """Put ``encoder`` under DeepSpeed; the process group exists already.

    Args:
        encoder: With float32 weights; changed in place.
        config: Of the training.
        dtype: Resolved, of matrix products.
        reads_universal: Whether the checkpoint that it is to load was written by another number of ranks.

    Raises:
        ModelError: A pattern of `lora.targets` or `only_train` matches nothing, matryoshka's prefixes are longer
            than an embedding, another number of ranks shared experts out, or the model draws random numbers of its own.
    """
    check_dimensions(config, encoder.dimension)
    check_ranks(config, reads_universal)
    if config.moe:
        assert isinstance(encoder, Encoder)
        upcycle(encoder, config.moe.upcycling, config.seed)
    set_dropout(encoder, config.dropout)
    choose_trained(encoder, config)
    rows = seed_by_row(encoder.backbone)
    check_draws(encoder.backbone, rows)
    if encoder.device.type == "cpu" and dtype == "bfloat16":
        use_plain_attention(encoder.backbone)
    if config.gradient_checkpointing:
        # The second pass of a layer comes when the keys of its texts have left.
        options = {"use_reentrant": False, "context_fn": rows.again}
        encoder.backbone.gradient_checkpointing_enable(options)  # type: ignore[operator]
    # Otherwise DeepSpeed compiles a shared-memory collective for a minute, and needs a compiler for it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if encoder.device.type == "cuda" else "gloo", verbose=False
    )
    if config.moe and config.moe.engine == "deepspeed":
        share_out(encoder.backbone)
    trained = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    # Of experts biases have two dimensions.
    decayed = [name for name, p in trained.items() if p.ndim >= 2 and not name.endswith("bias")]
    groups: list[dict[str, Any]] = [
        {"params": [trained[name] for name in decayed], "weight_decay": config.weight_decay},
        # Gains and biases: pulling them to zero only rescales what follows.
        {"params": [p for name, p in trained.items() if name not in decayed], "weight_decay": 0.0},
    ]
    if any(map(is_moe_param, trained.values())):
        named = [{**group, "name": str(place)} for place, group in enumerate(groups)]
        groups = split_params_into_different_moe_groups_for_optimizer(named)
    optimizer = torch.optim.AdamW(
        # DeepSpeed cannot flatten an empty group.
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        fused=True,
    )
    tower = Tower(encoder, dtype, rows).train()
    settings = deepspeed_config(config)
    if reads_universal:
        settings["checkpoint"] = {**section(settings, "checkpoint"), "load_universal": True}
    # DeepSpeed looks whether the optimizer is this one. Its functions are for torch's compiler: two seconds to import.
    with environment_variable("TORCHDYNAMO_DISABLE", "1"):
        import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    engine, *_ = deepspeed.initialize(model=tower, optimizer=optimizer, config=settings)
    return Trainable(encoder, engine)


def choose_trained(encoder: Network, config: TrainConfig) -> None:
    """Freeze the weights that the recipe leaves as they are; adapters are put beside them.

    A pooler with weights is trained beside adapters, and where nothing is said; by `only_train` where a pattern names
    it. Projections stay as they are beside adapters, which then are all that a training has changed.

    Raises:
        ModelError: A pattern of `lora.targets` or `only_train` matches nothing.
    """
    if config.moe and config.moe.only_train:
        train_experts(encoder, config.moe.only_train)
    lora = lora_of(config)
    if lora:
        add_lora(encoder.backbone, lora, config.seed)
        if isinstance(encoder, Encoder):
            encoder.projections.requires_grad_(False)
    if config.only_train:
        train_only(encoder, config.only_train)


def check_ranks(config: TrainConfig, reads_universal: bool) -> None:
    """Refuse to take over from another number of ranks what they shared out by their number.

    Raises:
        ModelError: Experts were.
    """
    if reads_universal and config.moe and config.moe.engine == "deepspeed":
        raise ModelError(
            "experts that ranks share cannot be taken over by another number of ranks",
            "train.moe.engine",
            got="deepspeed, and a checkpoint of another number of ranks",
            expected="as many ranks as wrote the checkpoint",
            fix="go on with as many workers, or train anew with moe.engine: grouped",
        )


def lora_of(config: TrainConfig) -> Lora | None:
    """Return the adapters that a recipe asks for."""
    asked = config.lora
    return Lora(asked.rank, asked.alpha, asked.dropout, asked.targets) if asked else None


def set_dropout(encoder: nn.Module, dropout: float) -> None:
    """Set every dropout of the backbone, that of attention included."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        # Decoders keep the probability of their attention's dropout as a number.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout  # type: ignore[assignment]


def whole_weights(trainable: Trainable, trained_only: bool = False) -> dict[str, torch.Tensor]:
    """Return copies of the encoder's weights, float32, on the processor.

    Every rank must call it; rank 0 gets them, the others nothing.

    Args:
        trainable: The encoder and its engine.
        trained_only: Leave out what is frozen.
    """
    weights: dict[str, torch.Tensor] = {}
    shared = {
        f"{name}.": each
        for name, each in trainable.encoder.named_modules()
        if isinstance(each, ParallelFeedForward)
    }
    for prefix, block in shared.items():
        for name, weight in block.stacked(trained_only).items():
            if distributed.get_rank() == 0:
                weights[prefix + name] = weight.to("cpu", torch.float32, copy=True)
    for name, parameter in trainable.encoder.named_parameters():
        if name.startswith(tuple(shared)) or (trained_only and not parameter.requires_grad):
            continue
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if distributed.get_rank() == 0:
                weights[name] = parameter.detach().to("cpu", torch.float32, copy=True)
    return weights
