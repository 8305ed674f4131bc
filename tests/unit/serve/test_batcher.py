"""The batcher: budget, fair order, bounded queue, failures that stay where they belong."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from models.inference import BATCH_MULTIPLE
from models.tokenization import Tokens
from serve.batcher import TokenBatcher
from serve.errors import OverloadError

W = BATCH_MULTIPLE


def tokens_of(lengths: list[int], first_id: int = 0) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.repeat(np.arange(first_id, first_id + len(lengths)), lengths).astype(np.int32)
    return Tokens(ids, offsets, np.zeros(len(lengths), np.int32))


class Device:
    """Records batches; an embedding is [id of the text, its length]. Runs only while the gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.widths: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.poison: int | None = None

    def __call__(self, tokens: Tokens) -> np.ndarray:
        assert self.gate.wait(5)
        ids = tokens.ids[tokens.offsets[:-1]].tolist()
        self.batches.append(ids)
        self.widths.append(int(-(-tokens.lengths.max() // W) * W * len(tokens)))
        if self.poison in ids:
            raise RuntimeError("poison")
        return np.stack([tokens.ids[tokens.offsets[:-1]], tokens.lengths], 1).astype(np.float32)


def with_batcher(
    device: Device, body: Callable[[TokenBatcher], Awaitable[None]], budget: int = 8 * W, queue: int = 10**6
) -> None:
    async def run() -> None:
        batcher = TokenBatcher(device, budget, queue)
        try:
            await body(batcher)
        finally:
            device.gate.set()
            await batcher.close()

    asyncio.run(asyncio.wait_for(run(), 10))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never came true")


def test_every_text_gets_its_own_embedding_within_the_budget() -> None:
    device = Device()
    rng = np.random.default_rng(0)
    requests = [tokens_of(rng.integers(1, 7 * W, 20).tolist(), 100 * index) for index in range(8)]

    async def body(batcher: TokenBatcher) -> None:
        answers = await asyncio.gather(*(batcher.embed(tokens) for tokens in requests))
        for tokens, out_ND in zip(requests, answers, strict=True):
            assert out_ND.dtype == np.float32
            assert np.array_equal(out_ND[:, 0], tokens.ids[tokens.offsets[:-1]])
            assert np.array_equal(out_ND[:, 1], tokens.lengths)

    with_batcher(device, body)
    assert sum(map(len, device.batches)) == 160
    assert max(len(batch) for batch in device.batches) > 1


def test_batches_hold_texts_of_like_length() -> None:
    device = Device()

    async def body(batcher: TokenBatcher) -> None:
        device.gate.clear()
        first = asyncio.create_task(batcher.embed(tokens_of([1], 99)))
        await asyncio.sleep(0.05)
        rest = asyncio.create_task(batcher.embed(tokens_of([1, 4 * W, 1], 0)))
        await asyncio.sleep(0.05)
        device.gate.set()
        await asyncio.gather(first, rest)

    with_batcher(device, body)
    assert device.batches == [[99], [0, 2], [1]]


def test_a_query_does_not_wait_for_a_long_request() -> None:
    device = Device()

    async def body(batcher: TokenBatcher) -> None:
        device.gate.clear()
        long = asyncio.create_task(batcher.embed(tokens_of([W] * 200)))
        await asyncio.sleep(0.05)
        query = asyncio.create_task(batcher.embed(tokens_of([1], 999)))
        await asyncio.sleep(0.05)
        device.gate.set()
        await query
        assert not long.done()
        await long

    with_batcher(device, body)
    assert next(index for index, batch in enumerate(device.batches) if 999 in batch) == 1


def test_a_full_queue_refuses_and_frees_itself() -> None:
    device = Device()

    async def body(batcher: TokenBatcher) -> None:
        with batcher.admit(80):
            with pytest.raises(OverloadError) as caught, batcher.admit(21):
                pass
            assert caught.value.retry_after_s == 1
            with batcher.admit(20) as ticket:
                with pytest.raises(OverloadError):
                    batcher.correct(ticket, 21)
                batcher.correct(ticket, 5)
                assert batcher.queued_tokens == 85
            assert batcher.queued_tokens == 80
        assert batcher.queued_tokens == 0

    with_batcher(device, body, queue=100)


def test_retry_after_follows_the_measured_speed() -> None:
    device = Device()

    async def body(batcher: TokenBatcher) -> None:
        await batcher.embed(tokens_of([10]))
        batcher._tokens_per_s = 10.0
        with batcher.admit(75):
            assert batcher.retry_after_s() == 8
        with batcher.admit(10**5):
            assert batcher.retry_after_s() == 60

    with_batcher(device, body)


def test_an_error_fails_the_guilty_request_alone() -> None:
    device = Device()
    device.poison = 7

    async def body(batcher: TokenBatcher) -> None:
        answers = await asyncio.gather(
            *(batcher.embed(tokens_of([4], index)) for index in (6, 7, 8)), return_exceptions=True
        )
        assert isinstance(answers[1], RuntimeError)
        assert [answers[0][0, 0], answers[2][0, 0]] == [6, 8]  # type: ignore[index]
        assert batcher.is_alive
        assert (await batcher.embed(tokens_of([4], 9)))[0, 0] == 9

    with_batcher(device, body)


def test_a_cancelled_request_is_not_computed() -> None:
    device = Device()

    async def body(batcher: TokenBatcher) -> None:
        device.gate.clear()
        first = asyncio.create_task(batcher.embed(tokens_of([1], 1)))
        await asyncio.sleep(0.05)

        async def ask() -> None:
            with batcher.admit(50):
                await batcher.embed(tokens_of([W] * 50, 100))

        gone = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.wait([gone])
        assert batcher.queued_tokens == 0
        device.gate.set()
        await first
        assert (await batcher.embed(tokens_of([1], 2)))[0, 0] == 2

    with_batcher(device, body)
    assert device.batches == [[1], [2]]


def test_closing_leaves_nobody_waiting() -> None:
    device = Device()

    async def body(batcher: TokenBatcher) -> None:
        device.gate.clear()
        running = asyncio.create_task(batcher.embed(tokens_of([1], 1)))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.embed(tokens_of([1], 2)))
        await asyncio.sleep(0.05)
        device.gate.set()
        await batcher.close()
        await asyncio.wait([running, waiting], timeout=1)
        assert waiting.cancelled()
        assert running.done()

    with_batcher(device, body)
