"""What do a document's chunks cost, beside embedding it once?

    python -m bench.late_chunking [MODEL]

Prints a Markdown table of ratios: sentences grouped into chunks of 256 tokens and late-chunked, and the same
chunks embedded one by one, each over `encode` of the whole documents. The three run in turn, and the fastest run
of each counts. The time includes finding boundaries and spans.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import mlx_jina
from mlx_jina import device
from mlx_jina.compare import TEXTS

REPEATS = 7
# Documents, and tokens of each.
CASES = ((40, 100), (8, 500), (3, 2000), (1, 8000))


def seconds(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench.late_chunking")
    parser.add_argument("model", nargs="?", default="pocket")
    mlx_jina.limit_cache()
    model = mlx_jina.load(parser.parse_args().model)
    prose = " ".join(TEXTS)
    per_text = model.count_tokens(prose)[0]
    print(f"{model!r}, backend {device.backend()}\n")
    print("| documents | tokens each | encode | late chunks | chunks alone |")
    print("|---|---|---|---|---|")
    for count, length in CASES:
        text = " ".join([prose] * (length // per_text + 1))
        text = text[: len(text) * length // model.count_tokens(text)[0]]
        texts = [f"{i}. {text}" for i in range(count)]
        ways: tuple[Callable[[], object], ...] = (
            partial(model.encode, texts),
            partial(model.encode_chunks, texts),
            partial(model.encode_chunks, texts, late=False),
        )
        times: list[list[float]] = [[], [], []]
        for way in ways:
            way()
        for _ in range(REPEATS):
            for mine, way in zip(times, ways, strict=True):
                mine.append(seconds(way))
        once, late, alone = map(min, times)
        tokens = max(model.count_tokens(texts))
        print(f"| {count} | {tokens:,} | 1 | {late / once:.2f} | {alone / once:.2f} |", flush=True)


if __name__ == "__main__":
    main()
