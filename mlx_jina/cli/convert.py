"""The parsers of `mlx-jina convert` and of `python -m convert.to_gguf` and its like. No logic."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlx_jina.choices import BITS, DTYPES, GGUF_TYPES, GROUP_SIZES, MODES, RECIPES, Dtype, Mode, Recipe
from mlx_jina.errors import InputError

THRESHOLD = 0.99
_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_HELP)
def convert() -> None:
    """Convert checkpoints to MLX folders and GGUF files."""


@convert.command("to-mlx")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--task", metavar="NAME", help="The task whose adapter is fused.")
@click.option("--as-model", metavar="NAME", help="Which published model SOURCE is.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Stored dtype. [default: as in SOURCE]")
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in BITS]),
    help="Quantise to so many bits. [default of --mode affine: 4]",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    help="Weights that share a scale. [default of --mode affine: 64]",
)
@click.option("--mode", type=click.Choice(MODES), help="Quantise like this. [default of --bits: affine]")
@click.option("--recipe", type=click.Choice(RECIPES), help="Two widths, of a decoder, as mlx-lm mixes them.")
@click.option("--force", is_flag=True, help="Replace TARGET.")
def to_mlx(
    source: str,
    target: Path,
    task: str | None,
    as_model: str | None,
    dtype: Dtype | None,
    bits: str | None,
    group_size: str | None,
    mode: Mode | None,
    recipe: Recipe | None,
    force: bool,
) -> None:
    """Write an MLX folder, also a quantised one.

    SOURCE is a model's name, a folder or a .gguf, and TARGET the new folder.

    mxfp4, mxfp8 and nvfp4 have one number of bits and one group size, so that --mode alone says all.
    """
    from mlx_jina.weights import convert as functions

    width = next((each for each in BITS if str(each) == bits), None)
    size = next((each for each in GROUP_SIZES if str(each) == group_size), None)
    functions.to_mlx(
        source,
        target,
        task=task,
        as_model=as_model,
        dtype=dtype,
        bits=width,
        group_size=size,
        mode=mode,
        recipe=recipe,
        force=force,
    )


@convert.command("to-gguf")
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--task", metavar="NAME", help="The task whose adapter is fused.")
@click.option("--as-model", metavar="NAME", help="Which published model SOURCE is.")
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    default="F16",
    show_default=True,
    help=f"Type of the matrices: {', '.join(GGUF_TYPES)}.",
)
@click.option("--force", is_flag=True, help="Replace TARGET.")
def to_gguf(source: str, target: Path, task: str | None, as_model: str | None, kind: str, force: bool) -> None:
    """Write a .gguf for llama.cpp and mlx-jina.

    SOURCE is a model's name, a folder or a .gguf, and TARGET the new file.

    Of a model with adapters, without --task, the base is written, and each adapter beside it as lora-TASK-TARGET.
    """
    from mlx_jina.weights import convert as functions
    from mlx_jina.weights.gguf import types

    functions.to_gguf(source, target, task=task, as_model=as_model, kind=types.check(kind), force=force)


@convert.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--texts", type=click.Path(dir_okay=False, path_type=Path), help="A text a line. [built in]")
@click.option("--task", metavar="NAME", help="A task of both models.")
@click.option("--threshold", type=float, default=THRESHOLD, show_default=True, help="Lowest cosine that is well.")
def compare(a: str, b: str, texts: Path | None, task: str | None, threshold: float) -> None:
    """Compare two models on the same texts.

    Encodes them with A and B; exit status 1 if a cosine lies under --threshold.
    """
    from mlx_jina import process
    from mlx_jina.cpu import blas

    process.tune()
    if slow := blas.slow():
        click.echo(slow, err=True)
    from mlx_jina import compare as functions

    try:
        lines = texts.read_text(encoding="utf-8").splitlines() if texts else functions.TEXTS
    except UnicodeDecodeError as error:
        raise InputError(f"{texts} is not valid UTF-8 ({error}); convert the file first") from None
    result = functions.compare(a, b, [line for line in lines if line.strip()], task)
    for text, cosine in zip(result.texts, result.cosines, strict=True):
        click.echo(f"{cosine:.6f}  {' '.join(text.split())[:70]}")
    click.echo(f"{result.min:.6f}  min\n{result.mean:.6f}  mean of {len(result.texts)} texts")
    # Written so that NaN, which compares as false, fails as well.
    if not result.min >= threshold:
        click.echo(f"the lowest cosine is under {threshold}", err=True)
        sys.exit(1)


@convert.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
def inspect(file: Path) -> None:
    """Show what is in a .gguf."""
    from mlx_jina.weights.gguf import describe as functions

    rows = list(functions.describe(file))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
