"""What a recipe may say of experts."""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.train.lora_config import LoraConfig

if TYPE_CHECKING:
    from models.moe.upcycle import Upcycling


class MoeConfig(BaseModel):
    """Experts made of the dense weights of some feed-forward blocks, each token sent to a few of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[int, ...] | Literal["all", "intermediate"] = "all"
    """Which layers: their numbers from 0, negative ones from the end; all; or intermediate, which is all but the first
    and the last."""
    where: Literal["up", "down", "ffn"] = "up"
    """What becomes experts: up, what stands before the activation (the gate too, where there is one); down, what stands
    behind it; ffn, both. The router reads what enters the block."""
    num_experts: int = Field(default=2, ge=2)
    """Of one layer, each a copy of the dense weights at the start."""
    experts_per_token: int = Field(default=1, ge=1)
    """At most num_experts. Every token gets that many, however many tokens an expert has: none is dropped."""
    router: Literal["identity", "switch", "clp"] = "identity"
    """The weight of an expert's output. Identity: 1 (of several, their mean), through which the gradient still reaches
    the router; the model computes what the dense one did at the start. Switch: its probability p, so at the start
    what the experts make is scaled by p. Clp: the softmax over the chosen experts alone, as in the official code; with
    one expert a token the router then learns from the balance alone."""
    load_balancing_loss: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Coefficient of E x sum of (share of the tokens) x (mean probability) over the experts, added up over the layers:
    the even use of all. 0: none."""
    engine: Literal["grouped", "deepspeed"] = "grouped"
    """How experts are trained. Grouped: every rank has all of them. Deepspeed: the ranks share them, as many as divide
    num_experts evenly, and send each other tokens (expert parallelism; where: ffn, ZeRO 1 or 2, no adapters). The
    trained model is the same."""
    only_train: Literal["intermediate", "router"] | None = None
    """Intermediate: experts and routers alone. Router: routers alone. All other weights stay as they are. Null: train
    all of the model."""

    @model_validator(mode="after")
    def _enough_experts(self) -> "MoeConfig":
        if self.experts_per_token > self.num_experts:
            raise ValueError(
                f"experts_per_token ({self.experts_per_token}) exceeds num_experts ({self.num_experts}): "
                "lower the first or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _whole_experts(self) -> "MoeConfig":
        if self.engine == "deepspeed" and self.where != "ffn":
            raise ValueError(
                f"engine deepspeed sends tokens from rank to rank for whole blocks, not for where: {self.where}: "
                "set where: ffn or engine: grouped"
            )
        return self

    @model_validator(mode="after")
    def _some_layers(self) -> "MoeConfig":
        if not self.layers:
            raise ValueError("layers: name at least one, or write all")
        return self

    @property
    def upcycling(self) -> "Upcycling":
        """What of this changes the model."""
        from models.moe.upcycle import Upcycling

        return Upcycling(self.layers, self.where, self.num_experts, self.experts_per_token, self.router)

    def refusal(self, lora: LoraConfig | None, only_train: bool, zero_stage: int) -> str | None:
        """Return why a training does not go with these experts; None: it does.

        Args:
            lora: Its adapters.
            only_train: Whether it names weights by pattern.
            zero_stage: Of DeepSpeed.
        """
        if self.only_train and (lora or only_train):
            other = "lora" if lora else "only_train"
            return f"moe.only_train and {other} both say what is trained: write one of them"
        if lora and lora.keep_adapter:
            return "lora.keep_adapter: an adapter of experts that are made here fits no model on disk: set it to false"
        if self.engine == "deepspeed" and lora:
            return "lora adapts experts that lie in one stack, as moe.engine grouped has them: set that, or remove lora"
        if self.engine == "deepspeed" and zero_stage == 3:
            return (
                "zero_stage 3 parts every weight among all ranks, moe.engine deepspeed gives whole experts to some: "
                "set zero_stage: 2 or moe.engine: grouped"
            )
        return None
