"""How much does a smaller vector lose? Spearman's correlation on an STS file, by dimension and precision.

    python -m bench.precision STS.csv [--model pocket] [--plot bench/precision.svg]

The file has rows of sentence, sentence, score. Prints a Markdown table; `--plot` draws it (matplotlib, in `pip
install --group bench`). 8-bit vectors use the bounds that depend on no data. "Binary, rescored" compares the first
sentence's float32 vector with the second sentence's bits, as a search does when it rescores hits that it found by
Hamming distance.
"""

from __future__ import annotations

import csv
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

import mlx_jina
from mlx_jina import vectors
from mlx_jina.choices import Precision
from mlx_jina.vectors import Floats, Vectors

# Precisions of the two sides of a pair, by the column's name.
COLUMNS: dict[str, tuple[Precision, Precision]] = {
    "float32": ("float32", "float32"),
    "int8": ("int8", "int8"),
    "binary, rescored": ("float32", "binary"),
    "binary": ("binary", "binary"),
}
# Bytes of a stored dimension.
BYTES = {"float32": 4.0, "int8": 1.0, "binary": 1 / 8}


def ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks with ties averaged: Hamming distances have many."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean: npt.NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return mean[inverse]


def pairwise(a: Vectors, b: Vectors, precision: Precision) -> npt.NDArray[np.float64]:
    """The similarity of each row of `a` with its row of `b`."""
    pairs = zip(a, b, strict=True)
    return np.array([vectors.similarity(x, y, precision)[0, 0] for x, y in pairs], dtype=np.float64)


def table(a: Floats, b: Floats, gold: npt.NDArray[np.float64], dims: list[int]) -> dict[str, list[float]]:
    """Spearman's correlation times 100 for each of the columns, by dimension."""
    rows: dict[str, list[float]] = {}
    for name, kinds in COLUMNS.items():
        rows[name] = []
        for dim in dims:
            left, right = (
                vectors.quantize(vectors.normalize(side[:, :dim]), kind)
                for side, kind in zip((a, b), kinds, strict=True)
            )
            scores = pairwise(left, right, kinds[1])
            rows[name].append(100 * float(np.corrcoef(ranks(scores), ranks(gold))[0, 1]))
    return rows


def draw(path: Path, title: str, dims: list[int], rows: dict[str, list[float]]) -> None:
    """Correlation over bytes per vector, one line for each precision."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    # With these settings the same numbers give the same file.
    mpl.rcParams.update({"svg.hashsalt": "precision", "svg.fonttype": "none", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (name, values), marker in zip(rows.items(), "os^v", strict=True):
        size = [dim * BYTES[COLUMNS[name][1]] for dim in dims]
        axes.plot(size, values, marker=marker, label=name)
        for x, y, dim in zip(size, values, dims, strict=True):
            axes.annotate(str(dim), (x, y), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    axes.set(xscale="log", xlabel="bytes per stored vector", ylabel="Spearman × 100", title=title)
    ticks = [8, 16, 32, 64, 128, 256, 512, 1024]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.margins(y=0.12)
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


@click.command()
@click.argument("sts", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", default="pocket", show_default=True)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path))
def main(sts: Path, model: str, plot: Path | None) -> None:
    """Print the table, and draw it."""
    with sts.open(newline="", encoding="utf-8") as file:
        pairs = list(csv.reader(file))
    mlx_jina.limit_cache()
    encoder = mlx_jina.load(model)
    a, b = (encoder.encode([pair[side] for pair in pairs], normalize_embeddings=False) for side in (0, 1))
    dims = sorted(encoder.truncate_dims or (encoder.dimension,), reverse=True)
    rows = table(a, b, np.array([float(pair[2]) for pair in pairs]), dims)
    print(f"| dimensions | {' | '.join(COLUMNS)} |")
    print("|---|" + "---|" * len(COLUMNS))
    for i, dim in enumerate(dims):
        print(f"| {dim} | {' | '.join(f'{values[i]:.2f}' for values in rows.values())} |")
    if plot is not None:
        draw(plot, f"{model} on {sts.stem}, labels are dimensions", dims, rows)


if __name__ == "__main__":
    main()
