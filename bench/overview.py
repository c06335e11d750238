"""The README's plot: memory that one long text takes, and speed on mixed lengths, from a machine's results.

    python -m bench.overview bench/results/MACHINE.json [--model v2-small] [--plot docs/overview.svg]

Measures nothing. matplotlib is in `pip install --group bench`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.peers import OURS

Row = Mapping[str, Any]

# The longest text that every peer was measured with.
TOKENS = 8192


def bars(rows: Sequence[Row], model: str, column: str, **where: Any) -> dict[str, float]:
    """A figure for each peer, by name: the median, where the results also have a range."""
    return {
        row["peer"]: row[column][0] if isinstance(row[column], Sequence) else row[column]
        for row in rows
        if row["model"] == model and all(row[key] == value for key, value in where.items())
    }


def panels(sections: Mapping[str, Any], model: str) -> dict[str, dict[str, float]]:
    """Figures of all peers that have both, ours first, by the title of the panel."""
    speed = bars(sections["throughput"]["rows"], model, "tokens/s", **{"tokens a text": "mixed"})
    memory = bars(sections["memory"]["rows"], model, "above, MB", tokens=TOKENS)
    names = [OURS, *sorted(speed.keys() & memory.keys() - {OURS})]
    return {
        f"memory that a text of {TOKENS:,} tokens adds, MB": {name: memory[name] for name in names},
        "texts of mixed lengths, tokens/s": {name: speed[name] for name in names},
    }


def draw(path: Path, figures: Mapping[str, Mapping[str, float]], title: str) -> None:
    """One panel of horizontal bars for each title, the same peers in all, ours on top."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    # With these settings the same numbers give the same file.
    mpl.rcParams.update({"svg.hashsalt": "overview", "svg.fonttype": "none", "font.size": 10})
    figure, axes = plt.subplots(1, len(figures), figsize=(9, 2.9), sharey=True, layout="constrained")
    for axis, (heading, values) in zip(axes, figures.items(), strict=True):
        colours = ["C0" if name == OURS else "#b8b8b8" for name in values]
        axis.bar_label(axis.barh(list(values), list(values.values()), color=colours), fmt="{:,.0f}", padding=3)
        axis.set_title(heading, fontsize=10)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
        axis.margins(x=0.18)
    axes[0].invert_yaxis()
    figure.suptitle(title, fontsize=9, color="#606060")
    figure.savefig(path, metadata={"Date": None})


@click.command()
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", default="v2-small", show_default=True)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs", "overview.svg"),
    show_default=True,
)
def main(results: Path, model: str, plot: Path) -> None:
    """Draw the plot."""
    content = json.loads(results.read_text(encoding="utf-8"))
    rows = content["sections"]["throughput"]["rows"]
    weights = next(row["weights"] for row in rows if row["model"] == model)
    machine = content["machine"]
    title = f"shape of {model}, {weights} weights; {machine['accelerator'] or machine['processor']}"
    title += f", {machine['cores']} cores, {machine['MLX backend']}"
    draw(plot, panels(content["sections"], model), title)


if __name__ == "__main__":
    main()
