"""What does tokenising cost?"""

from __future__ import annotations

import time

import mlx_jina
from bench import harness, models, texts
from bench.harness import Options, Section

TEXTS, QUICK_TEXTS = 512, 32


def run(options: Options) -> Section:
    """Tokenising alone beside encoding, which tokenises ahead while it computes."""
    section = Section(
        "Tokenising",
        "Passages of mixed lengths. 'share' is tokenising alone over the whole encoding: what would be added to "
        "the time if the next window were not tokenised while one computes.",
    )
    for name in options.models:
        model = models.find(name, quick=options.quick)
        encoder = mlx_jina.load(model.folder, dtype=model.precision())
        lengths = texts.mixed_lengths(QUICK_TEXTS if options.quick or model.name == "v5-small" else TEXTS)
        passages = texts.of_lengths(model.tokenizer(), lengths)
        encoder.encode(passages[:8], prompt="")
        alone, whole = [], []
        for _ in range(options.rounds):
            start = time.perf_counter()
            encoder.tokenize(passages)
            alone.append(time.perf_counter() - start)
            start = time.perf_counter()
            encoder.encode(passages, prompt="")
            whole.append(time.perf_counter() - start)
        section.rows.append(
            {
                "model": model.name,
                "weights": model.weights,
                "texts": len(lengths),
                "tokenising, tokens/s": harness.spread([sum(lengths) / s for s in alone]),
                "encoding, tokens/s": harness.spread([sum(lengths) / s for s in whole]),
                "share, %": harness.spread([100 * a / w for a, w in zip(alone, whole, strict=True)]),
            }
        )
    return section
