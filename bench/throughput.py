"""How many tokens a second, by length and on mixed lengths?"""

from __future__ import annotations

from bench import harness, models, peers, texts
from bench.harness import THEIRS_OVER_OURS, Options, Process, Section
from bench.models import Model

LENGTHS = (16, 64, 128, 512, 2048, 8192)
QUICK_LENGTHS = (16, 128)
# Mean of `texts.mixed_lengths`, in tokens.
MEAN_OF_MIXED = 120
# Batches of mixed lengths, at least.
MIXED_BATCHES, QUICK_MIXED_BATCHES = 4, 1
MOST_TEXTS = 2048
# Seconds; a length is left out if one text would take mlx-jina longer.
PATIENCE_SECONDS = 60


def run(options: Options) -> Section:
    """Every peer on every kind of text."""
    section = Section(
        "Throughput",
        "Texts to unit vectors, tokenising included. Each row is texts of one length, or of log-normal lengths "
        f"around 80 (5 to 1,024), all prose. Mixed ones are {texts.CORPUS:,} sorted by length, or every so many "
        f"batches of {texts.BATCH} of these, which leave whoever pads as little to pad as all would. "
        f"'{THEIRS_OVER_OURS}' is taken round by round: at 2 the peer takes twice as long, below 1 it is faster.",
        plot={"panel": "model", "line": "peer", "x": "tokens a text", "y": "tokens/s", "scale": "log"},
    )
    lengths = options.lengths or (QUICK_LENGTHS if options.quick else LENGTHS)
    for name in options.models:
        model = models.find(name, quick=options.quick)
        with harness.started(model, peers.of(model, options.peers), section.skipped) as running:
            ours = running[peers.OURS]
            per_token = 0.0
            for length in lengths:
                if per_token * length > PATIENCE_SECONDS:
                    words = f"a text would take mlx-jina more than {PATIENCE_SECONDS} s"
                    section.skipped[f"{model.name}, {length} tokens"] = words
                    continue
                each = _seconds_each(ours, model, length)
                per_token = each / length
                _measure(section, options, model, running, length, [length] * _count(options, each))
            count = _count(options, _seconds_each(ours, model, MEAN_OF_MIXED))
            mixed = texts.sample_of_mixed(count, QUICK_MIXED_BATCHES if options.quick else MIXED_BATCHES)
            _measure(section, options, model, running, "mixed", mixed)
    return section


def _seconds_each(ours: Process, model: Model, length: int) -> float:
    """Seconds of mlx-jina for a text of a length, within a batch."""
    probe = texts.of_lengths(model.tokenizer(), [length] * max(1, 1024 // length))
    ours.give(probe, length)
    return min(ours.seconds(), ours.seconds()) / len(probe)


def _count(options: Options, each: float) -> int:
    return max(1, min(MOST_TEXTS, round(options.seconds / each)))


def _measure(
    section: Section,
    options: Options,
    model: Model,
    running: dict[str, Process],
    name: int | str,
    lengths: list[int],
) -> None:
    batch = texts.of_lengths(model.tokenizer(), lengths, seed=1)
    kept = harness.give(running, batch, max(lengths), f"{model.name}, {name} tokens", section.skipped)
    times = harness.alternate(kept, options.rounds)
    for peer, seconds in times.items():
        section.rows.append(
            {
                "model": model.name,
                "weights": model.weights,
                "tokens a text": name,
                "texts": len(lengths),
                "peer": peer,
                "tokens/s": harness.spread([sum(lengths) / s for s in seconds]),
                THEIRS_OVER_OURS: None if peer == peers.OURS else harness.ratio(seconds, times[peers.OURS]),
            }
        )
