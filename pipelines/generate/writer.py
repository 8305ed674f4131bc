"""The language model that writes queries as a step sees it, as a worker loads it, and the actor that holds it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import UserError
from models.tokenization import Tokens
from pipelines.engine import engine_identity, resolve_engine
from pipelines.generate.config import GenerateConfig

if TYPE_CHECKING:
    from cluster.session import Session
    from models.vllm_engine.support import Engine


@dataclass(frozen=True)
class LocatedWriter:
    """A language model that a worker can load: small, and the same bytes wherever it is loaded.

    Args:
        config: As the recipe says.
        digest: sha256 over weights and tokenizer.
        dtype: Resolved dtype.
        device: ``"cpu"`` or ``"cuda"``.
        engine: vLLM where it writes; None: torch.
    """

    config: GenerateConfig
    digest: str
    dtype: str
    device: str
    engine: "Engine | None"

    @classmethod
    def resolve(cls, config: GenerateConfig, session: "Session") -> "LocatedWriter":
        """Read the model's files and ask the machine that will run it for dtype and device.

        Raises:
            ModelError: The source is no causal language model, or the engine is not installed or does not compute it.
        """
        from models.checkpoint import resolve_model
        from models.generation import METHOD, check_writer
        from models.layout import model_digest, read_config
        from models.precision import device_kind, resolve_dtype
        from models.vllm_engine.support import check_reranker

        directory = resolve_model(config.source)
        check_writer(directory)
        if config.engine == "vllm":
            check_reranker(read_config(directory), config.source, METHOD)
        return cls(
            config=config,
            digest=model_digest(directory),
            dtype=session.run_on("generate", resolve_dtype, config.dtype),
            device=session.run_on("generate", device_kind),
            engine=resolve_engine(config.engine, config.gpu_memory_fraction, "generate", session),
        )

    @property
    def identity(self) -> dict[str, object]:
        """What the queries depend on."""
        unfelt = {"source", "dtype", "engine", "gpu_memory_fraction", "teacher", "keep_rank"}
        return {
            **self.config.model_dump(mode="json", exclude=unfelt),
            "digest": self.digest,
            "dtype": self.dtype,
            "device": self.device,
            "engine": engine_identity(self.engine),
        }

    def load(self) -> Callable[[Tokens], list[str]]:
        """Load what turns P prompts into P queries: the network, or vLLM in its place.

        Raises:
            UserError: The files are no longer those that the run was planned with.
        """
        from models.checkpoint import resolve_model
        from models.layout import model_digest

        settings: dict[str, Any] = {
            "dtype": self.dtype,
            "device": self.device,
            "token_budget": self.config.token_budget,
            "max_query_tokens": self.config.max_query_tokens,
        }
        directory = resolve_model(self.config.source)
        found = model_digest(directory)
        if found != self.digest:
            raise UserError(
                "the language model's files changed while the run was under way",
                where=self.config.source,
                got=f"sha256 {found[:12]}",
                expected=f"sha256 {self.digest[:12]}",
                fix="run the same command again",
            )
        if self.engine is None:
            from models.generation import QueryWriter

            return QueryWriter(directory, **settings).write
        from models.vllm_engine.writer import VllmWriter

        return VllmWriter(directory, self.engine, **settings).write


class DraftWriter:
    """Hold one copy of the language model, loaded by the first row, and write queries for rows of documents.

    Args:
        model: What to load.
    """

    def __init__(self, model: LocatedWriter) -> None:
        self._located = model

    @cached_property
    def _write(self) -> Callable[[Tokens], list[str]]:
        return self._located.load()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row with `queries` in place of the prompts' tokens."""
        started = monotonic()
        ids, offsets = np.frombuffer(row["ids"], np.int32), np.frombuffer(row["offsets"], np.int64)
        queries = self._write(Tokens(ids, offsets, np.zeros(len(offsets) - 1, np.int32)))
        return {
            "index": row["index"],
            "docs": row["docs"],
            "queries": queries,
            "seconds": monotonic() - started,
        }
