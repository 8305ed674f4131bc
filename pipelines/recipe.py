"""A run as one frozen object: what a YAML file under recipes/ says, checked before anything starts."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.errors import UserError
from cluster.yaml_model import load_yaml_model
from pipelines.encode.config import EncodeConfig
from pipelines.evaluate.config import EvaluateConfig
from pipelines.index.config import IndexConfig
from pipelines.ingest.config import DataConfig, DocstringsConfig
from pipelines.mine.config import MineConfig
from pipelines.model import ModelConfig
from pipelines.report.config import AuditConfig
from pipelines.search.config import DenseTeacher
from pipelines.train.config import TrainConfig

RECIPES = Path(__file__).parent / "recipes"


class Recipe(BaseModel):
    """One run: data, model, mining, audit, training, evaluation, index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """What listings and releases call the run: letters, digits, dots, dashes and underscores."""
    data: DataConfig
    """Where documents, queries and labels come from."""
    model: ModelConfig
    """The model to tune."""
    encode: EncodeConfig = EncodeConfig()
    """How texts are embedded."""
    mine: MineConfig = MineConfig()
    """How hard negatives are found."""
    audit: AuditConfig = AuditConfig()
    """How the negatives are examined."""
    train: TrainConfig = TrainConfig()
    """How the model is tuned."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""
    index: IndexConfig = IndexConfig()
    """What is built for serving."""

    @model_validator(mode="after")
    def _enough_negatives(self) -> "Recipe":
        mined, used = self.mine.select.num_negatives, self.train.num_negatives
        if used > mined:
            raise ValueError(f"train.num_negatives ({used}) exceeds mine.select.num_negatives ({mined})")
        return self

    @model_validator(mode="after")
    def _batches_hold_a_text(self) -> "Recipe":
        models = {"model": self.model}
        for name, teacher in self.mine.teachers.items():
            if isinstance(teacher, DenseTeacher) and teacher.model:
                models[f"mine.teachers.{name}.model"] = teacher.model
        for key, model in models.items():
            longest = max(model.max_query_tokens, model.max_document_tokens)
            # Batches are padded to multiples of 16.
            if self.encode.token_budget < longest + 15:
                raise ValueError(
                    f"encode.token_budget ({self.encode.token_budget}) does not hold one text of {key} "
                    f"({longest} tokens, padded)"
                )
        return self

    @model_validator(mode="after")
    def _training_cuts_shorter(self) -> "Recipe":
        cut, whole = self.train.max_document_tokens, self.model.max_document_tokens
        if cut is not None and cut > whole:
            raise ValueError(f"train.max_document_tokens ({cut}) exceeds model.max_document_tokens ({whole})")
        return self

    @model_validator(mode="after")
    def _mining_reads_floats(self) -> "Recipe":
        if self.data.kind == "texts":
            return self
        stored, alone = (
            self.encode.precision,
            f"is for a corpus alone (data.kind texts, not {self.data.kind})",
        )
        if stored != self.encode.float_precision:
            raise ValueError(f"encode.precision {stored} {alone}: searching needs float16 or float32")
        if self.encode.dimension is not None:
            raise ValueError(
                f"encode.dimension {self.encode.dimension} {alone}: a release serves all dimensions"
            )
        return self


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe.

    Args:
        name_or_path: A YAML file, or the name of one that ships with Stope.
        overrides: ``key.sub=value`` settings that replace what the file says.

    Raises:
        UserError: There is no such recipe, or something in it is wrong: file, line, key and fix are named.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise UserError("no such recipe", got=name_or_path, expected=f"a YAML file, or one of: {shipped}")
    return _anchored(
        load_yaml_model(path, Recipe, [_absolute(each) for each in overrides]), path.resolve().parent
    )


def _absolute(setting: str) -> str:
    """Return a setting of a path with the path absolute: what is typed counts from here."""
    key, _, value = setting.partition("=")
    is_path = key.startswith(("data.path.", "audit.known.")) or key == "data.path"
    is_path = is_path and key != "audit.known.min_level" and not value.startswith("{")
    return f"{key}={Path(value).expanduser().absolute()}" if is_path else setting


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its paths absolute: what a file says counts from the file's folder."""
    known = recipe.audit.known.anchored(folder)
    recipe = recipe.model_copy(update={"audit": recipe.audit.model_copy(update={"known": known})})
    if isinstance(recipe.data, DocstringsConfig):
        return recipe
    path = recipe.data.path
    absolute = str(folder / Path(path).expanduser()) if isinstance(path, str) else path.anchored(folder)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": absolute})})
