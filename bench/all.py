"""Measure everything that this machine can run: python -m bench.all [--quick] [--only QUESTION ...]

Writes bench/results/<machine>.json, .md and plots. See bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from bench import machine, models, report
from bench.harness import Options, Section

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
)


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="About how long one timed run takes. [4]")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    options = Options(
        quick=given.quick,
        rounds=min(given.rounds, 2) if given.quick else given.rounds,
        seconds=0.2 if given.quick else given.seconds,
        models=given.models,
        peers=given.peers,
    )
    here = machine.describe()
    path = given.results / f"{machine.name(here)}{'-quick' if given.quick else ''}.json"
    for question in given.only:
        start = time.perf_counter()
        print(f"{question} ...", file=sys.stderr, flush=True)
        section: Section = importlib.import_module(f"bench.{question}").run(options)
        print("\n".join(report.table(section.rows)), flush=True)
        context = {
            "commit": machine.commit(),
            "date": machine.today(),
            "how": f"{options.rounds} rounds" + (", --quick: says nothing about speed" if options.quick else ""),
        }
        report.save(path, here, question, section, context)
        print(f"{question}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(path.with_suffix(".md"), file=sys.stderr)


if __name__ == "__main__":
    main()
