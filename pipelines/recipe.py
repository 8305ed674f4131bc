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
from pipelines.model import ModelConfig
from pipelines.schemas import Split
from pipelines.search.config import SearchConfig
from pipelines.select.config import SelectConfig
from pipelines.train.config import TrainConfig

RECIPES = Path(__file__).parent / "recipes"


class MineConfig(BaseModel):
    """Hard negatives: a teacher embeds, search finds candidates, select keeps what is no false negative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: ModelConfig | None = None
    """The model that finds the candidates. Null: the model that will be trained."""
    split: Split = "train"
    """Whose queries get negatives."""
    search: SearchConfig = SearchConfig()
    """How deep, and with which backend."""
    select: SelectConfig = SelectConfig()
    """Filter, sampling, number of negatives."""

    @model_validator(mode="after")
    def _deep_enough(self) -> "MineConfig":
        depth, wanted = self.search.retrieval_depth, self.select.num_negatives
        if depth <= wanted:
            raise ValueError(f"search.retrieval_depth ({depth}) must exceed select.num_negatives ({wanted})")
        return self


class Recipe(BaseModel):
    """One run: data, model, mining, training, evaluation, index."""

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
        for key, model in (("model", self.model), ("mine.teacher", self.mine.teacher or self.model)):
            longest = max(model.max_query_tokens, model.max_document_tokens)
            # Batches are padded to multiples of 16.
            if self.encode.token_budget < longest + 15:
                raise ValueError(
                    f"encode.token_budget ({self.encode.token_budget}) does not hold one text of {key} "
                    f"({longest} tokens, padded)"
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
    """Return a ``data.path=...`` setting with its path absolute: what is typed counts from here."""
    key, _, value = setting.partition("=")
    is_path = (key == "data.path" or key.startswith("data.path.")) and not value.startswith("{")
    return f"{key}={Path(value).expanduser().absolute()}" if is_path else setting


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with the data's paths absolute: what a file says counts from the file's folder."""
    if isinstance(recipe.data, DocstringsConfig):
        return recipe
    path = recipe.data.path
    absolute = str(folder / Path(path).expanduser()) if isinstance(path, str) else path.anchored(folder)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": absolute})})
