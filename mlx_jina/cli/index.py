"""The parser of `mlx-jina index`."""

from __future__ import annotations

import click
from click.core import ParameterSource

from mlx_jina.errors import InputError


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@click.option("--index", metavar="FILE", help="Where the index is kept. [default: among your application data]")
@click.option("--model", "-m", metavar="NAME", help="The model. [default: the index's own; pocket for a new one]")
@click.option("--watch", is_flag=True, help="Go on, and follow every change.")
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only such files, as in .gitignore; kept for later."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="No such files or folders; kept for later.")
@click.option(
    "--max-size", type=click.IntRange(min=1), metavar="MB", help="The largest file to read. [default: 10]"
)
@click.option("--words-only", is_flag=True, help="Leave the vectors for later.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--verify", is_flag=True, help="Read every file, also those that look unchanged.")
@click.option("--rebuild", is_flag=True, help="Make all vectors anew, by --model; the old ones serve until then.")
@click.option("--allow-mass-delete", is_flag=True, help="Believe it when most of the notes are gone.")
@click.option("--no-wait", is_flag=True, help="Leave if another process is writing to the index.")
@click.option(
    "--weight", type=click.FloatRange(0, 1), metavar="X", help="How much meaning counts. [default: the model's]"
)
@click.option("--verbose", "-v", is_flag=True, help="Name every file.")
@click.option("--status", is_flag=True, help="Say what is in the index.")
@click.option("--check", is_flag=True, help="Look for damage.")
@click.option("--repair", is_flag=True, help="With --check: mend it.")
@click.option("--compact", is_flag=True, help="Give back unused space.")
@click.option("--forget", is_flag=True, help="Let go of FOLDER, which need not be there any more.")
@click.option("--to", nargs=2, metavar="lancedb URI", help="Write all passages and vectors to a table of LanceDB.")
@click.option("--list", "list_all", is_flag=True, help="Say which indexes there are.")
@click.option("--json", "as_json", is_flag=True, help="With --status or --list: as JSON.")
def index(
    folders: tuple[str, ...],
    index: str | None,
    model: str | None,
    watch: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    max_size: int | None,
    words_only: bool,
    dry_run: bool,
    verify: bool,
    rebuild: bool,
    allow_mass_delete: bool,
    no_wait: bool,
    weight: float | None,
    verbose: bool,
    status: bool,
    check: bool,
    repair: bool,
    compact: bool,
    forget: bool,
    to: tuple[str, str] | None,
    list_all: bool,
    as_json: bool,
) -> None:
    """Index folders of notes, or bring an index up to date.

    Markdown, text, Org, HTML, notebooks, canvases, code, PDF with `pip install 'mlx-jina[pdf]'`, and pictures if
    the model sees them (v4, v5-omni). What .gitignore and .mlx-jina-ignore name is left out. Words can be searched
    within seconds, while vectors are still being made; whatever stops it, the next run goes on.

    Without FOLDER, the index of the current folder is meant, or the only one that there is.
    """
    from mlx_jina.cli import indexing

    if repair and not check:
        raise InputError("--repair mends what --check finds: use both")
    if as_json and not (status or list_all):
        raise InputError("--json is for --status and --list")
    if to is not None and to[0] != "lancedb":
        raise InputError(f"--to knows lancedb, and not {to[0]!r}")
    if forget:
        _check_alone("--forget", {"folders", "index", "no_wait", "forget"})
    if list_all:
        indexing.list_all(as_json)
    elif forget:
        indexing.forget(folders, index, no_wait=no_wait)
    elif to is not None:
        indexing.export(folders, index, to[1])
    elif status or check or compact:
        indexing.inspect(
            folders,
            index,
            status=status,
            check=check,
            repair=repair,
            compact=compact,
            as_json=as_json,
            no_wait=no_wait,
        )
    else:
        wanted = indexing.Wanted(
            include=include or None,
            exclude=exclude or None,
            max_size=None if max_size is None else max_size * 1_000_000,
            words_only=words_only,
            dry_run=dry_run,
            verify=verify,
            rebuild=rebuild,
            allow_mass_delete=allow_mass_delete,
            wait=not no_wait,
            weight=weight,
            verbose=verbose,
        )
        indexing.update(folders, index, model, wanted, watch)


def _check_alone(option: str, beside: set[str]) -> None:
    """Raise InputError for an option that has no meaning beside another one."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in beside and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InputError(f"{option} does nothing else: leave out {parameter.opts[0]}")
