"""How much memory does a text take, by length?"""

from __future__ import annotations

from collections.abc import Sequence

from bench import models, peers, texts
from bench.harness import Options, PeerError, Process, Section
from bench.models import Model

LENGTHS = (512, 2048, 8192)
QUICK_LENGTHS = (512, 1024)
SHORT = 16


def run(options: Options) -> Section:
    """Each peer alone, in a fresh process, the short texts first."""
    section = Section(
        "Memory",
        "One text of each length. 'loaded' is what the process holds after one short text, 'above' what the long "
        "one adds to it at most. 'framework, above the weights' is by MLX's own count, which on a Mac includes "
        "what Metal holds, or by torch's of what CUDA holds. The ALiBi bias alone would take the last column if "
        "it were written out in float32.",
        # Zero is possible, because a short text may fit into memory that the process holds already.
        plot={"panel": "model", "line": "peer", "x": "tokens", "y": "above, MB", "scale": "symlog"},
    )
    lengths = options.lengths or (QUICK_LENGTHS if options.quick else LENGTHS)
    for name in options.models:
        model = models.find(name, quick=options.quick)
        for peer in peers.of(model, options.peers):
            if (reason := peer.missing()) is not None:
                section.skipped[f"{peer.name} ({model.name})"] = reason
                continue
            try:
                process = Process(peer, model)
            except PeerError as error:
                section.skipped[f"{peer.name} ({model.name})"] = str(error)
                continue
            try:
                _measure(section, process, model, lengths)
            except PeerError as error:
                section.skipped[f"{peer.name} ({model.name}), longer texts"] = str(error)
            finally:
                process.close()
    return section


def _measure(section: Section, process: Process, model: Model, lengths: Sequence[int]) -> None:
    process.give(texts.of_lengths(model.tokenizer(), [SHORT]), SHORT)
    loaded = process.ask(do="memory")["peak"]
    heads = model.config()["num_attention_heads"]
    for length in lengths:
        process.give(texts.of_lengths(model.tokenizer(), [length]), length)
        found = process.ask(do="memory")
        framework = found["framework_above"]
        section.rows.append(
            {
                "model": model.name,
                "weights": model.weights,
                "peer": process.peer.name,
                "tokens": length,
                "loaded, MB": loaded / 1e6,
                "above, MB": max(0.0, found["peak"] - loaded) / 1e6,
                "framework, above the weights, MB": None if framework is None else framework / 1e6,
                "dense bias, MB": heads * length**2 * 4 / 1e6 if model.family == "jina_bert" else None,
            }
        )
