"""What does each type cost, and what is lost? One type after the other, as a Markdown table.

    python -m bench.convert [SOURCE] [--task T] [--types Q8_0 ...] [--mlx bfloat16 8 ...] [--texts N] [--sts CSV]

SOURCE is a model's name, a folder or a .gguf; without it, random bfloat16 weights of the shape of
jina-embeddings-v5-text-small (bench/models.py). Every conversion and every
measurement runs in a process of its own. Tokens per second are those of the fastest of three runs over N texts
of mixed lengths; peak memory is the process's on a CPU, and what MLX held on a GPU. Cosines are the lowest and
the mean over the texts of `mlx-jina convert compare`, against SOURCE in float32. With a csv of sentence, sentence,
score a last column has Spearman's correlation of the cosines with the scores.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlx_jina import device, process
from mlx_jina.choices import Dtype
from mlx_jina.cpu import blas

blas.open_fast()
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

import mlx_jina  # noqa: E402
from bench import models, resident  # noqa: E402
from convert.pocket import evaluate  # noqa: E402
from mlx_jina import compare  # noqa: E402
from mlx_jina.choices import MODES, RECIPES  # noqa: E402
from mlx_jina.weights import convert  # noqa: E402
from mlx_jina.weights.gguf import types as gguf_types  # noqa: E402

MLX = ("bfloat16", "8", "6", "4", "mxfp8", "mxfp4", "nvfp4")
ROUNDS = 3


def _in_process(**job: Any) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.convert", "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{job} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def converted(source: str, target: Path, kind: str, task: str | None = None) -> tuple[float, float]:
    """Convert in a fresh process: seconds, and its peak resident memory in bytes."""
    result = _in_process(source=source, target=str(target), kind=kind, task=task)
    return result["seconds"], result["memory"]


def _convert(source: str, target: str, kind: str, task: str | None) -> dict[str, float]:
    start = time.perf_counter()
    name, _, how = kind.partition(" ")
    if name == "MLX":
        convert.to_mlx(source, Path(target), task=task, show_progress=False, **_options(how))
    else:
        convert.to_gguf(source, Path(target), task=task, kind=gguf_types.check(kind), show_progress=False)
    return {"seconds": time.perf_counter() - start, "memory": resident.peak()}


def _options(how: str) -> dict[str, Any]:
    """What `to_mlx` is told: bits and perhaps "g" and a group size, a mode, a recipe or a dtype."""
    if how in MODES:
        return {"mode": how}
    if how in RECIPES:
        return {"recipe": how}
    bits, _, group_size = how.partition("g")
    if not bits.isdigit():
        return {"dtype": how}
    return {"bits": int(bits), "group_size": int(group_size) if group_size else None}


def texts(count: int) -> list[str]:
    """English, of one to ten sentences."""
    rng = random.Random(0)
    return [" ".join(rng.choices(compare.TEXTS[:6], k=rng.randrange(1, 11))) for _ in range(count)]


def _measure(
    model: str, vectors: str, count: int, sts: str | None, dtype: Dtype | None, task: str | None
) -> dict[str, float]:
    """Load and encode; the vectors of the texts to compare by go to a file."""
    process.limit_cache()
    encoder = mlx_jina.load(model, dtype=dtype, task=task)
    np.save(vectors, encoder.encode(list(compare.TEXTS)))
    timed = texts(count)
    tokens = sum(encoder.count_tokens(timed))
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        encoder.encode(timed)
        seconds.append(time.perf_counter() - start)
    result = {
        "speed": tokens / min(seconds),
        "memory": float(mx.get_peak_memory() if device.on_gpu() else resident.peak()),
    }
    if sts is not None:
        width = encoder.dimension
        result["sts"] = evaluate.sts(Path(sts), lambda rows: np.asarray(encoder.encode(rows)), [width])[width]
    return result


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


COLUMNS = (
    "type",
    "MB",
    "made in, s",
    "peak making, MB",
    "tokens/s",
    "peak memory, MB",
    "cosine min",
    "mean",
    "STS",
)


def _measured(model: str, dtype: str | None, options: argparse.Namespace) -> tuple[dict[str, float], Any]:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        job = {"vectors": file.name, "count": options.texts, "sts": options.sts, "task": options.task}
        return _in_process(model=model, dtype=dtype, **job), np.load(file.name)


def _print(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _cells(found: dict[str, float], cosines: Any) -> list[str]:
    """The last columns of a row."""
    numbers = [f"{found['speed']:.0f}", f"{found['memory'] / 1e6:.0f}"]
    numbers += [f"{cosines.min():.5f}", f"{cosines.mean():.5f}"]
    return numbers + ([f"{found['sts']:.4f}"] if "sts" in found else [])


def _table(source: str, kinds: list[str], options: argparse.Namespace) -> None:
    columns = COLUMNS if options.sts else COLUMNS[:-1]
    print(f"Backend {device.backend()}, {blas.name()}\n")
    _print(*columns)
    print("|---" * len(columns) + "|")
    found, wanted = _measured(source, "float32", options)
    _print("source in float32", "", "", "", *_cells(found, (wanted * wanted).sum(axis=1)))
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / ("mlx" if kind.startswith("MLX") else "m.gguf")
            seconds, peak = converted(source, target, kind, options.task)
            found, vectors = _measured(str(target), None, options)
            cells = _cells(found, (wanted * vectors).sum(axis=1))
            _print(kind, f"{_size(target) / 1e6:.1f}", f"{seconds:.1f}", f"{peak / 1e6:.0f}", *cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench.convert")
    parser.add_argument("source", nargs="?")
    parser.add_argument("--task")
    parser.add_argument("--types", nargs="*", default=list(gguf_types.FILE_TYPES))
    parser.add_argument("--mlx", nargs="*", default=list(MLX))
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--sts")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps((_convert if "kind" in options.job else _measure)(**options.job)))
        return
    source = options.source or str(models.find("v5-small").folder)
    _table(source, [*(f"MLX {how}" for how in options.mlx), *options.types], options)


if __name__ == "__main__":
    main()
