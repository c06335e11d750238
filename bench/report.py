"""Results as JSON, and Markdown and plots from the JSON. A question that is measured again replaces its section.

python -m bench.report bench/results/MACHINE.json writes a machine's page and plots anew, without measuring.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import util
from pathlib import Path
from typing import Any

from bench import published
from bench.harness import THEIRS_OVER_OURS, Section
from bench.peers import OURS

Row = Mapping[str, Any]

HEAD = (
    "Ranges in brackets are the lowest and the highest of the rounds; the number before them is the median. "
    "A peer's figure that beats mlx-jina's is **bold**. Random weights have the published shapes; values "
    "matter to speed only where mlx-jina skips keys out of a head's sight, in v2-small's texts from 2,048 tokens "
    "on: its queries and keys are scaled so that scores spread about as far as pocket's, which is trained. "
    "Before a peer is timed, its vectors are compared with mlx-jina's; one that differs by more than its "
    "precision explains is listed as skipped."
)
# Columns in which less is better. In a row with a ratio, which is taken round by round, the ratio alone decides.
LESS = ("95th percentile, ms", "first vector, s", "loaded, MB", "above, MB", "framework, above the weights, MB")


def save(path: Path, machine: Mapping[str, Any], name: str, section: Section, context: Mapping[str, Any]) -> None:
    """Add a section to a machine's results, and write the page and the plots anew."""
    results: dict[str, Any] = {"sections": {}}
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
    results["machine"] = machine
    results["sections"][name] = {**asdict(section), "context": context}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(results, indent=1) + "\n")
    render(path, results)


def render(path: Path, results: Mapping[str, Any]) -> None:
    """Write the page beside the JSON at `path`, with plots if matplotlib is installed."""
    sections = results["sections"].items() if can_draw() else ()
    plots = {name: _draw(path, name, section) for name, section in sections if section["plot"] and section["rows"]}
    _write(path.with_suffix(".md"), "\n".join(markdown(results, plots)) + "\n")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return util.find_spec("matplotlib") is not None


def _write(path: Path, content: str) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(content, encoding="utf-8")
    os.replace(unfinished, path)


def markdown(results: Mapping[str, Any], plots: Mapping[str, str]) -> Iterator[str]:
    """The lines of a machine's page."""
    machine = results["machine"]
    yield f"# {machine['accelerator'] or machine['processor']}"
    yield ""
    for key, value in machine.items():
        words = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        if words != "":
            yield f"- {key}: {words}"
    yield from ("", HEAD)
    for name, section in results["sections"].items():
        context = section["context"]
        yield from ("", f"## {section['title']}", "", section["note"], "")
        yield from figures(machine, name, section["rows"])
        if name in plots:
            yield from ("", f"![{section['title']}]({plots[name]})")
        if context["peers"]:
            yield from ("", "Each was set up as its own documentation, where it has one, advises:", "")
            yield from (f"- {who}: {how}" for who, how in context["peers"].items())
        if section["skipped"]:
            yield from ("", "Skipped:", "")
            yield from (f"- {who}: {why}" for who, why in section["skipped"].items())
        yield from ("", f"Commit {context['commit']}, {context['date']}, {context['how']}.")


def figures(machine: Mapping[str, Any], name: str, rows: Sequence[Row]) -> Iterator[str]:
    """A question's table, and published figures beside it where there are any."""
    yield from table(rows)
    if other := published.beside(machine, name, rows):
        yield from ("", published.NOTE, "", *table(other))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown; the columns are the keys of all rows, in the order of their first appearance."""
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    ours = {_place(row): row for row in rows if row.get("peer") == OURS}
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        mine = ours.get(_place(row), {})
        cells = (
            f"**{cell(row[column])}**" if _beats(column, row, mine) else cell(row.get(column))
            for column in columns
        )
        yield f"| {' | '.join(cells)} |"


def _place(row: Row) -> tuple[Any, ...]:
    """The values that two rows must share to be compared."""
    return tuple(row.get(key) for key in ("model", "weights", "tokens a text", "tokens"))


def _beats(column: str, row: Row, ours: Row) -> bool:
    """Whether a peer's figure is better than ours."""
    if row.get(column) is None or row.get("peer", OURS).startswith(OURS):
        return False
    if column == THEIRS_OVER_OURS:
        return _middle(row[column]) < 1
    return column in LESS and ours.get(column) is not None and _middle(row[column]) < _middle(ours[column])


def _middle(value: Any) -> float:
    return float(value[0] if isinstance(value, Sequence) else value)


def cell(value: Any) -> str:
    """Three significant digits, thousands with commas; [median, lowest, highest] with its range."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        middle, low, high = map(cell, value)
        return f"{middle} ({low}-{high})"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 0.001 or not value else f"{value:.1e}"


def _draw(path: Path, name: str, section: Mapping[str, Any]) -> str:
    """One panel for each value of plot["panel"], one line for each peer: medians, and bars over the range."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    plot = section["plot"]
    x, y = plot["x"], plot["y"]
    rows = [row for row in section["rows"] if isinstance(row.get(x), int) and row.get(y) is not None]
    panels = list(dict.fromkeys(row[plot["panel"]] for row in rows))
    # A peer has one colour in all panels.
    lines = list(dict.fromkeys(row[plot["line"]] for row in rows))
    size = (5 * max(1, len(panels)) + 2, 4.5)
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=size, squeeze=False, layout="constrained")
    drawn = {}
    for panel, axis in zip(panels, axes[0], strict=False):
        inside = [row for row in rows if row[plot["panel"]] == panel]
        for number, line in enumerate(lines):
            points = [row for row in inside if row[plot["line"]] == line]
            if not points:
                continue
            spans = [row[y] if isinstance(row[y], Sequence) else [row[y]] * 3 for row in points]
            drawn[line] = axis.errorbar(
                [row[x] for row in points],
                [middle for middle, _, _ in spans],
                [[middle - low for middle, low, _ in spans], [high - middle for middle, _, high in spans]],
                marker="o",
                capsize=3,
                color=f"C{number}",
                linewidth=3 if line == OURS else 1.5,
            )
        weights = ", ".join(dict.fromkeys(row["weights"] for row in inside))
        axis.set(xscale="log", yscale=plot.get("scale", "linear"), xlabel=x, ylabel=y)
        axis.set_title(f"{panel}, {weights} weights")
        axis.xaxis.set_major_locator(FixedLocator(sorted({row[x] for row in inside})))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_locator(NullLocator())
        if axis.get_yscale() == "log":
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.grid(alpha=0.3)
    if len(drawn) > 1:
        figure.legend(drawn.values(), drawn.keys(), loc="outside right upper", fontsize="small")
    target = path.with_name(f"{path.stem}-{name}.svg")
    # Without a fixed salt and an empty date the file would differ with every run.
    mpl.rcParams["svg.hashsalt"] = name
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)
    return target.name


def main() -> None:
    """Write a page and its plots anew."""
    parser = argparse.ArgumentParser(prog="bench.report")
    parser.add_argument("results", type=Path, metavar="JSON")
    path = parser.parse_args().results
    render(path, json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
