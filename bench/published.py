"""Published figures of another program on another machine, to compare a Mac with. Nothing here is measured.

jina-grep's README (github.com/jina-ai/jina-grep-cli, 2026-05-12): Jina's own MLX code on an M3 Ultra with 512 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.peers import OURS

NOTE = (
    "Beside it, **another machine and another program**: what Jina publishes for its own MLX code on an M3 Ultra "
    "(jina-grep's README; at best: 32 texts of about 160 tokens; one query: 5 or 6 tokens). Not measured here."
)
# By question: our column, the row of ours to compare, the name of the figure, and each model's published figure.
FIGURES: dict[str, tuple[str, Callable[[list[Any]], Any], str, dict[str, float]]] = {
    "throughput": ("tokens/s", max, "tokens/s at best", {"v5-small": 21_600, "v5-nano": 77_000}),
    "latency": ("one query, ms", min, "one short query, ms", {"v5-small": 7.5, "v5-nano": 3}),
}


def beside(machine: Mapping[str, Any], question: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table: our figure and the published one, for each model that was measured whole on a Mac.

    `machine` is `machine.describe()`. Empty where there is nothing to compare.
    """
    if machine["MLX backend"] != "metal" or question not in FIGURES:
        return []
    column, best, words, published = FIGURES[question]
    found = []
    for model, figure in published.items():
        ours = [row[column] for row in rows if (row["model"], row["peer"]) == (model, OURS)]
        if ours:
            found.append(
                {
                    "model": model,
                    "figure": words,
                    f"{OURS}, {machine['accelerator']}": best(ours),
                    "Jina's MLX code, M3 Ultra (published)": figure,
                }
            )
    return found
