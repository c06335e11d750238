"""What does each type cost to make, and what is lost? The table of `python -m bench.convert`, for every model."""

from __future__ import annotations

import subprocess
import sys

from bench import models
from bench.harness import Options, Section

TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
QUICK_TYPES = ("Q8_0",)
# Texts to encode: the larger models take seconds for each.
TEXTS = {"jina_bert": 64}
FEW_TEXTS = 8


def run(options: Options) -> Section:
    """Every conversion in a process of its own."""
    section = Section("Conversion", "Cosines and peaks as `python -m bench.convert --help` explains them.")
    for name in options.models:
        model = models.find(name, quick=options.quick)
        kinds = QUICK_TYPES if options.quick else TYPES
        count = str(TEXTS.get(model.family, FEW_TEXTS))
        command = [sys.executable, "-m", "bench.convert", str(model.folder), "--texts", count, "--types", *kinds]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        header, _, *rows = (_cells(line) for line in done.stdout.splitlines() if line.startswith("|"))
        for row in rows:
            own = dict(zip(header, row, strict=True))
            section.rows.append({"model": model.name, "weights": model.weights, **own})
    return section


def _cells(line: str) -> list[str]:
    return [part.strip() for part in line.strip("|").split("|")]
