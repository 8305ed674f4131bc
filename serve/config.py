"""What the user may say about serving."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# What OpenAI's endpoint takes in one request.
OPENAI_REQUEST_TOKENS = 300_000


class ServeConfig(BaseModel):
    """How a release is served; the hardware is the business of the cluster definition's ``serve`` role."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Anything but the loopback address needs ``keys_file``."""

    port: int = Field(8000, ge=1, le=65535)
    """TCP port to listen on."""

    keys_file: Path | None = None
    """File of hashed API keys; null: no key is asked for."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    """Of weights and activations; auto: bfloat16 where the hardware multiplies it, else float32; null: as the
    release, whose documents were embedded in it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto: on a GPU where there is one."""

    token_budget: int | None = Field(None, ge=8)
    """Most tokens of a forward pass, padding counted; null: 4,096 on a processor, 32,768 on a GPU, or the longest text
    that the release takes."""

    max_queued_tokens: int = Field(300_000, ge=1)
    """Most tokens that one replica may owe an answer for; beyond it requests are refused with 429."""

    max_request_tokens: int | None = Field(None, ge=1)
    """Most tokens of one request; null: as many as the queue holds, but no more than 300,000."""

    max_inputs: int = Field(2_048, ge=1)
    """Most texts of one request."""

    max_results: int = Field(1_000, ge=1)
    """Largest ``k`` of a search."""

    max_request_results: int = Field(20_000, ge=1)
    """Most documents of one search request, all of its queries together."""

    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1)
    """Most bytes of a request's body."""

    @model_validator(mode="after")
    def _consistent(self) -> "ServeConfig":
        if not self.is_loopback and self.keys_file is None:
            raise ValueError(
                f"host {self.host} with keys_file null would let anybody on the network use the model; make "
                "a key with `stope serve key` and set keys_file, or set host to 127.0.0.1"
            )
        if self.max_request_tokens is not None and self.max_request_tokens > self.max_queued_tokens:
            raise ValueError(
                f"max_request_tokens {self.max_request_tokens} is above max_queued_tokens "
                f"{self.max_queued_tokens}: such a request could never be admitted; raise max_queued_tokens"
            )
        return self

    @property
    def request_token_limit(self) -> int:
        """Most tokens of one request, resolved."""
        return self.max_request_tokens or min(self.max_queued_tokens, OPENAI_REQUEST_TOKENS)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
