"""The parsers of `mlx-jina search`, `related` and `duplicates`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from mlx_jina.errors import InputError

_index = click.option(
    "--index", metavar="FILE", help="The index, or the folder it is of. [default: of this folder]"
)
_limit = click.option(
    "--limit", "-n", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="Hits, at most."
)
_uri = click.option(
    "--uri",
    metavar="PROGRAM",
    help="What opens a note: file, obsidian, adv-uri, vscode, or a template with {path}, {line} ... "
    "[default: MLX_JINA_URI, else obsidian in a vault]",
)


def _formats(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a format, of which `command` gets the one that is given as `output`, or None."""

    @wraps(command)
    def formatted(*arguments: Any, **options: Any) -> None:
        given = [name for name in ("json", "jsonl", "paths", "alfred") if options.pop(f"as_{name}", False)]
        if len(given) > 1:
            raise InputError(f"--{given[0]} and --{given[1]} are two formats: give one of them")
        command(*arguments, output=next(iter(given), None), **options)

    for option in (
        click.option("-0", "nul", is_flag=True, help="With --paths: end each by NUL, for xargs -0."),
        click.option("--paths", "as_paths", is_flag=True, help="Nothing but the paths of the notes."),
        click.option("--jsonl", "as_jsonl", is_flag=True, help="A JSON object for each hit, one a line."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object with all hits."),
    ):
        formatted = option(formatted)
    return formatted


@click.command()
@click.argument("query", nargs=-1, required=True)
@_index
@_limit
@click.option("--model", "-m", metavar="NAME", help="The model. [default: the one that the index was made with]")
@click.option(
    "--mode",
    type=click.Choice(("hybrid", "words", "meaning")),
    default="hybrid",
    show_default=True,
    help="What to compare: words and meaning, or one of them.",
)
@click.option("--in", "glob", multiple=True, metavar="GLOB", help="Only in these folders or notes.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only notes with this tag, or one below it.")
@click.option("--since", metavar="DATE", help="Only notes modified then or later.")
@click.option("--until", metavar="DATE", help="Only notes modified then or earlier.")
@click.option("--chunks", is_flag=True, help="Also several hits of one note.")
@click.option("--recent", is_flag=True, help="Prefer recent notes: one counts half for every 180 days.")
@click.option("--min-score", type=float, metavar="X", help="Leave out hits with a lower score.")
@click.option("--min-cosine", type=float, metavar="X", help="Leave out hits with a lower cosine.")
@click.option(
    "--expand", metavar="MODEL", help="A language model of mlx-lm in the cache, which rewords the question."
)
@click.option("--rerank", metavar="MODEL", help="A reranker that reads the 30 best: jina-reranker-v1-tiny-en ...")
@click.option("--no-sync", is_flag=True, help="Search the index as it is.")
@click.option("--explain", is_flag=True, help="Say how the scores came about.")
@_uri
@click.option("--alfred", "as_alfred", is_flag=True, help="What a Script Filter of Alfred shows.")
@_formats
def search(query: tuple[str, ...], **options: Any) -> None:
    """Search your notes.

    QUERY may have "a phrase", -word, tag:NAME, in:FOLDER, title:WORD, -tag:NAME and so on, after:DATE and
    before:DATE in it; put it between quotes, and -- before it if it starts with a dash. What changed in the notes
    since the last time is taken into the index first, for a second or so.
    """
    from mlx_jina.cli import searching

    searching.search(" ".join(query), **options)


@click.command()
@click.argument("note", metavar="NOTE[:LINE]")
@_index
@_limit
@click.option("--all", "linked", is_flag=True, help="Also notes that are linked with it already.")
@_uri
@_formats
def related(note: str, **options: Any) -> None:
    """Show the notes nearest to a note.

    With :LINE, those nearest to the passage at this line of it.
    """
    from mlx_jina.cli import searching

    searching.related(note, **options)


@click.command()
@_index
@click.option(
    "--threshold", type=float, default=0.95, show_default=True, metavar="X", help="The lowest cosine of a pair."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def duplicates(index: str | None, threshold: float, as_json: bool) -> None:
    """List notes that say the same."""
    from mlx_jina.cli import searching

    searching.duplicates(index, threshold, as_json)
