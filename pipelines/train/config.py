"""What a recipe may say of training."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from pipelines.train.cross_encoder_config import CrossEncoderConfig, refusals
from pipelines.train.dev_config import DevConfig
from pipelines.train.lora_config import LoraConfig
from pipelines.train.loss_config import (
    BixseConfig,
    ClpConfig,
    InfonceConfig,
    Losses,
    SpreadOutConfig,
    plain_terms,
)
from pipelines.train.moe_config import MoeConfig
from pipelines.train.stage_config import (
    BatchesConfig,
    DynamicNegativesConfig,
    Order,
    StageConfig,
    check_batches,
    check_dynamic_negatives,
)

OWNED_KEYS = {
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "gradient_clipping": "max_gradient_norm",
    "optimizer": "learning_rate and weight_decay",
    "scheduler": "schedule, learning_rate and warmup_ratio",
    "bf16": "dtype",
    "fp16": "dtype",
    "torch_autocast": "dtype",
    "zero_allow_untested_optimizer": "zero_stage",
}
"""DeepSpeed keys that follow from a field of TrainConfig, and which."""

UNFELT = {
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "max_failures",
    "max_loss_ratio",
    "max_loss_steps",
    "tensorboard",
    "wandb",
    "mlflow",
}
"""Fields of TrainConfig that leave the trained model as it is."""

PLANNED = {"few_shot"}
"""Fields of TrainConfig that the training feels through its plan alone."""


class TrainConfig(BaseModel):
    """How an encoder is fine-tuned on mined groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_encoder: CrossEncoderConfig | None = None
    """Train a cross-encoder, which reranks and teaches, on what the recipe's model finds; `{}` takes the defaults.
    Null: train the recipe's model itself."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the groups; a query with several positives contributes another one in each pass."""
    batch_size: int = Field(default=64, ge=1)
    """Queries of one global batch, over all workers."""
    num_negatives: int = Field(default=1, ge=0)
    """Mined negatives of a query in one step, taken in turn where more were mined. 0: in-batch negatives
    only."""
    dynamic_negatives: DynamicNegativesConfig | None = None
    """Begin with the first ranks of what was mined and go on to the next ones, query by query, where the model finds
    the present ones easy; `{}` takes the defaults. Null: all are taken in turn."""
    in_batch_negatives: bool | None = None
    """Whether documents of other rows are negatives; a loss may leave them out too. Null: yes, except for queries of
    the tasks classification, clustering and sts."""
    batches: BatchesConfig = BatchesConfig()
    """Which rows meet in a batch."""
    stages: tuple[StageConfig, ...] = ()
    """Stretches of the training, one after the other, each with its own data, negatives and learning rate. Empty: one,
    with the settings beside this one."""
    refresh_every_steps: int = Field(default=0, ge=0)
    """Steps after which the negatives are mined anew with the model as it stands then (ANCE): it encodes the corpus,
    searches, and the batches go on with what is selected; optimizer and learning rates go on as well. It takes a
    mining and a start of the workers each time, so hundreds of steps are usual; `rounds` does the same between whole
    trainings. 0: never."""
    max_document_tokens: int | None = Field(default=None, ge=4)
    """Documents are cut here while training, special tokens counted; the tuned model still reads as many as the model
    does. Half of them take half the time, and what tells documents apart often stands first. Null: as the model."""
    few_shot: int = Field(default=0, ge=0)
    """Examples before a query while training: each row shows a number drawn from 0 to this many other rows of its task
    and batch, query (64 tokens) and positive (96). They lengthen queries by up to 170 tokens each, the query itself is
    cut as ever, and the texts are held in memory while the batches are planned. 5 is what bge-en-icl takes; use the
    tuned model without examples all the same, or with fixed ones (model.prompts.few_shot) if they measure better:
    published ablations lost by them. 0: none."""
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    """Peak of AdamW's learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on from its peak: down to 0 in a line or along a cosine, or not at all."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly. 0: none."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """The number of those steps, in place of a share of all. Null: as warmup_ratio says."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Of AdamW, on weight matrices only. 0: none."""
    max_gradient_norm: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Gradients are scaled down to this global norm. 0: no clipping."""
    temperature: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Divides the cosines in the loss; above 0."""
    loss: Losses = (InfonceConfig(),)
    """A loss with its own settings, or a list of losses that are added up, each times its `weight`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the backbone. 0: off. What is dropped of a text hangs on seed, step, text and layer alone, so the result does
    not depend on the number of workers; above 0 attention runs as plain matrix products, which takes longer."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights, gradients and optimizer state stay float32. Auto: bfloat16 where the model
    runs in it, else float32."""
    zero_stage: Literal[1, 2, 3] = 1
    """DeepSpeed ZeRO: workers share the optimizer state (1), gradients too (2), weights too (3)."""
    offload: Literal["none", "optimizer"] = "none"
    """Where a GPU's share of the optimizer state and its step are: on the GPU, or on the processor, which saves
    8 bytes a weight of the GPU's memory and costs time."""
    lora: LoraConfig | None = None
    """Train low-rank updates in place of the weights. Null: train the weights."""
    only_train: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Patterns of weight names, in full or from a dot on (`encoder.layer.11.*`, `intermediate.dense.weight`, of a
    pooler `latent_attention.*`); the others stay as they are. Null: train all."""
    moe: MoeConfig | None = None
    """Make experts of dense weights before the training; `{}` takes the defaults. Null: none; those that the model has
    already are trained on."""
    gradcache_chunk: int | None = Field(default=None, ge=1)
    """Texts, or pairs, of one forward and backward pass on one worker: batches of any size in the memory of that many,
    for one more forward pass. Null: the whole batch at once."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    checkpoint_every_steps: int = Field(default=50, ge=1)
    """A killed run resumes from the last checkpoint; two are kept. Ctrl-C and SIGTERM write one before
    they end it."""
    checkpoint_every_minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Write a checkpoint so long after the last one too. Null: by steps alone."""
    max_failures: int = Field(default=3, ge=0)
    """Lost workers that the training survives by itself; behind them the same command goes on. Nodes whose loss is
    announced do not count."""
    max_loss_ratio: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    """Stop, with the ids of the batch, where the loss exceeds this many times the mean of the (at most 50) steps before
    for `max_loss_steps` steps in a row, all of one stage and of the same mining; 3 is generous, except where the loss
    comes close to 0. Null: only a loss that is not finite stops."""
    max_loss_steps: int = Field(default=5, ge=1)
    """Of max_loss_ratio."""
    tensorboard: bool = False
    """Write event files: below the storage root while the training runs, where that is a folder of this machine, and
    in the artifact, `tensorboard/`, once it is done. Loss, learning rate, gradient norm and tokens/s of every step."""
    wandb: str | None = Field(default=None, min_length=1)
    """A project of Weights & Biases that gets the same numbers; wandb must be installed and logged in. Null: none."""
    mlflow: str | None = Field(default=None, min_length=1)
    """The tracking URI of MLflow that gets them; credentials belong into the environment. Null: none."""
    dev: DevConfig | None = None
    """Measure retrieval on a cut of the data while training; `{}` takes the defaults. Null: do not."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the order of the groups, the choice of positives and negatives, and dropout."""
    deepspeed: dict[str, JsonValue] = {}
    """Further DeepSpeed settings as its documentation names them. Empty: none."""

    @field_validator("deepspeed")
    @classmethod
    def _no_owned_key(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for key, field in OWNED_KEYS.items():
            if key in value:
                raise ValueError(f"deepspeed.{key} follows from train.{field}: set that instead")
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("deepspeed.zero_optimization: expected a mapping")
        if "stage" in zero:
            raise ValueError(
                "deepspeed.zero_optimization.stage follows from train.zero_stage: set that instead"
            )
        return value

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "TrainConfig":
        default = type(self).model_fields["warmup_ratio"].default
        if self.warmup_steps is not None and self.warmup_ratio != default:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) and warmup_ratio ({self.warmup_ratio}) say the same thing: "
                "write one of them"
            )
        if self.lora and self.only_train:
            raise ValueError(
                "only_train and lora both say what is trained: with lora, name lora.targets alone"
            )
        if self.moe and (refusal := self.moe.refusal(self.lora, bool(self.only_train), self.zero_stage)):
            raise ValueError(refusal)
        if self.zero_stage < 3 and "offload_param" in str(self.deepspeed):
            raise ValueError(
                f"deepspeed.zero_optimization.offload_param needs zero_stage 3, not {self.zero_stage}: "
                "set zero_stage: 3 or remove it"
            )
        if (
            self.max_loss_ratio is None
            and self.max_loss_steps != type(self).model_fields["max_loss_steps"].default
        ):
            raise ValueError(
                f"max_loss_steps ({self.max_loss_steps}) is of max_loss_ratio, which is not set: set it too, or remove "
                "max_loss_steps"
            )
        if self.offload != "none" and "offload_optimizer" in str(self.deepspeed):
            raise ValueError(
                "deepspeed.zero_optimization.offload_optimizer follows from train.offload: remove it"
            )
        return self

    @model_validator(mode="after")
    def _batches_fit_the_stages(self) -> "TrainConfig":
        check_batches(self.batches, self.orders)
        if self.dynamic_negatives:
            epochs = sum(stage.epochs or self.epochs for stage in self.stages) or self.epochs
            check_dynamic_negatives(epochs, self.refresh_every_steps)
        for size in (self.batch_size, *(stage.batch_size or self.batch_size for stage in self.stages)):
            if self.few_shot >= size:
                raise ValueError(
                    f"few_shot ({self.few_shot}) draws from the other rows of a batch, and batch_size is {size}: "
                    f"set batch_size to {self.few_shot + 1} or more, or few_shot to {size - 1}"
                )
        return self

    @model_validator(mode="after")
    def _felt_by_a_cross_encoder(self) -> "TrainConfig":
        for text in refusals(self, type(self).model_fields) if self.cross_encoder else ():
            raise ValueError(text)
        return self

    @model_validator(mode="after")
    def _one_guide(self) -> "TrainConfig":
        guides = sorted({t.guide for t in plain_terms(self.loss) if isinstance(t, InfonceConfig) and t.guide})
        if len(guides) > 1:
            raise ValueError(f"loss.guide: one teacher guides all losses, not {' and '.join(guides)}")
        return self

    @property
    def orders(self) -> tuple[Order, ...]:
        """How the batches of each stage are ordered."""
        return tuple(stage.order or self.batches.order for stage in self.stages) or (self.batches.order,)

    @property
    def peaks(self) -> tuple[float, ...]:
        """The highest learning rate of each stage."""
        return tuple(stage.learning_rate or self.learning_rate for stage in self.stages) or (
            self.learning_rate,
        )

    @property
    def kind(self) -> Literal["embedding", "cross_encoder"]:
        """What is trained: a key of pipelines.train.kinds.KINDS."""
        return "cross_encoder" if self.cross_encoder else "embedding"

    @property
    def losses(self) -> list[Any]:
        """All losses of what is trained, those inside matryoshka in its place."""
        return plain_terms(self.cross_encoder.loss if self.cross_encoder else self.loss)

    @property
    def compares_own_negatives(self) -> str | None:
        """The first loss that needs mined negatives of every query; None: in-batch negatives are enough."""
        for term in self.losses:
            among_rows = isinstance(term, InfonceConfig | BixseConfig | SpreadOutConfig)
            if not among_rows or not getattr(term, "in_batch_negatives", True):
                return str(term.name)
        return None

    @property
    def guide(self) -> str | None:
        """The teacher whose embeddings the plan must hold."""
        guides = (t.guide for t in plain_terms(self.loss) if isinstance(t, InfonceConfig) and t.guide)
        return next(guides, None)

    @property
    def max_answers(self) -> int:
        """Queries that a negative answers and that the plan must hold, at most; 0 where no loss needs them."""
        return max((t.max_answers for t in plain_terms(self.loss) if isinstance(t, ClpConfig)), default=0)
