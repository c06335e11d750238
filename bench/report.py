"""Results as JSON, and from it Markdown and plots. A question measured again replaces its own section only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.harness import Section

Row = Mapping[str, Any]


def save(path: Path, machine: Mapping[str, Any], name: str, section: Section, context: Mapping[str, Any]) -> None:
    """Add a section to a machine's results, and draw them anew."""
    results: dict[str, Any] = {"sections": {}}
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
    results["machine"] = machine
    results["sections"][name] = {**asdict(section), "context": context}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, json.dumps(results, indent=1) + "\n")
    plots = {key: _draw(path, key, value) for key, value in results["sections"].items() if value["plot"]}
    _write(path.with_suffix(".md"), "\n".join(markdown(results, plots)) + "\n")


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
    yield ""
    yield "Ranges in brackets are the lowest and the highest of the rounds; the number before them is the median."
    for name, section in results["sections"].items():
        context = section["context"]
        yield from ("", f"## {section['title']}", "", section["note"], "")
        if section["rows"]:
            yield from table(section["rows"])
        if name in plots:
            yield from ("", f"![{section['title']}]({plots[name]})")
        if section["skipped"]:
            yield from ("", "Skipped:", "")
            yield from (f"- {who}: {why}" for who, why in section["skipped"].items())
        yield from ("", f"Commit {context['commit']}, {context['date']}, {context['how']}.")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown; the columns are the keys of all rows, in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(cell(row.get(column)) for column in columns)} |"


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
    """One panel for each value of plot["panel"], one line for each peer."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    plot, rows = section["plot"], section["rows"]
    rows = [row for row in rows if isinstance(row.get(plot["x"]), int) and row.get(plot["y"]) is not None]
    panels = list(dict.fromkeys(row[plot["panel"]] for row in rows))
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=(5.5 * max(1, len(panels)), 4.5), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=False):
        inside = [row for row in rows if row[plot["panel"]] == panel]
        for line in dict.fromkeys(row[plot["line"]] for row in inside):
            points = [row for row in inside if row[plot["line"]] == line]
            values = [row[plot["y"]] for row in points]
            heights = [v[0] if isinstance(v, list) else v for v in values]
            axis.plot([row[plot["x"]] for row in points], heights, marker="o", label=line)
        axis.set(xscale="log", yscale=plot.get("scale", "linear"), xlabel=plot["x"], ylabel=plot["y"], title=panel)
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    target = path.with_name(f"{path.stem}-{name}.svg")
    figure.tight_layout()
    # Without these two the file would differ with every run.
    mpl.rcParams["svg.hashsalt"] = name
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)
    return target.name
