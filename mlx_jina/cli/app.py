"""The parsers of `mlx-jina`. Each command imports its code when it runs, so that `--help` is immediate."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click
from click.core import ParameterSource

from mlx_jina import __version__, catalog
from mlx_jina.choices import CHUNK_KINDS, DTYPES, PRECISIONS, ChunkKind
from mlx_jina.cli.convert import convert
from mlx_jina.cli.index import index
from mlx_jina.cli.mcp import mcp
from mlx_jina.cli.search import duplicates, related, search
from mlx_jina.cli.serve import serve
from mlx_jina.cli.service import service
from mlx_jina.cli.spelling import spelled
from mlx_jina.errors import InputError, MlxJinaError
from mlx_jina.options import ChunkingOptions, CutOptions, EncodeOptions, LoadOptions, PlaceOptions, RerankOptions

F = TypeVar("F", bound=Callable[..., Any])


def _place_options(command: F) -> F:
    """The options of `mlx_jina.load_reranker`."""
    for option in (
        click.option("--dtype", type=click.Choice(DTYPES), help="What to compute in. [default: by device]"),
        click.option("--local-files-only", is_flag=True, help="Never download."),
        click.option("--cache-dir", metavar="DIR", help="Hugging Face cache to use instead of the usual one."),
        click.option("--revision", metavar="REV", help="Branch, tag or commit on the Hugging Face hub."),
    ):
        command = option(command)
    return command


def _loading_options(command: F) -> F:
    """The options of `mlx_jina.load`."""
    as_model = click.option("--as-model", metavar="NAME", help="Which published model the file or folder is.")
    return _place_options(as_model(command))


def _model_option(command: F) -> F:
    names = ", ".join(catalog.short_names())
    return click.option(
        "--model", "-m", metavar="NAME", help=f"{names}; a Hugging Face id; or a folder. [default: pocket]"
    )(command)


def _prompt_options(command: F) -> F:
    for option in (
        click.option("--prompt", metavar="TEXT", help="Put in front of every text."),
        click.option("--prompt-name", metavar="NAME", help="A prompt of the model's own, such as query."),
        click.option("--task", metavar="NAME", help="A task that the model was trained for."),
    ):
        command = option(command)
    return command


def _split(options: dict[str, Any]) -> tuple[LoadOptions, EncodeOptions]:
    """Split options into those of `load` and those of `encode`."""
    loading = {name: options.pop(name) for name in sorted(LoadOptions.__optional_keys__)}
    return cast(LoadOptions, loading), cast(EncodeOptions, options)


def _chunking(chunk: ChunkKind | None, options: dict[str, Any]) -> ChunkingOptions | None:
    """The options of `Encoder.encode_chunks`. Raises InputError for one of them without --chunk."""
    if chunk is not None:
        cut = cast(CutOptions, options)
        return {"chunk": chunk, **cut, "chunk_tokens": cut["chunk_tokens"] or None}
    context = click.get_current_context()
    for name in options:
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise InputError(f"--{name.replace('_', '-')} needs --chunk {'|'.join(CHUNK_KINDS)}")
    return None


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, invoke_without_command=True
)
@click.version_option(__version__, prog_name="mlx-jina")
@click.pass_context
def commands(context: click.Context) -> None:
    """Jina embeddings, offline."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command()
