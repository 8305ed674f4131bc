"""A reranker as a step sees it: bytes, dtype and device kind known, so that scores can be keyed by them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.artifacts import Artifact, fingerprint
from cluster.errors import UserError
from models.reranking.rendering import Rendering
from pipelines.engine import engine_identity, resolve_engine
from pipelines.score.config import RerankerConfig
from pipelines.steps import Step, label_of

if TYPE_CHECKING:
    import numpy as np

    import models.reranker
    from cluster.session import Session
    from models.low_bit import Quantize
    from models.reranking.pair_tokens import PairTokenizer
    from models.tokenization import Tokens
    from models.vllm_engine.support import Engine


@dataclass(frozen=True)
class LocatedReranker:
    """A reranker that a worker can load: small and hashable.

    Args:
        location: A directory, a hub id or `package:<module>`.
        rendering: Method, template and limits.
        digest: What its files and rendering must hash to.
        dtype: Of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.
        token_budget: Tokens of one forward pass.
        engine: vLLM where it scores; None: torch.
        quantize: ``"8bit"`` or ``"4bit"`` weights; None: whole ones.
    """

    location: str
    rendering: Rendering
    digest: str
    dtype: str
    device: str
    token_budget: int
    engine: "Engine | None" = None
    quantize: "Quantize | None" = None

    def tokenizer(self) -> "PairTokenizer":
        """Load the tokenizer, once a process."""
        return _tokenizer(self)

    def load(self) -> "models.reranker.Reranker":
        """Load the network in evaluation mode.

        Raises:
            UserError: The files are no longer those that the run was planned with.
        """
        from models.reranker import load_reranker

        return load_reranker(self._directory(), self.rendering, self.dtype, self.device, self.quantize)

    def scorer(self) -> "Callable[[Tokens], np.ndarray]":
        """Load what turns the tokens of P pairs into float32 [P]: the network, or vLLM in its place.

        Raises:
            UserError: The files are no longer those that the run was planned with.
        """
        if self.engine is None:
            return partial(self.load().score_tokens, token_budget=self.token_budget)
        from models.vllm_engine.reranker import VllmReranker

        return VllmReranker(
            self._directory(),
            self.rendering,
            self.engine,
            dtype=self.dtype,
            device=self.device,
            token_budget=self.token_budget,
        ).score_tokens

    def _directory(self) -> Path:
        """Return where the files are, unchanged: scores of others would be stored under their name, for good."""
        from models.checkpoint import resolve_model
        from models.reranking.description import reranker_digest

        directory = resolve_model(self.location)
        found = reranker_digest(directory, self.rendering)
        if found != self.digest:
            raise UserError(
                "the reranker's files changed while the run was under way",
                where=self.location,
                got=f"sha256 {found[:12]}",
                expected=f"sha256 {self.digest[:12]}",
                fix="run the same command again",
            )
        return directory


@lru_cache(maxsize=4)
def _tokenizer(reranker: LocatedReranker) -> "PairTokenizer":
    from models.checkpoint import resolve_model
    from models.reranking.pair_tokens import PairTokenizer

    return PairTokenizer(resolve_model(reranker.location), reranker.rendering)


@dataclass(frozen=True)
class Reranker:
    """A reranker that is known down to its bytes.

    Args:
        config: As the recipe says.
        digest: sha256 over weights, tokenizer, template and limits, or the fingerprint of the step that makes it.
        dtype: Resolved dtype.
        device: ``"cpu"`` or ``"cuda"``.
        made_by: The step whose artifact holds the model; None for the model that `config.source` names.
        engine: vLLM where it scores; None: torch.
    """

    config: RerankerConfig
    digest: str
    dtype: str
    device: str
    made_by: Step | None = None
    engine: "Engine | None" = None

    @classmethod
    def resolve(cls, config: RerankerConfig, session: "Session") -> "Reranker":
        """Read the model's files and ask the machine that will run it for dtype and device.

        Args:
            config: As the recipe says.
            session: Asks a machine of the `score` role what it has and which dtype it multiplies fastest.

        Raises:
            ModelError: The source is no reranker of this method, or the engine is not installed or does not compute
                it.
            UserError: Its limits exceed the model's positions.
        """
        from models.checkpoint import resolve_model
        from models.layout import max_positions, read_config
        from models.low_bit import require_bitsandbytes
        from models.precision import device_kind, resolve_dtype
        from models.reranking.description import check_architecture, reranker_digest
        from models.vllm_engine.support import check_reranker

        directory = resolve_model(config.source)
        check_architecture(directory, config.method)
        content = read_config(directory)
        positions = max_positions(content)
        longest = config.max_query_tokens + config.max_document_tokens
        if positions and longest > positions:
            raise UserError(
                "max_query_tokens and max_document_tokens exceed the model's positions",
                where=config.source,
                got=f"{config.max_query_tokens} + {config.max_document_tokens}",
                expected=f"together at most {positions}",
                fix=f"set max_document_tokens: {positions - config.max_query_tokens}"
                if positions > config.max_query_tokens
                else f"set max_query_tokens: {positions // 4} and max_document_tokens: {positions // 2}",
            )
        if config.engine == "vllm":
            check_reranker(content, config.source, config.method, config.quantize)
        if config.quantize is not None:
            session.run_on("score", require_bitsandbytes, config.quantize)
        return cls(
            config=config,
            digest=reranker_digest(directory, config.rendering),
            dtype=session.run_on("score", resolve_dtype, config.dtype),
            device=session.run_on("score", device_kind),
            engine=resolve_engine(config.engine, config.gpu_memory_fraction, "score", session),
        )

    @classmethod
    def of_step(cls, config: RerankerConfig, step: Step, session: "Session") -> "Reranker":
        """Return the reranker that a step of this run makes, whose files are not there yet.

        Args:
            config: How it reads; its source is what the step begins with.
            step: Its artifact has the files `model/...`.
            session: Asks a machine of the `score` role.
        """
        from models.precision import device_kind, resolve_dtype

        return cls(
            config=config,
            digest=step.fingerprint,
            dtype=session.run_on("score", resolve_dtype, config.dtype),
            device=session.run_on("score", device_kind),
            made_by=step,
        )

    @property
    def inputs(self) -> dict[str, Step]:
        """The step that a reader of this reranker depends on, if any."""
        return {"reranker": self.made_by} if self.made_by else {}

    @property
    def identity(self) -> dict[str, object]:
        """What a pair's score depends on."""
        rendering = {**asdict(self.config.rendering), "answers": list(self.config.answers)}
        engine = engine_identity(self.engine)
        return {
            "digest": self.digest,
            "rendering": rendering,
            "dtype": self.dtype,
            "device": self.device,
            **({"engine": engine} if engine else {}),
            **({"quantize": self.config.quantize} if self.config.quantize else {}),
        }

    @property
    def fingerprint(self) -> str:
        """20 hex digits: what the score store knows this teacher by."""
        return fingerprint(self.identity)

    @property
    def label(self) -> str:
        """The source's last part, and the stage that made it where one did."""
        name = label_of(self.config.source.rpartition(":")[2].rstrip("/").rpartition("/")[2])
        return f"{name}-{self.made_by.stage}" if self.made_by else name

    def locate(self, inputs: Mapping[str, Artifact]) -> LocatedReranker:
        """Return what workers load.

        Args:
            inputs: Artifacts of the reading step; holds `reranker` where a step makes it.
        """
        from models.reranking.description import reranker_digest

        location, digest = self.config.source, self.digest
        if self.made_by is not None:
            location = str(inputs["reranker"].directory("model"))
            digest = reranker_digest(location, self.config.rendering)
        return LocatedReranker(
            location=location,
            rendering=self.config.rendering,
            digest=digest,
            dtype=self.dtype,
            device=self.device,
            token_budget=self.config.token_budget,
            engine=self.engine,
            quantize=self.config.quantize,
        )
