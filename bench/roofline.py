"""How much of the time goes into matrix products, which no encoder can avoid?

The products of a forward pass's linear layers alone, at the same shapes, by MLX: once with all cores on each, once
with one core on each (as many at a time as there are cores). The faster of the two is what the machine can do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

from bench import harness, models, peers, texts
from bench.harness import Options, Section
from bench.machine import threads
from bench.models import Model
from mlx_jina import device
from mlx_jina.cpu import blas

TEXTS, QUICK_TEXTS, LENGTH = 32, 4, 128
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Product = tuple[int, int, int, int]
"""Rows, columns, inner size, and the number of such products."""


def run(options: Options) -> Section:
    """Equal lengths of 128, one batch."""
    section = Section(
        "Roofline",
        f"Texts of {LENGTH} tokens each. 'reached' is the time of the linear layers' matrix products alone, at "
        "their best on this machine, over the time of the encoder. Attention, norms, activations and tokenising "
        "are the rest.",
    )
    count = QUICK_TEXTS if options.quick else TEXTS
    for name in options.models:
        model = models.find(name, quick=options.quick)
        work = products(model, count, LENGTH)
        parts = {"all cores on each": [_Products(work, {})]}
        if not device.on_gpu():
            share = [(max(1, m // threads()), n, k, many) for m, n, k, many in work]
            parts["one core on each"] = [_Products(share, ONE_THREAD) for _ in range(threads())]
        batch = texts.of_lengths(model.tokenizer(), [LENGTH] * count)
        times: dict[str, list[float]] = {part: [] for part in parts}
        encoder: list[float] = []
        ours = peers.of(model, ["nothing else"])
        with harness.started(model, ours, section.skipped) as running:
            process = harness.give(running, batch, LENGTH, model.name, section.skipped)[peers.OURS]
            for _ in range(options.rounds):
                encoder.append(process.seconds())
                for part, children in parts.items():
                    times[part].append(_together(children))
        for children in parts.values():
            for child in children:
                child.close()
        flops = sum(2 * m * n * k * many for m, n, k, many in work)
        best = min(times.values(), key=lambda seconds: harness.spread(seconds)[0])
        row = {"model": model.name, "weights": model.weights, "tokens": count * LENGTH, "GFLOP": flops / 1e9}
        row |= {f"{part}, GFLOP/s": harness.spread([flops / s / 1e9 for s in times[part]]) for part in parts}
        row |= {"encoder, GFLOP/s": harness.spread([flops / s / 1e9 for s in encoder])}
        row |= {"reached, %": harness.spread([100 * b / e for b, e in zip(best, encoder, strict=True)])}
        section.rows.append(row)
    return section


def products(model: Model, texts: int, length: int) -> list[Product]:
    """The linear layers' products. A last-token model's last layer runs most of them for one token a text."""
    shapes: Counter[tuple[int, int, int]] = Counter()
    for name, tensor in models.tensors(model.folder).items():
        if tensor.ndim != 2 or re.search("embed|pooler", name):
            continue
        last = model.family != "jina_bert" and f"layers.{model.layers - 1}." in name
        whole = not last or re.search(r"[kv]_proj", name)
        shapes[texts * length if whole else texts, tensor.shape[0], tensor.shape[1]] += 1
    return [(*shape, many) for shape, many in shapes.items()]


class _Products:
    """A process that runs a list of products each time it is told to."""

    def __init__(self, work: list[Product], environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "bench.roofline", json.dumps(work)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **environment}
        )
        self.result()

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> float:
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _together(children: list[_Products]) -> float:
    for child in children:
        child.start()
    return max(child.result() for child in children)


def _main(work: list[Product]) -> None:
    blas.open_fast()
    import mlx.core as mx

    dtype = mx.bfloat16 if device.on_gpu() else mx.float32
    pairs = []
    for m, n, k, many in work:
        pair = mx.random.normal((m, k), dtype), mx.random.normal((n, k), dtype)
        mx.eval(pair)
        pairs.append((*pair, many))

    def once() -> float:
        start = time.perf_counter()
        for x, weight, many in pairs:
            # The graph is one product deep: a list of them is evaluated side by side, as in a layer.
            for _ in range(many):
                mx.async_eval(x @ weight.T)
        mx.synchronize()
        return time.perf_counter() - start

    print(once(), flush=True)
    for _ in sys.stdin:
        print(once(), flush=True)


if __name__ == "__main__":
    _main([(m, n, k, many) for m, n, k, many in json.loads(sys.argv[1])])
