"""Batches of texts across requests, by token budget, in fair order, behind a bounded queue.

Shapes: N texts of a request, B texts of one forward pass, D dimensions.

Order is start-time fair queueing (Goyal et al. 1996): a text is due when its request would have had it
computed if all waiting requests shared the device equally, so that a request of 2,000 texts does not hold up
a single query.
"""

import asyncio
import heapq
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from models.inference import BATCH_MULTIPLE
from models.tokenization import Tokens, concatenate
from serve.errors import OverloadError

MAX_RETRY_AFTER_S = 60
# A text joins a batch of longer ones only if it fills at least this share of its padded row.
MIN_FILL = 0.5


@dataclass
class Ticket:
    """A request's share of the queue, in tokens."""

    num_tokens: int


@dataclass(eq=False)
class _Job:
    tokens: Tokens
    answer: "asyncio.Future[np.ndarray]"
    rows_left: int
    out_ND: np.ndarray | None = None


@dataclass(order=True)
class _Text:
    due: float
    sequence: int
    width: int = field(compare=False)
    row: int = field(compare=False)
    job: _Job = field(compare=False)


class TokenBatcher:
    """Runs the forward passes of all requests of one replica, one at a time, in a thread of its own.

    To be made, used and closed inside one running event loop.

    Args:
        embed: Tokens of B texts -> float32 [B, D]; called in the worker thread.
        token_budget: Most tokens of one forward pass, padding counted.
        max_queued_tokens: Most tokens admitted and not yet answered.
    """

    def __init__(
        self, embed: Callable[[Tokens], np.ndarray], token_budget: int, max_queued_tokens: int
    ) -> None:
        self.token_budget = token_budget
        self.max_queued_tokens = max_queued_tokens
        self.queued_tokens = 0
        self._embed = embed
        self._texts: list[_Text] = []
        self._sequence = 0
        self._now = 0.0
        self._tokens_per_s = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forward")
        self._work = asyncio.Event()
        self._loop = asyncio.create_task(self._run())

    @property
    def is_alive(self) -> bool:
        """Whether batches are still being run."""
        return not self._loop.done()

    @contextmanager
    def admit(self, num_tokens: int) -> Iterator[Ticket]:
        """Hold a share of the queue until the request is answered.

        Args:
            num_tokens: An estimate; ``correct`` makes it exact once the texts are tokenised.

        Raises:
            OverloadError: The queue has no room.
        """
        ticket = Ticket(0)
        try:
            self.correct(ticket, num_tokens)
            yield ticket
        finally:
            self.queued_tokens -= ticket.num_tokens

    def correct(self, ticket: Ticket, num_tokens: int) -> None:
        """Replace the estimate of a ticket.

        Raises:
            OverloadError: The queue has no room for so many.
        """
        queued = self.queued_tokens - ticket.num_tokens + num_tokens
        if queued > self.max_queued_tokens and num_tokens > ticket.num_tokens:
            raise OverloadError(self.queued_tokens, self.max_queued_tokens, self.retry_after_s())
        self.queued_tokens = queued
        ticket.num_tokens = num_tokens

    def retry_after_s(self) -> int:
        """Return when the queue will be empty at the speed of late: seconds, from 1 to MAX_RETRY_AFTER_S."""
        if not self._tokens_per_s:
            return 1
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self.queued_tokens / self._tokens_per_s)))

    async def embed(self, tokens: Tokens) -> np.ndarray:
        """Embed the texts of one request.

        Cancelling the call drops those of its texts that no forward pass has taken yet.

        Args:
            tokens: N texts, none wider than the token budget.

        Returns:
            float32 [N, D].
        """
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        job = _Job(tokens, answer, len(tokens))
        widths = -(-np.maximum(tokens.lengths, 1) // BATCH_MULTIPLE) * BATCH_MULTIPLE
        # Short texts first, so that neighbours in the queue are of like length.
        order = np.argsort(widths, kind="stable")
        dues = self._now + np.cumsum(widths[order])
        for due, row in zip(dues.tolist(), order.tolist(), strict=True):
            self._sequence += 1
            heapq.heappush(self._texts, _Text(due, self._sequence, int(widths[row]), row, job))
        self._work.set()
        return await answer

    async def close(self) -> None:
        """Stop; requests that still wait are cancelled."""
        self._loop.cancel()
        await asyncio.wait([self._loop])
        for text in self._texts:
            text.job.answer.cancel()
        self._texts = []
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            picked = self._pick()
            if not picked:
                self._work.clear()
                await self._work.wait()
            try:
                for batch in _alike(picked):
                    await self._run_batch(batch)
            except asyncio.CancelledError:
                for text in picked:
                    text.job.answer.cancel()
                raise

    def _pick(self) -> list[_Text]:
        """Take the texts that are due first, up to the token budget; those of cancelled requests vanish."""
        picked: list[_Text] = []
        room = self.token_budget
        while self._texts and (not picked or self._texts[0].width <= room):
            text = heapq.heappop(self._texts)
            if text.job.answer.done():
                continue
            self._now = max(self._now, text.due - text.width)
            picked.append(text)
            room -= text.width
        return picked

    async def _run_batch(self, batch: list[_Text]) -> None:
        tokens = concatenate([text.job.tokens.take(np.array([text.row])) for text in batch])
        started = time.perf_counter()
        try:
            emb_BD = await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, tokens)
        except Exception as error:  # noqa: BLE001 -- handed to the request it belongs to
            await self._isolate(batch, error)
            return
        speed = int(tokens.offsets[-1]) / max(time.perf_counter() - started, 1e-6)
        self._tokens_per_s = 0.8 * self._tokens_per_s + 0.2 * speed if self._tokens_per_s else speed
        for text, emb_D in zip(batch, emb_BD, strict=True):
            job = text.job
            if job.out_ND is None:
                job.out_ND = np.empty((len(job.tokens), len(emb_D)), np.float32)
            job.out_ND[text.row] = emb_D
            job.rows_left -= 1
            if not job.rows_left and not job.answer.done():
                job.answer.set_result(job.out_ND)

    async def _isolate(self, batch: list[_Text], error: Exception) -> None:
        """Run the requests of a failed batch one by one, so that only the guilty one fails."""
        jobs = {text.job: None for text in batch}
        if len(jobs) > 1:
            for job in jobs:
                await self._run_batch([text for text in batch if text.job is job])
            return
        answer = batch[0].job.answer
        if not answer.done():
            answer.set_exception(error)


def _alike(texts: list[_Text]) -> list[list[_Text]]:
    """Split texts into batches in which no row is mostly padding, short ones first."""
    batches: list[list[_Text]] = []
    for text in sorted(texts, key=lambda text: -text.width):
        if not batches or text.width < MIN_FILL * batches[-1][0].width:
            batches.append([])
        batches[-1].append(text)
    return batches[::-1]
