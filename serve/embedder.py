"""Texts of a request to embeddings: tokenised and batched with the texts of all other requests."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from models.encoder import Encoder
from models.inference import embed
from models.prompts import Kind
from models.tokenization import TextTokenizer
from serve.batcher import TokenBatcher
from serve.errors import ApiError
from serve.protocol import TokenIds, Truncate
from serve.tokenizing import RequestTokenizer

# A token of English has 4 to 5 characters; the estimate is made exact before anything is queued.
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Inputs:
    """What one request wants embedded.

    Args:
        texts: N texts; ignored where ``ids`` is given.
        kind: Chooses the prompt and the limit.
        truncate: ``"END"``: cut texts over the limit; ``"NONE"``: refuse them.
        ids: Token ids of N texts, without special tokens.
        task: Whose instruction stands before queries; empty: the prompt of all queries.
        param: The field's name, for messages.
    """

    texts: list[str]
    kind: Kind
    truncate: Truncate
    ids: TokenIds | None = None
    task: str = ""
    param: str = "input"


@dataclass(frozen=True)
class Embedded:
    """Embeddings float32 [N, D] of one request, and how many tokens they took."""

    embeddings_ND: np.ndarray
    num_tokens: int


class RequestEmbedder:
    """Embeds the texts of concurrent requests; to be used inside one running event loop.

    Args:
        encoder: The model.
        tokenizer: Its tokenizer with prompts and limits.
        token_budget: Most tokens of one forward pass, padding counted.
        max_queued_tokens: Most tokens admitted and not yet answered.
        max_request_tokens: Most tokens of one request.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: TextTokenizer,
        token_budget: int,
        max_queued_tokens: int,
        max_request_tokens: int,
    ) -> None:
        self.max_request_tokens = max_request_tokens
        self.tokenizer = RequestTokenizer(tokenizer)
        self.batcher = TokenBatcher(
            partial(embed, encoder, token_budget=token_budget), token_budget, max_queued_tokens
        )

    @property
    def is_alive(self) -> bool:
        """Whether requests are still being worked on."""
        return self.tokenizer.is_alive and self.batcher.is_alive

    async def embed(self, inputs: Inputs) -> Embedded:
        """Embed one request.

        Raises:
            ApiError: A text is over the limit, the request is too large, the ids are of another model, or the
                queue is full.
        """
        texts, param = inputs.texts, inputs.param
        with self.batcher.admit(self._estimate(texts, inputs.ids)) as ticket:
            if inputs.ids is not None:
                texts = await self.tokenizer.texts_of(inputs.ids, param)
            may_cut = inputs.truncate == "END"
            tokens = await self.tokenizer.tokenize(texts, inputs.kind, may_cut, param, inputs.task)
            num_tokens = int(tokens.offsets[-1])
            if num_tokens > self.max_request_tokens:
                raise ApiError(
                    400,
                    f"{param} has {num_tokens} tokens; at most {self.max_request_tokens} fit one request",
                    param,
                    "too_many_tokens",
                )
            self.batcher.correct(ticket, num_tokens)
            return Embedded(await self.batcher.embed(tokens), num_tokens)

    async def close(self) -> None:
        """Stop; requests that still wait are cancelled."""
        await self.tokenizer.close()
        await self.batcher.close()

    def _estimate(self, texts: list[str], ids: TokenIds | None) -> int:
        # Counted before tokenising, or a flood would fill the memory with texts that nobody has counted yet.
        size = sum(map(len, ids)) if ids is not None else sum(map(len, texts)) // _CHARACTERS_PER_TOKEN
        return min(self.max_request_tokens, size + len(ids or texts))
