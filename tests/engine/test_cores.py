"""A batch dealt to several threads gives the same vectors, and no thread outlives an error."""

from __future__ import annotations

import threading
import time

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_jina
from mlx_jina.cpu import blas
from mlx_jina.engine import cores
from mlx_jina.engine.pipeline import evaluated
from mlx_jina.nn import ragged
from mlx_jina.nn.ragged import Batch
from tests.support.tolerance import bound

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60)


def batch_of(lengths: list[int]) -> Batch:
    texts = [np.full(length, i, dtype=np.int32) for i, length in enumerate(lengths)]
    return next(ragged.batches(texts, 1 << 20))


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_shares_partition_the_batch(lengths: list[int], count: int) -> None:
    batch = batch_of(lengths)
    shares = cores.split(batch, count)
    assert 1 <= len(shares) <= count
    assert sorted(i for share in shares for i in share.order) == list(range(len(lengths)))
    for share in shares:
        np.testing.assert_array_equal(share.ids, np.repeat(share.order, [lengths[i] for i in share.order]))
        assert [lengths[i] for i in share.order] == sorted((lengths[i] for i in share.order), reverse=True)
    if len(shares) > 1:
        assert max(len(share.ids) for share in shares) * len(shares) <= cores.UNEVEN * len(batch.ids)


def test_what_is_too_small_or_uneven_stays_whole() -> None:
    assert len(cores.split(batch_of([100, 100]), 2)) == 2
    assert len(cores.split(batch_of([5, 5]), 2)) == 1
    assert len(cores.split(batch_of([1000, 300]), 2)) == 1
    assert len(cores.split(batch_of([1000]), 2)) == 1


def test_one_text_takes_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_jina.load("pocket")
    text = "many words in one long text " * 130
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(blas, "cores", lambda count=count: count)
        found.append(model.encode(text))
    np.testing.assert_allclose(found[1], found[0], atol=bound(2e-6))
    np.testing.assert_allclose(found[2], found[0], atol=bound(2e-6))


def test_blas_has_its_threads_back_when_nobody_wants_one_any_more() -> None:
    if (threads := blas._threads()) is None:
        pytest.skip("this BLAS cannot be told")
    before = threads[0]()
    first, second = blas.single_threaded(), blas.single_threaded()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads[0]() == 1
    second.__exit__(None, None, None)
    assert threads[0]() == before


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "cores", lambda: 3)


def test_vectors_do_not_depend_on_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_jina.load("pocket")
    rng = np.random.default_rng(0)
    texts = [" ".join(["word", "tree", "42"] * int(n)) for n in rng.integers(1, 60, 40)]
    found = []
    for count in (1, 2, 7):
        monkeypatch.setattr(blas, "cores", lambda count=count: count)
        found.append(model.encode(texts, batch_tokens=1000))
    # OpenBLAS adds up otherwise where batches have other sizes.
    np.testing.assert_allclose(found[1], found[0], atol=bound(5e-6))
    np.testing.assert_allclose(found[2], found[0], atol=bound(5e-6))


def test_shares_run_side_by_side(three: None) -> None:
    meeting = threading.Barrier(3)

    def meet(share: Batch) -> int:
        meeting.wait(timeout=30)
        return len(share.ids)

    assert sorted(tokens for _, tokens in cores.run(meet, batch_of([100] * 6))) == [200, 200, 200]


def test_evaluation_lets_the_other_lanes_run() -> None:
    ticks = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    thread = threading.Thread(target=tick)
    thread.start()
    a = mx.random.normal((1500, 1500))
    for _ in range(3):
        a = a @ a / 1500
    started = time.perf_counter()
    evaluated(a)
    ended = time.perf_counter()
    stop.set()
    thread.join()
    assert any(started < moment < ended for moment in ticks)


def test_an_error_in_any_share_comes_after_all_have_ended(three: None) -> None:
    running: list[int] = []
    threads = blas.cores() and blas._threads()
    before = threads[0]() if threads else 0
    for bad in range(3):

        def fail(share: Batch, bad: int = bad) -> int:
            running.append(1)
            try:
                if bad in share.order:
                    raise ValueError(f"share with text {bad}")
                time.sleep(0.05)
                return 0
            finally:
                running.pop()

        with pytest.raises(ValueError, match=f"text {bad}"):
            cores.run(fail, batch_of([100] * 3))
        assert not running
    assert (threads[0]() if threads else 0) == before
