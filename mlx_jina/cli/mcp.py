"""`mlx-jina mcp`: an index of notes for agents."""

from __future__ import annotations

import click

from mlx_jina.errors import InputError


@click.command()
@click.option("--index", metavar="FILE", help="The index, or the folder it is of. [default: the only one]")
@click.option("--model", "-m", metavar="NAME", help="The model. [default: the one that the index was made with]")
@click.option("--rerank", metavar="MODEL", help="A reranker that reads the 30 best hits of every search.")
@click.option(
    "--expand", metavar="MODEL", help="A language model of mlx-lm in the cache, which rewords every question."
)
def mcp(index: str | None, model: str | None, rerank: str | None, expand: str | None) -> None:
    """Let agents search your notes.

    Speaks the Model Context Protocol on standard input and output: Claude Desktop, Cursor and others start this
    command themselves. Tools: search_notes, get_note, related_notes, list_tags, index_status. They only read, and
    only notes of the index.
    """
    from mlx_jina import process
    from mlx_jina.search import location
    from mlx_jina.search.index import Index

    # Before anything imports MLX.
    process.tune()
    file = location.choose(index)
    try:
        from mlx_jina.mcp import serve
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; run: pip install 'mlx-jina[mcp]'") from None
    from mlx_jina import load_reranker
    from mlx_jina.search.language_model import LanguageModel

    with Index(file, model, create=False, local_files_only=True) as opened:
        opened.preload("notes")
        reranker = None if rerank is None else load_reranker(rerank)
        serve.run(opened, reranker, None if expand is None else LanguageModel(expand))
