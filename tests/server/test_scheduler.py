"""Many requests, one worker: every vector goes to its own request, and nobody waits for those who came later."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import Encoder, InputError, NumericalError
from mlx_jina.engine import cores
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn.ragged import Batch, Ragged
from mlx_jina.server import scheduler
from mlx_jina.server.jobs import Encoded
from mlx_jina.server.scheduler import BatchError, Scheduler
from tests.support import blocks
from tests.support.tolerance import bound

T = TypeVar("T")

Batches = list[tuple[int, int]]

TOKENIZING = (ThreadPoolExecutor(1), ThreadPoolExecutor(1))


@pytest.fixture
def batches() -> Batches:
    """Texts and tokens of each batch."""
    return []


@pytest.fixture
def queue(pocket: Encoder, batches: Batches) -> Scheduler:
    return make(pocket, batches)


def make(encoder: Encoder, batches: Batches) -> Scheduler:
    return Scheduler(encoder.pipeline, TOKENIZING, lambda *batch: batches.append(batch[:2]))


@asynccontextmanager
async def busy(encoder: Encoder, queue: Scheduler, tokens: Callable[[], int]) -> AsyncIterator[None]:
    """The worker is busy until so many tokens wait."""
    free = threading.Event()
    encoder.pipeline.thread.submit(free.wait)
    try:
        yield
        await until(lambda: queue.waiting_tokens == tokens())
    finally:
        free.set()


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 30)


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await work()

    return asyncio.run(main())


class TestBatches:
    def test_requests_that_wait_together_share_one(
        self, pocket: Encoder, queue: Scheduler, batches: Batches
    ) -> None:
        requests = [[f"request {i}", "with two texts " * (i % 5)] for i in range(20)]

        async def work() -> list[Encoded]:
            async with busy(pocket, queue, lambda: sum(sum(pocket.count_tokens(texts)) for texts in requests)):
                tasks = [asyncio.create_task(queue.run(texts, pocket.plan())) for texts in requests]
            return await asyncio.gather(*tasks)

        for texts, encoded in zip(requests, run(work), strict=True):
            np.testing.assert_allclose(encoded.vectors, pocket.encode(texts), atol=bound(1e-6))
            assert encoded.tokens == pocket.count_tokens(texts)
        assert batches == [(40, sum(sum(pocket.count_tokens(texts)) for texts in requests))]

    def test_clients_that_come_back_share_the_next_one(
        self, pocket: Encoder, queue: Scheduler, batches: Batches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler, "GATHER_SECONDS", 10)

        async def client(late: bool) -> None:
            await queue.run(["first"], pocket.plan())
            await asyncio.sleep(0.05 * late)
            await queue.run(["second"], pocket.plan())

        async def work() -> None:
            async with busy(pocket, queue, lambda: 2 * pocket.count_tokens("first")[0]):
                tasks = [asyncio.create_task(client(late)) for late in (False, True)]
            await asyncio.gather(*tasks)

        run(work)
        assert [texts for texts, _ in batches] == [2, 2]

    def test_clients_in_two_groups_become_one(
        self, pocket: Encoder, queue: Scheduler, batches: Batches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler, "GATHER_SECONDS", 0.5)
        started, joined = threading.Event(), threading.Event()
        in_lanes = cores.run

        def held(function: Callable[[Batch], T], batch: Batch) -> list[tuple[Batch, T]]:
            started.set()
            joined.wait(30)
            return in_lanes(function, batch)

        monkeypatch.setattr(cores, "run", held)

        async def client() -> None:
            for _ in range(3):
                await queue.run(["some words"], pocket.plan())

        async def work() -> None:
            clients = [asyncio.create_task(client()) for _ in range(4)]
            await until(started.is_set)
            clients += [asyncio.create_task(client()) for _ in range(3)]
            await until(lambda: queue.waiting_tokens == 3 * pocket.count_tokens("some words")[0])
            joined.set()
            await asyncio.gather(*clients)

        run(work)
        assert [texts for texts, _ in batches] == [4, 7, 7, 3]

    def test_refusals_do_not_prolong_the_wait_for_clients_that_left(
        self, pocket: Encoder, queue: Scheduler, batches: Batches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scheduler, "GATHER_SECONDS", 0.5)
        stays = pocket.count_tokens("stays")[0]

        async def work() -> int:
            async with busy(pocket, queue, lambda: 2 * stays):
                leave = [asyncio.create_task(queue.run(["stays"], pocket.plan())) for _ in range(2)]
            await asyncio.gather(*leave)
            stays_alone = asyncio.create_task(queue.run(["stays"], pocket.plan()))
            refused = 0
            while not stays_alone.done():
                assert (await queue.run([], pocket.plan())).vectors.shape == (0, 256)
                refused += 1
                assert refused < 400, "the wait goes on as long as others are refused"
                await asyncio.sleep(0.01)
            return refused

        assert run(work) > 1
        assert [texts for texts, _ in batches] == [2, 1]

    def test_each_request_has_its_own_options(self, pocket: Encoder, queue: Scheduler, batches: Batches) -> None:
        options: list[dict[str, Any]] = [
            {},
            {"truncate_dim": 64},
            {"precision": "ubinary"},
            {"normalize_embeddings": False},
            {"prompt": "search: "},
            {"max_length": 4},
        ]

        async def work() -> list[Encoded]:
            return await asyncio.gather(*(queue.run(["some words of text"], pocket.plan(**o)) for o in options))

        for option, encoded in zip(options, run(work), strict=True):
            with pytest.warns() if "max_length" in option else pytest.MonkeyPatch.context():
                expected = pocket.encode(["some words of text"], **option)
            np.testing.assert_allclose(encoded.vectors, expected, atol=bound(1e-5))
            assert encoded.truncated == ("max_length" in option)

    def test_tasks_are_kept_apart(self, tiny: Encoder) -> None:
        async def work() -> list[Encoded]:
            queue = make(tiny, [])
            return await asyncio.gather(*(queue.run(["light"], tiny.plan(task=task)) for task in tiny.tasks))

        for task, encoded in zip(tiny.tasks, run(work), strict=True):
            np.testing.assert_allclose(encoded.vectors, tiny.encode(["light"], task=task), atol=bound(1e-5))

    def test_no_texts(self, pocket: Encoder, queue: Scheduler) -> None:
        assert run(lambda: queue.run([], pocket.plan(truncate_dim=64))).vectors.shape == (0, 64)

    def test_mistakes_concern_one_request(self, pocket: Encoder, queue: Scheduler) -> None:
        async def work() -> list[Any]:
            plan = pocket.plan()
            requests = (queue.run([text], plan) for text in ("good", "bad \ud800"))
            return await asyncio.gather(*requests, return_exceptions=True)

        good, bad = run(work)
        np.testing.assert_allclose(good.vectors, pocket.encode(["good"]), atol=bound(1e-6))
        assert isinstance(bad, InputError)


class TestOrder:
    def finished(self, pocket: Encoder, queue: Scheduler, *requests: Sequence[str]) -> list[int]:
        """In which order requests that came in this order end."""
        order: list[int] = []

        async def one(index: int) -> None:
            await queue.run(requests[index], pocket.plan())
            order.append(index)

        async def work() -> None:
            tasks = []
            tokens = 0
            async with busy(pocket, queue, lambda: tokens):
                for index, texts in enumerate(requests):
                    tasks.append(asyncio.create_task(one(index)))
                    tokens += sum(pocket.count_tokens(list(texts)))
                    await until(lambda tokens=tokens: queue.waiting_tokens == tokens)  # type: ignore[misc]
            await asyncio.gather(*tasks)

        run(work)
        return order

    def test_a_query_overtakes_a_bulk(
        self, pocket: Encoder, queue: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pocket.pipeline, "batch_tokens", 64)
        bulk = [f"number {i} of many texts" for i in range(60)]
        assert self.finished(pocket, queue, bulk, ["a query"]) == [1, 0]

    def test_a_query_overtakes_a_long_text(self, pocket: Encoder, queue: Scheduler) -> None:
        assert self.finished(pocket, queue, ["bread " * 1100], ["a query"]) == [1, 0]

    def test_but_nothing_waits_for_ever(
        self, pocket: Encoder, queue: Scheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if the longer text had waited for more than its length asks for."""
        monkeypatch.setattr(scheduler, "SECONDS_PER_TOKEN", 1e-9)
        monkeypatch.setattr(pocket.pipeline, "batch_tokens", 64)
        assert self.finished(pocket, queue, ["bread " * 900], ["a query"]) == [0, 1]


