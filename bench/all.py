"""Measure everything that this machine can run: python -m bench.all [--quick] [--only QUESTION ...]

Writes bench/results/<machine>.json, .md and plots. See bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_jina

INSTALL = "pip install -e . --group bench"
try:
    from bench import machine, models, peers, report
    from bench.harness import Options, Section
    from bench.report import Row
except ModuleNotFoundError as error:
    sys.exit(f"bench.all: {error.name} is not installed; run: {INSTALL}")

RESULTS = Path(__file__).parent / "results"
QUESTIONS = (
    "throughput",
    "latency",
    "memory",
    "roofline",
    "corpus",
    "tokenizing",
    "accuracy",
    "neighbours",
    "conversion",
    "server",
)
# Questions that go through all models, which may take hours.
BY_MODEL = ("throughput", "latency", "memory", "roofline", "tokenizing", "conversion")
SHORTEST, LONGEST = 3, 8192


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="bench.all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="Two layers and few texts: does everything run?")
    parser.add_argument(
        "--only", nargs="+", choices=QUESTIONS, default=QUESTIONS, metavar="QUESTION", help=", ".join(QUESTIONS)
    )
    parser.add_argument("--models", nargs="+", choices=models.names(), default=models.names(), metavar="MODEL")
    parser.add_argument(
        "--peers", nargs="+", default=(), metavar="PART", help="Only peers with PART in their name."
    )
    parser.add_argument(
        "--lengths",
        nargs="+",
        type=int,
        default=(),
        metavar="TOKENS",
        help="Only texts of these lengths in throughput, which also measures mixed ones, and memory.",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="About how long one timed run takes. [4]")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    if wrong := [n for n in given.lengths if not SHORTEST <= n <= LONGEST]:
        parser.error(f"--lengths takes {SHORTEST} to {LONGEST} tokens, not {wrong[0]}")
    options = Options(
        quick=given.quick,
        rounds=min(given.rounds, 2) if given.quick else given.rounds,
        seconds=0.2 if given.quick else given.seconds,
        models=given.models,
        peers=given.peers,
        lengths=sorted(set(given.lengths)),
    )
    here = machine.describe()
    mlx_jina.limit_cache()
    path = given.results / f"{machine.name(here)}{'-quick' if given.quick else ''}.json"
    # The user should hear of missing packages now, not after hours of measuring.
    try:
        questions: dict[str, Any] = {name: importlib.import_module(f"bench.{name}") for name in given.only}
    except ModuleNotFoundError as error:
        sys.exit(f"bench.all: {error.name} is not installed; run: {INSTALL}")
    if not report.can_draw():
        print(
            f"bench.all: matplotlib is not installed, no plots; later: {INSTALL}; python -m bench.report {path}",
            file=sys.stderr,
        )
    for name, question in questions.items():
        start = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        context = {"commit": machine.commit(), "date": machine.today(), "how": how(options)}
        for new, section in answers(name, question, options):
            print("\n".join(report.figures(here, name, new)), flush=True)
            report.save(path, here, name, section, {**context, "peers": peers.settings(section.rows)})
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(path.with_suffix(".md"), file=sys.stderr)


def answers(name: str, question: Any, options: Options) -> Iterator[tuple[Sequence[Row], Section]]:
    """New rows and the section so far, after each model, so that an interrupted run keeps its results."""
    whole: Section | None = None
    for chosen in [[model] for model in options.models] if name in BY_MODEL else [options.models]:
        part: Section = question.run(replace(options, models=chosen))
        if whole is None:
            whole = replace(part, rows=[])
        whole.rows += part.rows
        whole.skipped |= part.skipped
        yield part.rows, whole


def how(options: Options) -> str:
    """The options of this run, in words for the reader of the results."""
    words = [f"{options.rounds} rounds of about {options.seconds:g} s"]
    if options.peers:
        words.append(f"only peers with {' or '.join(options.peers)} in their name")
    if options.lengths:
        words.append(f"only lengths {' '.join(map(str, options.lengths))}")
    if options.quick:
        words.append("--quick: says nothing about speed")
    return ", ".join(words)


if __name__ == "__main__":
    main()
