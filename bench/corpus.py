"""Does the time per text, or the memory, grow with the number of texts?"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time

import mlx_jina
from bench import models, resident, texts
from bench.harness import Options, Section

# A larger model would take hours for the same answer.
MODEL = "pocket"
SIZES = (2_000, 8_000, 32_000)
QUICK_SIZES = (500, 1_000)
# Different passages. A larger corpus repeats them, and the encoder keeps nothing that repetition would speed up.
DIFFERENT = 2_000


def run(options: Options) -> Section:
    """`encode_stream` over more and more texts, each size in its own process."""
    section = Section(
        "Size of the corpus",
        "`encode_stream` over an iterator of passages of mixed lengths, which it never holds as a whole.",
        plot={"panel": "model", "line": "weights", "x": "texts", "y": "ms a text"},
    )
    for size in QUICK_SIZES if options.quick else SIZES:
        command = [sys.executable, "-m", "bench.corpus", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak = json.loads(done.stdout.splitlines()[-1])
        section.rows.append(
            {
                "model": MODEL,
                "weights": "real",
                "texts": size,
                "ms a text": 1e3 * seconds / size,
                "peak of the process, MB": peak / 1e6,
            }
        )
    return section


def _encode(size: int) -> tuple[float, int]:
    """Seconds and peak resident bytes of this process, after a warm-up."""
    model = models.find(MODEL)
    mlx_jina.limit_cache()
    encoder = mlx_jina.load(model.folder)
    passages = texts.of_lengths(model.tokenizer(), texts.mixed_lengths(DIFFERENT))
    encoder.encode(passages[:100])
    resident.reset()
    start = time.perf_counter()
    rows = sum(len(block) for block in encoder.encode_stream(itertools.islice(itertools.cycle(passages), size)))
    assert rows == size
    return time.perf_counter() - start, resident.peak()


if __name__ == "__main__":
    print(json.dumps(_encode(int(sys.argv[1]))))
