"""A cross-encoder under training: where it begins, and what stands in the place of the embedding model."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.errors import UserError
from models.prompts import Kind, Prompts
from models.reranking.rendering import Rendering, make_rendering
from pipelines.located_model import LocatedModel
from pipelines.model import Model
from pipelines.steps import Step, Work, label_of
from pipelines.train.cross_encoder_config import CrossEncoderConfig

if TYPE_CHECKING:
    from cluster.session import Session
    from models.reranking.pair_tokens import PairTokenizer
    from models.reranking.scorers import CrossEncoder
    from models.tokenization import Tokens

STAGE_VERSION = 1
NO_PROMPTS = Prompts()
"""What stands before an embedding model's texts has no place in a pair."""


def untrained_step(config: CrossEncoderConfig, source: str, seed: int) -> Step:
    """Make the cross-encoder that a training begins with, so that it can be measured, too.

    Args:
        config: Of the cross-encoder.
        source: The recipe's model, where ``config`` names none.
        seed: Of a new head.

    Returns:
        A step whose artifact has the files `model/...`, which transformers and sentence-transformers load.

    Raises:
        ModelError: The source is no model that one can begin with.
        UserError: Its positions are too few for the pairs.
    """
    from models.checkpoint import resolve_model
    from models.layout import max_positions, model_digest, read_config
    from models.reranking.directory import check_beginning, is_cross_encoder

    source = config.source or source
    directory = resolve_model(source)
    check_beginning(directory)
    positions = max_positions(read_config(directory))
    longest = config.max_query_tokens + config.max_document_tokens
    if positions and longest > positions:
        raise UserError(
            "max_query_tokens and max_document_tokens exceed the model's positions",
            where="train.cross_encoder",
            got=f"{config.max_query_tokens} + {config.max_document_tokens}",
            expected=f"together at most {positions}, the positions of {source}",
            fix=f"set train.cross_encoder.max_document_tokens: {max(1, positions - config.max_query_tokens)}",
        )
    name = label_of(source.rpartition(":")[2].rstrip("/").rpartition("/")[2])
    return Step(
        stage="untrained",
        label=f"{name}-cross_encoder",
        stage_version=STAGE_VERSION,
        identity={"digest": model_digest(directory), "seed": None if is_cross_encoder(directory) else seed},
        libraries=("torch", "transformers"),
        inputs={},
        run=partial(_write, source=source, seed=seed),
    )


@dataclass(frozen=True)
class LocatedCrossEncoder:
    """A cross-encoder that a worker can load: small and hashable; stands where a LocatedModel does.

    Args:
        location: The directory of the one that is trained on.
        base: What that was made of, as the recipe names it.
        rendering: How its pairs are cut.
        dtype: Of matrix products.
        device: ``"cpu"`` or ``"cuda"``.
        prompts: None.
    """

    location: str
    base: str
    rendering: Rendering
    dtype: str
    device: str
    prompts: Prompts = NO_PROMPTS

    def pairs(self) -> "PairTokenizer":
        """Load the tokenizer of pairs, once a process."""
        return _pairs(self.location, self.rendering)

    def tokenizer(self) -> "SideTokenizer":
        """Load the tokenizer of a plan, which holds queries and documents by themselves."""
        return SideTokenizer(self.pairs())

    def encoder(self) -> "CrossEncoder":
        """Load the network, float32, in evaluation mode."""
        from models.reranking.network import load_network
        from models.reranking.scorers import CrossEncoder

        network = load_network(self.location, self.rendering.method, "float32", self.device)
        return CrossEncoder(network, self.pairs())

    def whole(self) -> "LocatedCrossEncoder":
        """Return the cross-encoder itself: its weights are never quantised."""
        return self

    def check_prompts(self) -> None:
        """Accept: there are none."""


