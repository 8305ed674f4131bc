"""The data sets of a training: as steps of a recipe, and as the artifacts that a plan reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.artifacts import Artifact
from cluster.errors import UserError
from models.prompts import Prompts
from pipelines.answers import WithDrafts, found_again
from pipelines.steps import Step
from pipelines.train.config import TrainConfig
from pipelines.train.stages import MAIN, NOTHING_SAID, SetSettings

INPUTS = ("guide", "clusters", "drafts", "round_trip")
"""What a plan may read of a data set besides `data` and `groups`."""


@dataclass(frozen=True)
class Source:
    """A data set, before anything is computed.

    Args:
        name: `main`, or its name under `also`.
        data: Ingest.
        groups: Select.
        prompts: What stands before its queries and documents.
        guides: Its dense teachers: name -> their embeddings of ``data``.
        settings: What the recipe says of it.
        drafts: Queries that were generated for it, and the search for their documents; (): none.
    """

    name: str
    data: Step
    groups: Step
    prompts: Prompts
    guides: Mapping[str, Step]
    settings: SetSettings = NOTHING_SAID
    drafts: tuple[Step, Step] | tuple[()] = ()

    def inputs(self, config: TrainConfig) -> dict[str, Step]:
        """Return what a plan reads of it, by the name that the plan's step gives to each.

        Raises:
            UserError: The guide, or the teacher whose embeddings are clustered, is none of its dense teachers.
        """
        read = {"data": self.data, "groups": self.groups}
        read |= dict(zip(("drafts", "round_trip"), self.drafts, strict=False))
        if config.guide is not None:
            read["guide"] = self._teacher(config.guide, "the guide", "train.loss.guide")
        clusters = config.batches.clusters
        if clusters is not None:
            where = "train.batches.clusters.teacher"
            name = clusters.teacher or self._only_teacher(where)
            read["clusters"] = self._teacher(name, "the teacher of the clusters", where)
        return {input_name(self.name, kind): step for kind, step in read.items()}

    def _teacher(self, name: str, role: str, where: str) -> Step:
        if name not in self.guides:
            raise UserError(
                f"{role} is no dense teacher of {'this recipe' if self.name == MAIN else f'also.{self.name}'}",
                where=where,
                got=name,
                expected=", ".join(self.guides) or f"a dense teacher under {self._mine}.teachers",
            )
        return self.guides[name]

    def _only_teacher(self, where: str) -> str:
        if len(self.guides) != 1:
            raise UserError(
                "which teacher's embeddings are meant?",
                where=where,
                got="null",
                expected=" or ".join(self.guides) or f"a dense teacher under {self._mine}.teachers",
                fix=f"write teacher: {next(iter(self.guides))}" if self.guides else "add one of kind dense",
            )
        return next(iter(self.guides))

    @property
    def _mine(self) -> str:
        return "mine" if self.name == MAIN else f"also.{self.name}.mine"


@dataclass(frozen=True)
class OpenSource:
    """A data set, mined.

    Args:
        name: `main`, or its name under `also`.
        data: Ingest artifact.
        groups: Of the stage select.
        prompts: What stands before its queries and documents. None: what the model says.
        guide: Embeddings of the teacher that guides a loss, if one does.
        clusters: Embeddings whose clusters batches are drawn from, if they are.
        settings: What the recipe says of it.
        drafted: Document -> the generated query that asks for it; their ordinals lie behind those of the data's own.
    """

    name: str
    data: Artifact
    groups: Artifact
    prompts: Prompts | None = None
    guide: Artifact | None = None
    clusters: Artifact | None = None
    settings: SetSettings = NOTHING_SAID
    drafted: Mapping[int, int] = field(default_factory=dict)


def check_guides(sources: Sequence[Source], config: TrainConfig) -> None:
    """Refuse a guide that is another model in another data set: its cosines are compared across them.

    Raises:
        UserError: It is.
    """
    if config.guide is None or len(sources) == 1:
        return
    weights = {source.name: _weights(source.guides[config.guide]) for source in sources}
    for name, found in weights.items():
        if found != weights[MAIN]:
            raise UserError(
                "the guide is another model than that of the main data set",
                where=f"also.{name}.mine.teachers.{config.guide}",
                expected="one model under this name in every data set",
                fix=f"copy mine.teachers.{config.guide}",
            )


def _weights(embeddings: Step) -> object:
    """Return the digest of the model that makes some embeddings."""
    model = embeddings.identity["model"]
    assert isinstance(model, Mapping)
    return model["digest"]


def input_name(source: str, kind: str) -> str:
    """Return what a plan's step calls an input: those of the main data set go by their kind."""
    return kind if source == MAIN else f"{source}.{kind}"


def open_sources(sources: Sequence[Source], inputs: Mapping[str, Artifact]) -> list[OpenSource]:
    """Return the data sets with the artifacts that the plan's step was given."""
    opened = []
    for source in sources:
        read = {kind: inputs.get(input_name(source.name, kind)) for kind in INPUTS}
        data, drafts, drafted = inputs[input_name(source.name, "data")], read["drafts"], dict[int, int]()
        if drafts is not None and read["round_trip"] is not None:
            drafted = found_again(data, read["round_trip"])
            data = WithDrafts(data, drafts)
        opened.append(
            OpenSource(
                source.name,
                data,
                inputs[input_name(source.name, "groups")],
                source.prompts,
                read["guide"],
                read["clusters"],
                source.settings,
                drafted,
            )
        )
    return opened