class TestLateChunking:
    TEXTS = ("Berlin is the capital.", "It is populous, and a state of its own. " * 8, "So is Bremen.")

    def test_windows_run_one_by_one(self, pocket: Encoder, queue: Scheduler, batches: Batches) -> None:
        # Too long as a text, and still neither refused nor cut.
        plan = pocket.plan(max_length=40, truncate=False)

        async def work() -> list[Encoded]:
            tokens = pocket.count_tokens("a query")[0]
            async with busy(pocket, queue, lambda: max(tokens + 1, queue.waiting_tokens)):
                late = asyncio.create_task(queue.run(self.TEXTS, plan, late_chunking=True))
                other = asyncio.create_task(queue.run(["a query"], pocket.plan()))
            return [await late, await other]

        late, other = run(work)
        expected = pocket.encode(self.TEXTS, late_chunking=True, max_length=40)
        np.testing.assert_allclose(late.vectors, expected, atol=bound(1e-6))
        assert (sum(late.tokens), late.truncated) == (pocket.count_tokens(" ".join(self.TEXTS))[0], 0)
        np.testing.assert_allclose(other.vectors, pocket.encode(["a query"]), atol=bound(1e-6))
        assert len(batches) > 3
        assert {texts for texts, _ in batches} == {1}

    def test_short_ones_get_in_between(
        self, pocket: Encoder, queue: Scheduler, batches: Batches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        blocks.small(monkeypatch, 1 << 20)
        chunks = ["bread water flour salt " * 70] * 4

        async def work() -> tuple[Encoded, Encoded]:
            first = asyncio.create_task(queue.run(chunks, pocket.plan(), late_chunking=True))
            await until(lambda: queue.running_tokens > 1000)
            second = await queue.run(["a query"], pocket.plan())
            assert not first.done()
            return await first, second

        first, second = run(work)
        np.testing.assert_allclose(first.vectors, pocket.encode(chunks, late_chunking=True), atol=bound(1e-6))
        np.testing.assert_allclose(second.vectors, pocket.encode(["a query"]), atol=bound(1e-6))


class TestLongTexts:
    @pytest.fixture(autouse=True)
    def small_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        blocks.small(monkeypatch, 1 << 20)

    def test_short_ones_get_in_between(self, pocket: Encoder, queue: Scheduler, batches: Batches) -> None:
        long = "bread water flour salt " * 280

        async def work() -> tuple[Encoded, Encoded]:
            first = asyncio.create_task(queue.run([long], pocket.plan()))
            await until(lambda: queue.running_tokens > 1000)
            second = await queue.run(["a query"], pocket.plan())
            assert not first.done()
            return await first, second

        first, second = run(work)
        assert [texts for texts, _ in batches] == [1, 1]
        assert batches[0][1] < batches[1][1]
        np.testing.assert_allclose(second.vectors, pocket.encode(["a query"]), atol=bound(1e-6))
        np.testing.assert_allclose(first.vectors, pocket.encode([long]), atol=bound(1e-6))

    def test_one_that_nobody_waits_for_is_given_up(
        self, pocket: Encoder, queue: Scheduler, batches: Batches
    ) -> None:
        async def work() -> None:
            task = asyncio.create_task(queue.run(["bread water flour salt " * 1000], pocket.plan()))
            await until(lambda: queue.running_tokens > 1000)
            task.cancel()
            await asyncio.wait([task])
            await queue.run(["a query"], pocket.plan())

        run(work)
        assert batches == [(1, pocket.count_tokens("a query")[0])]


def test_who_hangs_up_frees_the_place(pocket: Encoder, queue: Scheduler, batches: Batches) -> None:
    async def work() -> None:
        async with busy(pocket, queue, lambda: pocket.count_tokens("stays")[0]):
            stays = asyncio.create_task(queue.run(["stays"], pocket.plan()))
            goes = asyncio.create_task(queue.run(["goes"] * 100, pocket.plan()))
            await until(lambda: queue.waiting_tokens > 100)
            goes.cancel()
        np.testing.assert_allclose((await stays).vectors, pocket.encode(["stays"]), atol=bound(1e-6))

    run(work)
    assert [texts for texts, _ in batches] == [1]


class _Fails:
    """A model that MLX cannot compute for one token."""

    def __init__(self, model: EncoderModel, token: int) -> None:
        self._model = model
        self._token = token
        self.dimension = model.dimension

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        if (ids == self._token).any().item():
            raise RuntimeError(f"[malloc] Unable to allocate 1 byte for {ids.tolist()}")
        return self._model(ids, batch)


class TestFailures:
    def both(self, encoder: Encoder, queue: Scheduler, plan: Any) -> list[Any]:
        """A request whose text fails and one whose text does not, in one batch."""
        tokens = sum(encoder.count_tokens(["bread", "water", "flour"]))

        async def work() -> list[Any]:
            async with busy(encoder, queue, lambda: tokens):
                tasks = [asyncio.create_task(queue.run(texts, plan)) for texts in (["bread"], ["water", "flour"])]
            return await asyncio.gather(*tasks, return_exceptions=True)

        return run(work)

    def test_a_crash_concerns_one_request(
        self, pocket: Encoder, queue: Scheduler, caplog: pytest.LogCaptureFixture
    ) -> None:
        plan = pocket.plan()
        plan = replace(plan, model=_Fails(plan.model, pocket.tokenize("bread")[0][1]))  # type: ignore[arg-type]
        bad, good = self.both(pocket, queue, plan)
        assert isinstance(bad, BatchError)
        np.testing.assert_allclose(good.vectors, pocket.encode(["water", "flour"]), atol=bound(1e-6))
        assert "RuntimeError" in caplog.text
        assert str([*pocket.tokenize("bread")[0]]) not in caplog.text + str(bad)

    def test_not_a_number_concerns_one_request(self, pocket: Encoder) -> None:
        damaged = mlx_jina.load("pocket")
        model: Any = damaged.plan().model
        weight = model.embeddings.word_embeddings.weight
        token = damaged.tokenize("bread")[0][1]

        def damage() -> None:
            weight[token] = mx.nan
            mx.eval(weight)

        damaged.pipeline.thread.run(damage)
        bad, good = self.both(damaged, make(damaged, []), damaged.plan())
        assert isinstance(bad, NumericalError)
        np.testing.assert_allclose(good.vectors, pocket.encode(["water", "flour"]), atol=bound(1e-6))