@dataclass(frozen=True)
class SideTokenizer:
    """Queries and documents as they stand in a pair, each tokenised once; a rank joins them, batch by batch.

    Args:
        pairs: The tokenizer of the pairs.
    """

    pairs: "PairTokenizer"
    prompts: ClassVar[Prompts] = NO_PROMPTS

    def tokenize(self, texts: Sequence[str], kind: Kind, _tasks: Sequence[str] | None = None) -> "Tokens":
        """Return the tokens of N texts, in order, without special tokens; an empty text has none."""
        from models.reranking.pair_tokens import packed

        cut = self.pairs.rendering.cut_query if kind == "query" else self.pairs.rendering.cut_document
        return packed([(ids, 0) for ids in self.pairs.side([cut(text) for text in texts], kind)])


@dataclass(frozen=True)
class CrossEncoderModel:
    """A cross-encoder whose beginning, dtype and device kind are known; stands where a Model does.

    Args:
        config: As the recipe says.
        base: What it begins with, as the recipe names it.
        start: The step that makes what is trained on.
        dtype: Resolved dtype.
        device: ``"cpu"`` or ``"cuda"``.
        prompts: None.
    """

    config: CrossEncoderConfig
    base: str
    start: Step
    dtype: str
    device: str
    prompts: Prompts = NO_PROMPTS

    @classmethod
    def begin(
        cls, config: CrossEncoderConfig, source: str, seed: int, session: "Session"
    ) -> "CrossEncoderModel":
        """Read the files of what it begins with, and ask the machine that trains for dtype and device.

        Args:
            config: As the recipe says.
            source: The recipe's model, where ``config`` names none.
            seed: Of a new head.
            session: Asks a machine of the `train` role.
        """
        from models.precision import device_kind, resolve_dtype

        return cls(
            config=config,
            base=config.source or source,
            start=untrained_step(config, source, seed),
            dtype=session.run_on("train", resolve_dtype, "auto"),
            device=session.run_on("train", device_kind),
        )

    def in_training(self, _few_shot: bool, _max_document_tokens: int | None) -> "CrossEncoderModel":
        """Return the cross-encoder itself: what its pairs look like it says alone."""
        return self

    @property
    def identity(self) -> dict[str, object]:
        """What its training depends on."""
        return {
            "digest": self.start.fingerprint,
            "max_query_tokens": self.config.max_query_tokens,
            "max_document_tokens": self.config.max_document_tokens,
            "dtype": self.dtype,
            "device": self.device,
        }

    @property
    def inputs(self) -> dict[str, Step]:
        """The step that a reader of it depends on."""
        return {"model": self.start}

    @property
    def label(self) -> str:
        """What it is made of, and that it is a cross-encoder."""
        return self.start.label

    def locate(self, inputs: Mapping[str, Artifact]) -> LocatedCrossEncoder:
        """Return what workers load.

        Args:
            inputs: Artifacts of the reading step; holds `model`.
        """
        rendering = make_rendering(
            "cross_encoder",
            max_query_tokens=self.config.max_query_tokens,
            max_document_tokens=self.config.max_document_tokens,
        )
        location = str(inputs["model"].directory("model"))
        return LocatedCrossEncoder(location, self.base, rendering, self.dtype, self.device)


Trained = Model | CrossEncoderModel
"""What a training starts from, as its steps see it."""
LocatedTrained = LocatedModel | LocatedCrossEncoder
"""The same, as its workers do."""


@lru_cache(maxsize=4)
def _pairs(location: str, rendering: Rendering) -> "PairTokenizer":
    from models.reranking.pair_tokens import PairTokenizer

    return PairTokenizer(location, rendering)


def _write(work: Work, source: str, seed: int) -> Artifact:
    work.session.run_on("train", _write_model, work.writer, source, seed)
    return work.commit({})


def _write_model(writer: ArtifactWriter, source: str, seed: int) -> None:
    from models.checkpoint import resolve_model
    from models.reranking.directory import write_untrained

    with tempfile.TemporaryDirectory(prefix="stope-untrained-") as directory:
        write_untrained(resolve_model(source), Path(directory), seed)
        writer.put_directory("model", Path(directory))
