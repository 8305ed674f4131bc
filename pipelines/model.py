"""An embedding model as a step sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.engine import engine_identity, resolve_engine
from pipelines.located_model import LocatedModel
from pipelines.model_config import ModelConfig
from pipelines.prompts import resolve_prompts
from pipelines.steps import Step, label_of

if TYPE_CHECKING:
    from cluster.session import Session
    from models.prompts import Prompts
    from models.vllm_engine.support import Engine


@dataclass(frozen=True)
class Model:
    """A model whose bytes, dtype and device kind are known, so that results can be keyed by them.

    Args:
        config: As the recipe says.
        digest: sha256 over weights, tokenizer and prompts, or the fingerprint of the step that trains it.
        pooling: Resolved name of the pooler.
        prompts: Resolved prompts.
        dtype: Resolved dtype.
        device: ``"cpu"`` or ``"cuda"``.
        engine: vLLM where it embeds texts; None: torch.
        trained_by: The step whose artifact holds the model; None for the model that `config.source` names.
    """

    config: ModelConfig
    digest: str
    pooling: str
    prompts: "Prompts"
    dtype: str
    device: str
    engine: "Engine | None" = None
    trained_by: Step | None = None

    @classmethod
    def resolve(cls, config: ModelConfig, session: "Session") -> "Model":
        """Read the model's files and ask the machine that will run it for dtype and device.

        Args:
            config: As the recipe says.
            session: Asks a machine of the `encode` role what it has and which dtype it multiplies fastest.

        Raises:
            ModelError: The source is no model that can be loaded, or cannot be given this attention, or the engine
                is not installed or does not compute it.
        """
        from models.bidirectional import check_attention
        from models.checkpoint import resolve_model
        from models.layout import describe_model, max_positions, model_digest, read_config
        from models.low_bit import require_bitsandbytes
        from models.precision import device_kind, resolve_dtype
        from models.remote_code import check_code
        from models.sentence_modules import read_modules
        from models.vllm_engine.support import check_encoder

        directory = resolve_model(config.source, config.trust_remote_code)
        check_code(directory, config.trust_remote_code)
        content = read_config(directory)
        if config.attention is not None:
            check_attention(content, config.attention, config.source)
        if config.quantize is not None:
            session.run_on("encode", require_bitsandbytes, config.quantize)
        limit = max_positions(content)
        for key in ("max_query_tokens", "max_document_tokens"):
            if limit and getattr(config, key) > limit:
                raise UserError(
                    f"{key} exceeds the model's positions",
                    where=config.source,
                    got=str(getattr(config, key)),
                    expected=f"at most {limit}",
                    fix=f"set {key}: {limit} where the recipe names the model",
                )
        description = describe_model(directory)
        prompts = description.prompts
        if config.prompts is not None:
            prompts = resolve_prompts(
                config.prompts, directory, config.max_query_tokens, config.max_document_tokens
            )
        pooling = config.pooling or description.pooling
        if config.engine == "vllm":
            longest = max(config.max_query_tokens, config.max_document_tokens)
            projected = bool(read_modules(directory).projections)
            check_encoder(
                content, config.source, pooling, config.attention, config.quantize, longest, projected
            )
        return cls(
            config=config,
            digest=model_digest(directory, config.trust_remote_code),
            pooling=pooling,
            prompts=prompts,
            dtype=session.run_on("encode", resolve_dtype, config.dtype),
            device=session.run_on("encode", device_kind),
            engine=resolve_engine(config.engine, config.gpu_memory_fraction, "encode", session),
        )

    def in_training(self, few_shot: bool, max_document_tokens: int | None) -> "Model":
        """Return this model as the texts of a training are cut for it.

        Args:
            few_shot: Whether examples are drawn, which take the place of fixed ones.
            max_document_tokens: Where documents are cut meanwhile. None: as ever.
        """
        own = self.config.prompts
        prompts = own.without_examples() if few_shot and own is not None else self.prompts
        cut = max_document_tokens or self.config.max_document_tokens
        config = self.config.model_copy(update={"max_document_tokens": cut})
        return replace(self, prompts=prompts, config=config)

    def trained(self, step: Step) -> "Model":
        """Return this model as it is after ``step`` has trained it."""
        return replace(self, digest=step.fingerprint, trained_by=step)

    def check_dimension(self, dimension: int | None, where: str) -> None:
        """Refuse to keep more components of an embedding than the model makes.

        Args:
            dimension: Components to keep. None: all.
            where: The recipe's key.

        Raises:
            UserError: It makes fewer.
        """
        from models.checkpoint import resolve_model
        from models.layout import describe_model

        if dimension is None:
            return
        most = describe_model(resolve_model(self.config.source)).dimension
        if dimension > most:
            raise UserError(
                "the model has fewer dimensions",
                where=where,
                got=str(dimension),
                expected=f"at most {most}",
                fix="lower it, or set it to null for all",
            )

    @property
    def identity(self) -> dict[str, object]:
        """What the model's embeddings depend on."""
        return {
            "digest": self.digest,
            "pooling": self.pooling,
            "prompts": self.prompts.identity,
            "max_query_tokens": self.config.max_query_tokens,
            "max_document_tokens": self.config.max_document_tokens,
            "dtype": self.dtype,
            "device": self.device,
            **self._further_identity(),
        }

    def _further_identity(self) -> dict[str, object]:
        told: dict[str, object] = {
            "attention": self.config.attention,
            "quantize": self.config.quantize,
            "engine": engine_identity(self.engine),
            "trust_remote_code": self.config.trust_remote_code or None,
        }
        if self.pooling == "latent_attention":
            told["latent_attention"] = self.config.latent_attention.model_dump()
        return {name: value for name, value in told.items() if value is not None}

    @property
    def inputs(self) -> dict[str, Step]:
        """The step that a reader of this model depends on, if any."""
        return {"model": self.trained_by} if self.trained_by else {}

    @property
    def label(self) -> str:
        """The source's last part, `-tuned` added where it was trained here."""
        name = label_of(self.config.source.rpartition(":")[2].rstrip("/").rpartition("/")[2])
        return f"{name}-tuned" if self.trained_by else name

    def locate(self, inputs: Mapping[str, Artifact]) -> LocatedModel:
        """Return what workers load: the trained artifact's directory, or the source as it was named.

        Args:
            inputs: Artifacts of the reading step; holds `model` where this model was trained here.
        """
        location = str(inputs["model"].directory("model")) if self.trained_by else self.config.source
        return LocatedModel(
            location=location,
            pooling=self.pooling,
            prompts=self.prompts,
            max_query_tokens=self.config.max_query_tokens,
            max_document_tokens=self.config.max_document_tokens,
            dtype=self.dtype,
            device=self.device,
            attention=self.config.attention,
            latents=(self.config.latent_attention.num_latents, self.config.latent_attention.num_heads),
            trusted=self.config.trust_remote_code,
            quantize=self.config.quantize,
            engine=self.engine,
        )
