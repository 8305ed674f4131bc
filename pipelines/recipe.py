"""A run as one frozen object: what a YAML file under recipes/ says, checked before anything starts."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.errors import UserError
from cluster.yaml_model import load_yaml_model
from pipelines.dataset import DatasetConfig
from pipelines.encode.config import EncodeConfig
from pipelines.evaluate.config import EvaluateConfig
from pipelines.index.config import IndexConfig
from pipelines.ingest.config import DataConfig, DocstringsConfig
from pipelines.mine.config import MineConfig
from pipelines.model_config import ModelConfig
from pipelines.report.config import AuditConfig
from pipelines.score.config import RerankerConfig
from pipelines.search.config import DenseTeacher
from pipelines.train.config import TrainConfig
from pipelines.train.cross_encoder_config import REFUSED
from pipelines.train.stages import MAIN, NOTHING_SAID, SetSettings, Stage, resolve_stages

RECIPES = Path(__file__).parent / "recipes"

SetName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]


class Recipe(BaseModel):
    """One run: data, model, mining, audit, training, evaluation, index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """What listings and releases call the run: letters, digits, dots, dashes and underscores."""
    data: DataConfig
    """Where documents, queries and labels come from: the main data set, which is measured and indexed too."""
    also: dict[SetName, DatasetConfig] = {}
    """Name -> further data set to train on. The main one is called `main` beside them."""
    model: ModelConfig
    """The model to tune; where train.cross_encoder is trained in its place, the one that finds what is reranked."""
    rounds: int = Field(default=1, ge=1)
    """How often the model is mined with and trained (ANCE, arXiv 2007.00808): every round mines with the model of the
    last one, trains it further on what it now confuses, and has a whole schedule of learning rates."""
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

    @property
    def set_settings(self) -> dict[str, SetSettings]:
        """What is said of each data set that training may name."""
        further = {
            name: SetSettings(one.num_negatives, one.in_batch_negatives, one.weight)
            for name, one in self.also.items()
        }
        return {MAIN: NOTHING_SAID, **further}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the training, with every setting in place.

        Raises:
            UserError: One names a data set that is not here.
        """
        return resolve_stages(self.train, self.set_settings)

    @property
    def reranker(self) -> RerankerConfig | None:
        """How the cross-encoder that is trained scores; its source is what it begins with. None: none is trained."""
        asked = self.train.cross_encoder
        if asked is None:
            return None
        return RerankerConfig(
            source=asked.source or self.model.source,
            max_query_tokens=asked.max_query_tokens,
            max_document_tokens=asked.max_document_tokens,
            # Whatever length it is trained at holds a batch.
            token_budget=max(4096, 2 * (asked.max_query_tokens + asked.max_document_tokens)),
        )

    @model_validator(mode="after")
    def _sets_are_apart(self) -> "Recipe":
        if MAIN in self.also:
            raise ValueError(f"also.{MAIN}: the data set under `data` goes by this name: choose another one")
        if self.also and self.data.kind == "texts":
            raise ValueError(
                "also: data.kind texts is a corpus to embed, which no data set is trained beside"
            )
        return self

    @model_validator(mode="after")
    def _mining_anew_finds_others(self) -> "Recipe":
        mining = [self.mine, *(one.mine for one in self.also.values())]
        teachers = (teacher for mine in mining for teacher in mine.teachers.values())
        changes = any(isinstance(teacher, DenseTeacher) and teacher.model is None for teacher in teachers)
        again = {"rounds": self.rounds - 1, "train.refresh_every_steps": self.train.refresh_every_steps}
        asked = [name for name, times in again.items() if times]
        if asked and not changes:
            raise ValueError(
                f"{asked[0]}: no teacher is the model that is trained, so mining anew would find the same negatives: "
                "add a teacher of kind dense without a model"
            )
        return self

    @model_validator(mode="after")
    def _trains_a_cross_encoder(self) -> "Recipe":
        default = type(self.evaluate).model_fields["rerank_depth"].default
        if self.train.cross_encoder is None:
            if self.evaluate.rerank_depth != default:
                raise ValueError(
                    f"evaluate.rerank_depth ({self.evaluate.rerank_depth}) does nothing: the recipe trains no "
                    "cross-encoder; remove it"
                )
            return self
        if self.evaluate.rerank_depth > self.evaluate.retrieval_depth:
            raise ValueError(
                f"evaluate.rerank_depth ({self.evaluate.rerank_depth}) exceeds evaluate.retrieval_depth "
                f"({self.evaluate.retrieval_depth})"
            )
        if self.rounds > 1:
            raise ValueError(
                f"rounds ({self.rounds}): every round mines with what the last one trained, and train.cross_encoder "
                "does not search: set rounds to 1"
            )
        for name, one in self.also.items():
            if one.in_batch_negatives is not None:
                raise ValueError(
                    f"also.{name}.in_batch_negatives does not go with train.cross_encoder: "
                    f"{REFUSED['in_batch_negatives']}"
                )
        return self

    @model_validator(mode="after")
    def _generated_queries_are_read(self) -> "Recipe":
        mining = {"mine": self.mine, **{f"also.{name}.mine": one.mine for name, one in self.also.items()}}
        for place, mine in mining.items():
            if mine.generate is None:
                continue
            if not self.train.max_answers:
                add = "" if self.train.cross_encoder else "add it to train.loss, or "
                raise ValueError(f"{place}.generate: loss clp alone reads its queries: {add}remove generate")
            if self.train.guide is not None:
                raise ValueError(
                    f"{place}.generate does not go with train.loss.guide: the guide has not embedded its queries"
                )
        return self

    @model_validator(mode="after")
    def _enough_negatives(self) -> "Recipe":
        mining = {MAIN: self.mine, **{name: one.mine for name, one in self.also.items()}}
        for stage in self.stages:
            for name, rule in stage.sets.items():
                mined = mining[name].select.num_negatives
                if rule.num_negatives > mined:
                    key = f"{'' if name == MAIN else f'also.{name}.'}mine.select.num_negatives"
                    raise ValueError(f"{rule.key} ({rule.num_negatives}) exceeds {key} ({mined})")
        rules = [(name, rule.num_negatives) for stage in self.stages for name, rule in stage.sets.items()]
        left = any(0 < count < mining[name].select.num_negatives for name, count in rules)
        if self.train.dynamic_negatives and not left:
            raise ValueError(
                "train.dynamic_negatives: all negatives that are mined are taken at once, so none can take the place "
                f"of others: raise mine.select.num_negatives ({self.mine.select.num_negatives}) above "
                f"train.num_negatives ({self.train.num_negatives}), which is at least 1"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_felt(self) -> "Recipe":
        weighed = [name for name, one in self.also.items() if one.weight != 1]
        if weighed and set(self.train.orders) == {"mixed"}:
            raise ValueError(
                f"also.{weighed[0]}.weight: it is of the draw of homogeneous batches, and train.batches.order is "
                "mixed: remove it, or write order: homogeneous"
            )
        return self

    @model_validator(mode="after")
    def _batches_hold_a_text(self) -> "Recipe":
        models = {"model": self.model}
        mining = {"mine": self.mine, **{f"also.{name}.mine": one.mine for name, one in self.also.items()}}
        for place, mine in mining.items():
            for name, teacher in mine.teachers.items():
                if isinstance(teacher, DenseTeacher) and teacher.model:
                    models[f"{place}.teachers.{name}.model"] = teacher.model
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
    def _engine_knows_the_model(self) -> "Recipe":
        if self.model.engine != "torch" and self.train.moe is not None:
            raise ValueError(
                f"model.engine {self.model.engine}: train.moe makes experts, which it does not compute: write "
                "engine: torch"
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
    own = re.sub(r"^also\.\w+\.", "", key)
    is_path = own.startswith(("data.path.", "audit.known.")) or own == "data.path"
    is_path = is_path and own != "audit.known.min_level" and not value.startswith("{") and value != "null"
    if not is_path:
        return setting
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    path = Path(value[1:-1] if quoted else value).expanduser().absolute()
    # What is read as YAML later may hold a colon or a hash.
    return f"{key}={json.dumps(str(path), ensure_ascii=False)}"


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its paths absolute: what a file says counts from the file's folder."""
    known = recipe.audit.known.anchored(folder)
    further = {
        name: one.model_copy(update={"data": _anchored_data(one.data, folder)})
        for name, one in recipe.also.items()
    }
    return recipe.model_copy(
        update={
            "audit": recipe.audit.model_copy(update={"known": known}),
            "data": _anchored_data(recipe.data, folder),
            "also": further,
        }
    )


def _anchored_data(data: DataConfig, folder: Path) -> DataConfig:
    if isinstance(data, DocstringsConfig):
        return data
    path = data.path
    absolute = str(folder / Path(path).expanduser()) if isinstance(path, str) else path.anchored(folder)
    return data.model_copy(update={"path": absolute})
