"""What a recipe may say of the loss: one, or several that are added up."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Partition = Literal["q-d", "q-q", "d-d", "d-q"]


class LossTerm(BaseModel):
    """What every loss of a recipe has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """What the loss is multiplied by where it is added to others; above 0."""

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the function, the temperature apart."""
        return self.model_dump(exclude={"name", "weight", "teacher"})


class InfonceConfig(LossTerm):
    """Cross entropy of the positive among all documents of the global batch."""

    name: Literal["infonce"] = "infonce"
    """Name in models.losses.LOSSES."""
    false_negative_margin: float | None = Field(default=None, allow_inf_nan=False)
    """Leave out a document whose cosine exceeds that of the query's positive by more than this. Null: keep
    all."""
    guide: str | None = None
    """Leave out a document, or a query, that this dense teacher scores above its score of the positive minus
    `guide_margin`: a name under mine.teachers. Null: no guide."""
    guide_margin: float = Field(default=0.0, allow_inf_nan=False)
    """Of the guide's cosines; above 0 leaves out more."""
    hardness: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weigh a negative by exp(hardness x its cosine); 5 to 9 in the literature. 0: all weigh the same."""
    partitions: tuple[Partition, ...] = Field(default=("q-d",), min_length=1)
    """What the positive is told from: documents (q-d), other queries (q-q); and what the positive is kept away
    from: other documents (d-d), other queries (d-q)."""
    in_batch_negatives: bool = True
    """Whether documents of other rows are negatives. False: the row's own mined negatives alone."""

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the function, the temperature apart."""
        options = self.model_dump(exclude={"name", "weight", "guide"})
        return {**options, "guide_margin": self.guide_margin if self.guide else None}

    @model_validator(mode="after")
    def _margin_of_a_guide(self) -> "InfonceConfig":
        if self.guide is None and self.guide_margin:
            raise ValueError(
                f"guide_margin ({self.guide_margin}) is of a guide, and there is none: name it, or remove guide_margin"
            )
        return self

    @model_validator(mode="after")
    def _no_other_rows(self) -> "InfonceConfig":
        if not self.in_batch_negatives and self.partitions != ("q-d",):
            raise ValueError(
                f"in_batch_negatives: false goes with partitions: [q-d] alone, not {list(self.partitions)}: "
                "the others are made of other rows"
            )
        return self


class ClpConfig(LossTerm):
    """InfoNCE, and a penalty where a negative moves away from the queries that it does answer."""

    name: Literal["clp"]
    """Name in models.losses.LOSSES."""
    lam: float = Field(default=0.1, ge=0, le=1)
    """Weight of the penalty against InfoNCE, 0 to 1. 0: no penalty."""
    max_answers: int = Field(default=4, ge=1)
    """Queries that one negative is kept close to, at most; their mean counts."""
    false_negative_margin: float | None = Field(default=None, allow_inf_nan=False)
    """As in infonce. Null: keep all."""
    in_batch_negatives: bool = True
    """As in infonce. False: the row's own mined negatives alone, as in the paper."""

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the function, the temperature apart."""
        return self.model_dump(exclude={"name", "weight", "max_answers"})


class Distilled(LossTerm):
    """A loss that learns a teacher's scores."""

    teacher: str | None = None
    """Whose scores count: a name under mine.teachers. Null: the only teacher."""


class SoftLabelsConfig(Distilled):
    """Cross entropy between a teacher's distribution over the group and the model's."""

    name: Literal["soft_labels"]
    """Name in models.losses.LOSSES."""
    teacher_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Divides the teacher's scores: 1 for a reranker's logits, about 0.1 for scores in 0 to 1."""


class ListwiseKlConfig(Distilled):
    """KL divergence between a teacher's distribution over the group and the model's."""

    name: Literal["listwise_kl"]
    """Name in models.losses.LOSSES."""
    student_temperature: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Divides the model's cosines, in place of train.temperature."""
    teacher_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Divides the teacher's scores."""


class MarginMseConfig(Distilled):
    """Squared difference between the model's margins and a teacher's."""

    name: Literal["margin_mse"]
    """Name in models.losses.LOSSES."""
    teacher_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Multiplies the teacher's margins, to bring them to those of cosines."""


class BixseConfig(Distilled):
    """Binary cross entropy of every pair against the teacher's score, 0 for documents of other rows."""

    name: Literal["bixse"]
    """Name in models.losses.LOSSES."""
    midpoint: float = Field(default=0.5, ge=-1, le=1)
    """The cosine that stands for a probability of one half."""
    sigmoid_targets: bool = False
    """Whether the teacher's scores are logits. False: they lie in 0 to 1."""
    in_batch_negatives: bool = True
    """Whether documents of other rows count."""


class SpreadOutConfig(LossTerm):
    """Mean squared cosine between unrelated queries, and between unrelated positives."""

    name: Literal["spread_out"]
    """Name in models.losses.LOSSES."""


def named(default: str) -> Callable[[Any], Any]:
    """Return what makes a list of one loss, and the loss ``default`` of one without a name."""

    def listed(value: Any) -> Any:
        values = list(value) if isinstance(value, list | tuple) else [value]
        return [{"name": default, **each} if isinstance(each, dict) else each for each in values]

    return listed


PlainLoss = Annotated[
    InfonceConfig
    | ClpConfig
    | SoftLabelsConfig
    | ListwiseKlConfig
    | MarginMseConfig
    | BixseConfig
    | SpreadOutConfig,
    Field(discriminator="name"),
]


class MatryoshkaConfig(LossTerm):
    """Other losses over prefixes of the dimensions, so that shortened embeddings stay good."""

    name: Literal["matryoshka"]
    """Name in models.losses.LOSSES."""
    dimensions: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    """Lengths of the prefixes, the model's own dimension among them if the whole embedding is to count."""
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """Of each prefix. Null: 1 each."""
    of: Annotated[tuple[PlainLoss, ...], BeforeValidator(named("infonce")), Field(min_length=1)] = (
        InfonceConfig(),
    )
    """The loss, or the losses, that every prefix has."""

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the function, the loss apart."""
        return self.model_dump(include={"dimensions", "weights"})

    @model_validator(mode="after")
    def _each_length_once(self) -> "MatryoshkaConfig":
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError(
                f"dimensions: one stands twice in {list(self.dimensions)}; give it a weight instead"
            )
        return self

    @model_validator(mode="after")
    def _a_weight_each(self) -> "MatryoshkaConfig":
        if self.weights is not None and len(self.weights) != len(self.dimensions):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.dimensions)} dimensions: give one each"
            )
        return self


Losses = Annotated[
    tuple[
        Annotated[
            InfonceConfig
            | ClpConfig
            | SoftLabelsConfig
            | ListwiseKlConfig
            | MarginMseConfig
            | BixseConfig
            | SpreadOutConfig
            | MatryoshkaConfig,
            Field(discriminator="name"),
        ],
        ...,
    ],
    BeforeValidator(named("infonce")),
    Field(min_length=1),
]
"""One loss, or a list of losses that are added up, each times its weight; without a name: infonce."""


def plain_terms(losses: tuple[Any, ...]) -> list[Any]:
    """Return all losses, those inside matryoshka in its place."""
    return [each for term in losses for each in (term.of if isinstance(term, MatryoshkaConfig) else (term,))]
