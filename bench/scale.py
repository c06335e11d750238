"""What would a large corpus need? Machines, hours and disk at each precision, from a machine's results:

python -m bench.scale bench/results/MACHINE.json [--tokens 120]

Prints a Markdown table, ready to be pasted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import report
from bench.neighbours import PRECISIONS, bytes_per_vector
from bench.peers import OURS

PASSAGES = (1_000_000_000, 10_000_000_000)
MACHINES = (1, 10, 100)
# Widths of the vectors: whole, and cut to a size that the model was trained for.
DIMENSIONS = {"pocket": (256,), "v2-small": (512,), "v5-nano": (768, 256), "v5-small": (1024, 256)}


def hours(passages: int, tokens: float, rate: float, machines: int) -> float:
    """Hours to encode passages of so many tokens each, at `rate` tokens a second on each machine."""
    return passages * tokens / (rate * machines) / 3600


def terabytes(passages: int, dimension: int, precision: str) -> float:
    """Disk for the vectors alone, in 10^12 bytes."""
    return passages * bytes_per_vector(dimension, precision) / 1e12


def plan(throughput: Mapping[str, Any], tokens: float) -> Iterator[dict[str, Any]]:
    """Rows for each model that was measured on mixed lengths; `tokens` is a passage's mean length."""
    for row in throughput["rows"]:
        if row["peer"] != OURS or row["tokens a text"] != "mixed" or row["model"] not in DIMENSIONS:
            continue
        rate = row["tokens/s"][0]
        for passages in PASSAGES:
            time = {f"hours on {n}": hours(passages, tokens, rate, n) for n in MACHINES}
            for dimension in DIMENSIONS[row["model"]]:
                disk = {f"{p}, TB": terabytes(passages, dimension, p) for p in PRECISIONS}
                yield {
                    "model": row["model"],
                    "tokens/s": rate,
                    "passages": passages,
                    **time,
                    "dimensions": dimension,
                    **disk,
                }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench.scale")
    parser.add_argument("results", type=Path)
    parser.add_argument("--tokens", type=float, default=120, help="Mean length of a passage. [120]")
    given = parser.parse_args()
    results = json.loads(given.results.read_text(encoding="utf-8"))
    throughput = results["sections"].get("throughput", {"rows": []})
    rows = list(plan(throughput, given.tokens))
    if not rows:
        parser.error(
            f"{given.results} has no throughput of a whole model on mixed lengths; "
            "run: python -m bench.all --only throughput"
        )
    machine, context = results["machine"], throughput["context"]
    print(
        f"Passages of {given.tokens:.0f} tokens on machines such as "
        f"{machine['accelerator'] or machine['processor']} ({machine['cores']} cores), tokens/s measured on mixed "
        f"lengths (commit {context['commit']}, {context['date']}), hours as if N machines were N times as fast, "
        "TB of vectors alone:\n"
    )
    print("\n".join(report.table(rows)))


if __name__ == "__main__":
    main()