@click.argument("texts", nargs=-1)
@click.option(
    "--input",
    "-i",
    "paths",
    multiple=True,
    metavar="PATH",
    help="A .txt file (every line is a text, blank ones too), .jsonl, .json (an array), .csv, .tsv, .md (one "
    "text), a picture (.png, .jpg, .webp, ...; for models that see) or .pdf (every page is a picture), or a "
    "folder (every .md and .txt file in it is one text, and every picture is read where the model sees). - is "
    "standard input. May be repeated.",
)
@click.option("--field", metavar="NAME", help="Where the text is in .jsonl, .json, .csv and .tsv. [default: text]")
@click.option(
    "--on-error",
    type=click.Choice(("skip", "stop")),
    default="skip",
    show_default=True,
    help="A note or picture in a folder that cannot be read: name it at the end, or stop there.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .npy, .jsonl or .parquet file instead of JSON lines on standard output (-).",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted --output where it stopped.")
@click.option("--force", is_flag=True, help="Replace --output, or start it over.")
@_model_option
@_prompt_options
@click.option("--truncate-dim", type=int, metavar="N", help="Keep the first N dimensions.")
@click.option("--allow-untrained-dim", is_flag=True, help="Also if the model was not trained for N dimensions.")
@click.option("--max-length", type=int, metavar="N", help="Tokens of a text. [default: the model's limit]")
@click.option("--truncate/--no-truncate", default=True, help="Cut longer texts with a warning, or stop there.")
@click.option("--normalize/--no-normalize", "normalize_embeddings", default=True, help="Unit length, or not.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", help="How vectors are stored.")
@click.option("--batch-tokens", type=int, metavar="N", help="Tokens per forward pass: speed and memory only.")
@click.option("--max-pixels", type=int, metavar="N", help="Pixels of a picture. [default: the model's limit]")
@click.option("--chunk", type=click.Choice(CHUNK_KINDS), help="Cut every text into chunks; each is a row.")
@click.option(
    "--chunk-tokens",
    type=click.IntRange(min=0),
    default=256,
    metavar="N",
    help="Tokens of a chunk, at most; 0 makes every sentence or paragraph one. [default: 256]",
)
@click.option("--overlap", type=int, default=0, metavar="N", help="Tokens shared with the chunk before.")
@click.option("--late/--no-late", default=True, help="Let chunks see the whole text, or embed each one alone.")
@click.option(
    "--language", default="en", metavar="CODE", help="Whose abbreviations end no sentence.  [default: en]"
)
@_loading_options
def encode(
    texts: tuple[str, ...],
    paths: tuple[str, ...],
    field: str | None,
    on_error: str,
    output: Path | None,
    resume: bool,
    force: bool,
    model: str | None,
    chunk: ChunkKind | None,
    **options: Any,
) -> None:
    """Turn texts into vectors.

    The texts are TEXTS, or what --input names, or else the lines of standard input. The vectors go to standard
    output as JSON lines, or to --output.

    An --output grows as NAME.partial, which can be read at any time, and which --resume continues after
    whatever stopped it.

    With --chunk every row says where its chunk is: which text, and which characters and tokens of it.
    """
    from mlx_jina.cli.encode import Source, run

    chunking = _chunking(chunk, {name: options.pop(name) for name in sorted(CutOptions.__optional_keys__)})
    loading, encoding = _split(options)
    run(
        Source(texts, paths, field, on_error == "skip"),
        output,
        model,
        loading,
        encoding,
        chunking=chunking,
        resume=resume,
        force=force,
    )


@commands.command()
@click.argument("texts", nargs=-1)
@_model_option
@_prompt_options
@_loading_options
def similarity(texts: tuple[str, ...], model: str | None, **options: Any) -> None:
    """Show how alike texts are.

    Prints the cosine similarity of each of two or more TEXTS with every other.
    """
    from mlx_jina.cli.similarity import run

    run(texts, model, *_split(options))


@commands.command()
@click.argument("model")
@click.argument("query")
@click.argument("documents", nargs=-1)
@click.option(
    "--input",
    "-i",
    "paths",
    multiple=True,
    metavar="PATH",
    help="More documents: what `mlx-jina encode --input` reads. May be repeated.",
)
@click.option("--field", metavar="NAME", help="Where the text is in .jsonl and .csv. [default: text]")
@click.option("--top-n", type=click.IntRange(min=1), metavar="N", help="The best N documents. [default: all]")
@click.option("--instruction", metavar="TEXT", help="What a document should do for a query (Qwen3, v3).")
@click.option("--raw", is_flag=True, help="Logits instead of probabilities.")
@click.option("--max-length", type=int, metavar="N", help="Tokens that are read at a time. [default: the model's]")
@click.option("--max-document-length", type=int, metavar="N", help="Tokens of a document. [default: the model's]")
@click.option("--truncate/--no-truncate", default=True, help="Cut longer documents with a warning, or stop there.")
@click.option("--batch-tokens", type=int, metavar="N", help="Tokens per forward pass: speed and memory only.")
@_place_options
def rerank(
    model: str,
    query: str,
    documents: tuple[str, ...],
    paths: tuple[str, ...],
    field: str | None,
    top_n: int | None,
    raw: bool,
    **options: Any,
) -> None:
    """Rank documents by how well they answer a query.

    Prints DOCUMENTS as JSON lines with index, score and text, best first. MODEL is a reranker, such as
    jina-reranker-v3, jina-reranker-v1-tiny-en, bge-reranker-v2-m3 or Qwen3-Reranker-0.6B.
    """
    from mlx_jina.cli.rerank import run

    loading = {name: options.pop(name) for name in sorted(PlaceOptions.__optional_keys__)}
    reranking = {**options, "activation": "none" if raw else "default"}
    run(
        model,
        query,
        documents,
        paths,
        field,
        top_n,
        cast(PlaceOptions, loading),
        cast(RerankOptions, reranking),
    )


@commands.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs and reports.")
@_loading_options
def info(model: str | None, as_json: bool, **options: Any) -> None:
    """Show what is installed, and models.

    Versions, backend and the models on this machine; or what MODEL can do.
    """
    from mlx_jina.cli.info import run

    run(model, cast(LoadOptions, options), as_json=as_json)


for command in (index, search, related, duplicates, mcp):
    commands.add_command(command)
commands.add_command(serve)
commands.add_command(service)
commands.add_command(convert)


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived: the command stops as tidily as after Ctrl-C."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    from tqdm import tqdm

    # tqdm writes the line above a progress bar instead of through it.
    tqdm.write(f"warning: {' '.join(spelled(str(message), commands).split())}", file=sys.stderr)


def _fail(words: str) -> int:
    print(f"error: {' '.join(words.split())}", file=sys.stderr)
    return 1


def _dashes(error: click.UsageError) -> str:
    """What to do if words that start with a dash were meant as a text or a query."""
    parameters = error.ctx.command.params if error.ctx else []
    takes_texts = any(isinstance(each, click.Argument) and each.nargs == -1 for each in parameters)
    if not isinstance(error, click.NoSuchOption) or error.option_name.startswith("--") or not takes_texts:
        return ""
    return "; if it is a text, put -- before it"


def _wants_help(error: click.UsageError) -> bool:
    """Whether a group was called without a command. Since click 8.2 that is an error."""
    return type(error).__name__ == "NoArgsIsHelpError"


def _place(command: click.Command, name: str, arguments: Iterable[str]) -> str:
    """The command that arguments name, for an error of click's parser, which does not say where it arose."""
    for argument in arguments:
        if not isinstance(command, click.Group) or (inner := command.commands.get(argument)) is None:
            break
        command, name = inner, f"{name} {argument}"
    return name


def _status(command: click.Command, name: str, arguments: list[str]) -> int:
    """Run a command and return its exit status. A user's mistake becomes one line, never a traceback."""
    try:
        with command.make_context(name, arguments) as context:
            command.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        if _wants_help(error):
            # The group's own help, which click hands over as an error.
            click.echo(error.format_message())
            return 0
        place = error.ctx.command_path if error.ctx else _place(command, name, arguments)
        return _fail(f"{error.format_message().rstrip('.')}{_dashes(error)}; see {place} --help")
    except click.ClickException as error:
        return _fail(error.format_message())
    except KeyboardInterrupt as interrupt:
        # A second signal ends the process at once, though threads have not finished their last batch.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        terminated = isinstance(interrupt, _Terminated)
        print("terminated" if terminated else "interrupted", file=sys.stderr)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except BrokenPipeError:
        # The reader of standard output has closed it, as `head` does.
        _drop_stdout()
        return 0
    except MlxJinaError as error:
        return _fail(spelled(str(error), command))
    except OSError as error:
        _drop_stdout()
        if isinstance(error, FileNotFoundError) and error.filename is None:
            return _fail("the current folder does not exist any more; go to another one")
        # An error of a file has the file's name; an error without a name comes from standard output.
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}")
    return 0


def _drop_stdout() -> None:
    """Discard unwritten output, which would fail once more when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_streams() -> None:
    """Open streams that the shell closed, and escape characters that the terminal's encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(command: click.Command = commands, name: str = "mlx-jina") -> NoReturn:
    """Run the command line and exit: 0, 1 for any mistake, 130 after Ctrl-C (143 after SIGTERM)."""
    warnings.showwarning = _warn
    signal.signal(signal.SIGTERM, _terminate)
    _open_standard_streams()
    sys.exit(_status(command, name, sys.argv[1:]))
