"""The parser of `mlx-jina serve`."""

from __future__ import annotations

import math
import os
from pathlib import Path

import click

from mlx_jina.choices import DTYPES, Dtype
from mlx_jina.errors import InputError

DEFAULT_PORT = 7171


def _positive(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"{value} is not a positive number", context, parameter)
    return value


@click.command()
@click.argument("models", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--index", metavar="FOLDER", help="Also search these notes: a folder, or an index.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    metavar="N",
    help="0 takes a free one.",
)
@click.option(
    "--expand", metavar="MODEL", help="With --index: a language model of mlx-lm, for searches that ask for it."
)
@click.option("--preload", is_flag=True, help="Load MODELS at once instead of when they are first used.")
@click.option(
    "--max-memory",
    type=float,
    callback=_positive,
    metavar="GB",
    help="Weights to keep; the least recently used make room.",
)
@click.option(
    "--unload-after", type=float, callback=_positive, metavar="MINUTES", help="Unload models that nobody uses."
)
@click.option("--allow-download", is_flag=True, help="Requests may have known models downloaded.")
@click.option("--api-key", metavar="KEY", help="Ask for it. Others may see it; MLX_JINA_API_KEY is safer.")
@click.option(
    "--api-key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The key is in a file."
)
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Answer to this Host, too.")
@click.option("--allow-origin", "origins", multiple=True, metavar="URL", help="Pages of this origin may ask.")
@click.option(
    "--max-waiting",
    default=8.0,
    callback=_positive,
    show_default=True,
    metavar="MILLIONS",
    help="Tokens of requests under way; more get 503.",
)
@click.option("--max-body", default=32, show_default=True, metavar="MB", help="Size of a request; more gets 413.")
@click.option("--dtype", type=click.Choice(DTYPES), help="[default: by device]")
@click.option("--cache-dir", metavar="DIR", help="Hugging Face cache to use instead of the usual one.")
def serve(
    models: tuple[str, ...],
    host: str,
    index: str | None,
    port: int,
    expand: str | None,
    preload: bool,
    max_memory: float | None,
    unload_after: float | None,
    allow_download: bool,
    api_key: str | None,
    api_key_file: Path | None,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    max_waiting: float,
    max_body: int,
    dtype: Dtype | None,
    cache_dir: str | None,
) -> None:
    """Answer embedding requests, and searches, over HTTP.

    Paths and answers are those of OpenAI, Jina and others. With --index there is a page to search your notes,
    whose index the server keeps up to date, and `mlx-jina search` asks the server.

    MODELS are names, Hugging Face ids, folders or .gguf files, also as ALIAS=NAME; the first is the default one.
    Requests may also ask for every other known model in the Hugging Face cache. [default: pocket]

    Only this machine is let in. Any other --host needs an API key.
    """
    from mlx_jina import process

    if expand is not None and index is None:
        raise InputError("--expand rewords questions to notes, which --index names")
    # Before anything imports MLX.
    process.tune()
    try:
        from mlx_jina.server import access, serve
        from mlx_jina.server.app import Settings
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; run: pip install 'mlx-jina[server]'") from None

    with process.wired():
        serve.run(
            models or ("pocket",),
            host,
            port,
            Settings(
                api_key=api_key or os.environ.get("MLX_JINA_API_KEY") or None,
                hosts=(*hosts, host),
                origins=origins,
                anywhere=not access.is_loopback(host),
                max_waiting=int(max_waiting * 1e6),
                max_body=max_body << 20,
            ),
            preload=preload,
            api_key_file=api_key_file,
            index=index,
            expand=expand,
            allow_download=allow_download,
            max_memory=None if max_memory is None else int(max_memory * 1e9),
            keep_alive=None if unload_after is None else unload_after * 60,
            dtype=dtype,
            cache_dir=cache_dir,
        )
