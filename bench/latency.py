"""How long does one query take, and the first one of a process?"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from bench import harness, models, peers, texts
from bench.harness import THEIRS_OVER_OURS, Options, Process, Section
from bench.models import Model

QUERY_TOKENS = 12
CALLS, QUICK_CALLS = 60, 5
# The model of the command that is timed.
COMMAND = "pocket"


def run(options: Options) -> Section:
    """Milliseconds of a loaded model, seconds of a fresh process."""
    section = Section(
        "Latency",
        f"One query of {QUERY_TOKENS} tokens. 'first vector' is from the start of a Python process, weights in "
        "the page cache; of `mlx-jina encode`, that is the whole command.",
    )
    for name in options.models:
        model = models.find(name, quick=options.quick)
        query = texts.of_lengths(model.tokenizer(), [QUERY_TOKENS])
        with harness.started(model, peers.of(model, options.peers), section.skipped) as running:
            kept = harness.give(running, query, QUERY_TOKENS, f"{model.name}, a query", section.skipped)
            times = harness.alternate(kept, QUICK_CALLS if options.quick else CALLS)
        starts: dict[str, list[float]] = {peer: [] for peer in times}
        for _ in range(options.rounds):
            for peer, process in kept.items():
                starts[peer].append(_first_vector(process, model, query))
        for peer, seconds in times.items():
            ms = [1000 * s for s in seconds]
            section.rows.append(
                {
                    "model": model.name,
                    "weights": model.weights,
                    "peer": peer,
                    "one query, ms": [statistics.median(ms), min(ms), max(ms)],
                    "95th percentile, ms": statistics.quantiles(ms, n=20)[-1],
                    THEIRS_OVER_OURS: None if peer == peers.OURS else harness.ratio(seconds, times[peers.OURS]),
                    "first vector, s": harness.spread(starts[peer]),
                }
            )
    if COMMAND in options.models:
        section.rows.append(_command(options.rounds))
    return section


def _command(rounds: int) -> dict[str, Any]:
    """The row of `mlx-jina encode`."""
    command = [sys.executable, "-m", "mlx_jina", "encode", "--model", COMMAND, "what is deep learning?"]
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return {
        "model": COMMAND,
        "weights": "real",
        "peer": "mlx-jina encode",
        "first vector, s": harness.spread(seconds),
    }


def _first_vector(like: Process, model: Model, query: list[str]) -> float:
    start = time.perf_counter()
    process = Process(like.peer, model)
    try:
        process.give(query, QUERY_TOKENS)
        process.seconds()
        return time.perf_counter() - start
    finally:
        process.close()
