"""Texts of several requests tokenised in one call, in a thread of their own."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np

from models.prompts import Kind
from models.tokenization import TextTokenizer, Tokens
from models.tokenizer_files import load_backend
from serve.errors import ApiError

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class _Request:
    texts: Sequence[str]
    kind: Kind
    task: str
    answer: "asyncio.Future[Tokens]"


class RequestTokenizer:
    """Tokenises what came in while the call before was running; to be used inside one running event loop.

    Args:
        tokenizer: Renders, tokenises and cuts.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        # A second backend that never cuts: it tells how long an over-long text is, and checks token ids.
        self._whole = load_backend(tokenizer.directory)
        self._whole.no_truncation()
        self._whole.no_padding()
        self._waiting: list[_Request] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._work = asyncio.Event()
        self._loop = asyncio.create_task(self._run())

    @property
    def is_alive(self) -> bool:
        """Whether texts are still being tokenised."""
        return not self._loop.done()

    async def tokenize(
        self, texts: Sequence[str], kind: Kind, may_cut: bool, param: str = "input", task: str = ""
    ) -> Tokens:
        """Tokenise the texts of one request.

        Args:
            texts: N texts without prompt.
            kind: Chooses the prompt and the limit.
            may_cut: Cut texts over the limit instead of refusing them.
            param: The field's name, for messages.
            task: Whose instruction stands before queries; empty: the prompt of all queries.

        Returns:
            Tokens of N texts.

        Raises:
            ApiError: 400, a text is over the limit and ``may_cut`` is False, or the model knows no such task.
        """
        known = dict(self.tokenizer.prompts.tasks)
        if task and task not in known:
            names = ", ".join(known) or "none"
            raise ApiError(400, f"this model has no task {task!r}; it has: {names}", "task", "invalid_value")
        answer: asyncio.Future[Tokens] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(texts, kind, task, answer))
        self._work.set()
        tokens = await answer
        limit = self.tokenizer.max_tokens(kind)
        full = np.flatnonzero(tokens.lengths >= limit)
        if not may_cut and len(full):
            await self._in_thread(self._refuse_longer, texts, full, kind, task, limit, param)
        return tokens

    async def texts_of(self, ids: list[list[int]], param: str = "input") -> list[str]:
        """Turn token ids (without special tokens) back into the texts they stand for.

        Raises:
            ApiError: 400, ids that this tokenizer would not make of any text, such as another model's.
        """
        return await self._in_thread(self._decode, ids, param)

    async def close(self) -> None:
        """Stop; requests that still wait are cancelled."""
        self._loop.cancel()
        await asyncio.wait([self._loop])
        for request in self._waiting:
            request.answer.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            requests, self._waiting = self._waiting, []
            for kind in ("query", "document"):
                alike = [
                    request for request in requests if request.kind == kind and not request.answer.done()
                ]
                if alike:
                    await self._answer(alike)

    async def _answer(self, requests: list[_Request]) -> None:
        texts = [text for request in requests for text in request.texts]
        tasks = [request.task for request in requests for _ in request.texts]
        try:
            tokens = await self._in_thread(self.tokenizer.tokenize, texts, requests[0].kind, tasks)
        except Exception as error:  # noqa: BLE001 -- handed to the request it belongs to
            if len(requests) > 1:
                for request in requests:
                    await self._answer([request])
            elif not requests[0].answer.done():
                requests[0].answer.set_exception(error)
            return
        start = 0
        for request in requests:
            stop = start + len(request.texts)
            if not request.answer.done():
                request.answer.set_result(tokens.take(np.arange(start, stop)))
            start = stop

    def _refuse_longer(
        self, texts: Sequence[str], rows: np.ndarray, kind: Kind, task: str, limit: int, param: str
    ) -> None:
        prompts = self.tokenizer.prompts
        encodings = self._whole.encode_batch_fast([prompts.render(texts[row], kind, task) for row in rows])
        for row, encoding in zip(rows, encodings, strict=True):
            if len(encoding.ids) > limit:
                raise ApiError(
                    400,
                    f"{param}[{row}] has {len(encoding.ids)} tokens; the limit for input_type {kind} is "
                    f'{limit}. Shorten it, or send "truncate": "END" to have it cut',
                    param,
                    "context_length_exceeded",
                )

    def _decode(self, ids: list[list[int]], param: str) -> list[str]:
        size = self._whole.get_vocab_size(with_added_tokens=True)
        for index, row in enumerate(ids):
            wrong = next((token for token in row if not 0 <= token < size), None)
            if wrong is not None:
                raise self._foreign(param, index, f"{wrong} is not among its {size} ids")
        texts = self._whole.decode_batch(ids, skip_special_tokens=True)
        encodings = self._whole.encode_batch_fast(texts, add_special_tokens=False)
        for index, (row, text, encoding) in enumerate(zip(ids, texts, encodings, strict=True)):
            if not text.strip() or encoding.ids != row:
                raise self._foreign(param, index, "it would not make them of any text")
        return texts

    @staticmethod
    def _foreign(param: str, index: int, why: str) -> ApiError:
        return ApiError(
            400,
            f"{param}[{index}]: the token ids are not those of this model's tokenizer ({why}). Send text, or "
            "ids without special tokens (in LangChain: check_embedding_ctx_length=False)",
            param,
            "invalid_token_ids",
        )
