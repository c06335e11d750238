"""The parsers of `mlx-jina service`."""

from __future__ import annotations

import click

from mlx_jina.cli.serve import serve
from mlx_jina.errors import InputError


@click.group()
def service() -> None:
    """Have macOS run the server in the background."""


@service.command(context_settings={"ignore_unknown_options": True})
@click.option("--print", "show", is_flag=True, help="Only show the launchd agent.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[MODELS AND OPTIONS OF SERVE]")
def install(arguments: tuple[str, ...], show: bool) -> None:
    """Start `mlx-jina serve` now, at every login, and after crashes."""
    import plistlib

    from mlx_jina.cli import launchd as functions

    words = [functions.absolute(argument) for argument in arguments]
    options = serve.make_context("mlx-jina serve", list(words)).params
    if options["api_key"]:
        raise InputError("--api-key would be readable in the process list; put the key in an --api-key-file")
    if not options["port"]:
        raise InputError("a service needs a --port of its own, not 0")
    if show:
        click.echo(plistlib.dumps(functions.agent(words)).decode(), nl=False)
    else:
        functions.install(words, options["host"], options["port"])


@service.command()
def uninstall() -> None:
    """Stop the server and start it no more."""
    from mlx_jina.cli import launchd as functions

    functions.uninstall()


@service.command()
@click.pass_context
def status(context: click.Context) -> None:
    """Show whether the server runs; exit status 1 if not."""
    from mlx_jina.cli import launchd as functions

    context.exit(0 if functions.status() else 1)
