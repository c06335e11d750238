"""Compiled graphs of short texts: the same vectors, for few lengths, from any thread and for any task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import device
from mlx_jina.engine import pipeline
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import ragged
from mlx_jina.nn.compiled import CompiledByShape
from tests.nn.test_pieces import MODELS, SHAPE
from tests.support import bare, checkpoints
from tests.support.tolerance import bound

# On a CPU MLX compiles by the system's C++ compiler: ten seconds for each architecture, once.
slow_on_cpu = [] if device.on_gpu() else [pytest.mark.slow]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: True)


class TestShapes:
    @pytest.fixture
    def calls(self) -> list[int]:
        return []

    @pytest.fixture
    def doubled(self, calls: list[int]) -> CompiledByShape[int]:
        def function(x: mx.array, shape: int) -> mx.array:
            calls.append(shape)
            return x + x

        return CompiledByShape(function, most=2)

    def called(self, doubled: CompiledByShape[int], *shapes: int) -> None:
        for shape in shapes:
            assert doubled(mx.ones(shape), shape).tolist() == [2] * shape

    def test_the_second_call_is_traced_and_later_ones_are_not_run(
        self, doubled: CompiledByShape[int], calls: list[int]
    ) -> None:
        self.called(doubled, 3, 3, 3, 3)
        assert calls == [3, 3]

    def test_the_least_recently_used_is_forgotten(self, doubled: CompiledByShape[int], calls: list[int]) -> None:
        self.called(doubled, 3, 3, 4, 4, 3, 5, 5)
        calls.clear()
        self.called(doubled, 3, 5)
        assert calls == []
        # 4 was forgotten, and is met for the first time again.
        self.called(doubled, 4, 4, 4)
        assert calls == [4, 4]

    def test_a_shape_that_comes_once_costs_nothing_more(
        self, doubled: CompiledByShape[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mx, "compile", None)
        self.called(doubled, 1, 2, 3, 4, 5, 1, 2)


@pytest.mark.parametrize("make", [pytest.param(make, id=name, marks=slow_on_cpu) for name, make in MODELS.items()])
def test_models_give_the_same_vectors(make: Callable[[], EncoderModel], gpu: None) -> None:
    model = make()
    compiled = CompiledByShape(model, most=4)
    for length in (1, 7, 40):
        for seed in range(3):
            (ids,) = bare.random_ids([length], SHAPE["vocab"], seed)
            batch = ragged.flatten([ids], np.zeros(1, dtype=np.intp))
            wanted = np.array(model(mx.array(batch.ids), batch.ragged))
            got = np.array(compiled(mx.array(batch.ids), batch.ragged))
            np.testing.assert_allclose(got, wanted, rtol=0, atol=bound(2e-6) * np.abs(wanted).max())


@pytest.mark.skipif(device.on_gpu(), reason="counts the files that MLX compiles on a CPU")
@pytest.mark.parametrize(
    "name", ["original", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "original")]
)
def test_a_length_needs_no_kernel_of_its_own(
    name: str, gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX writes numbers into the kernels that it fuses, and keeps every kernel for ever."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    model = MODELS[name]()
    compiled = CompiledByShape(model, most=8)

    def kernels(lengths: Iterable[int]) -> int:
        for length in lengths:
            batch = ragged.flatten(bare.random_ids([length], SHAPE["vocab"]), np.zeros(1, dtype=np.intp))
            for _ in range(2):
                mx.eval(compiled(mx.array(batch.ids), batch.ragged))
        return len(list(tmp_path.rglob("*.so")))

    # None are left to compile if another test of this process had them.
    assert kernels([5, 9]) == kernels([14, 23, 40])


@pytest.mark.slow
class TestEncoder:
    QUERIES = ("how fast is light?", "light", "how do I bake bread", "light travels fast in vacuum")

    def test_threads_and_tasks(self, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = mlx_jina.load(checkpoints.v5_small(tmp_path))
        tasks = encoder.tasks
        wanted = {
            (text, task): encoder.encode([text, text], task=task)[0] for text in self.QUERIES for task in tasks
        }

        def differs(text: str, task: str) -> float:
            return float(abs(encoder.encode(text, task=task) - wanted[text, task]).max())

        jobs = [(text, task) for _ in range(4) for text in self.QUERIES for task in tasks]
        with ThreadPoolExecutor(4) as executor:
            assert max(executor.map(lambda job: differs(*job), jobs)) <= bound(2e-6)

    def test_memory_stays_flat(self, tmp_path: Path, gpu: None) -> None:
        encoder = mlx_jina.load(checkpoints.tiny_jina_bert(tmp_path))
        words = "the quick brown fox jumps over the lazy dog while rain falls on old town roofs".split()
        rng = np.random.default_rng(0)
        held = []
        for number in range(10_000):
            encoder.encode(" ".join(rng.choice(words, rng.integers(1, 90))))
            if number % 500 == 499:
                mx.clear_cache()
                held.append(mx.get_active_memory())
        compiled = encoder.pipeline._compiled
        assert [len(graphs._compiled) for graphs in compiled.values()] == [pipeline.SHORT_LENGTHS]
        assert max(held[2:]) <= 1.02 * held[1]
