"""Words of the library as the command line says them: `truncate_dim=65` is `--truncate-dim 65` here."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator

import click

# What opens a model in Python, and what takes it on the command line.
_OPENS = {
    "mlx_jina.load opens it": "`mlx-jina encode -m` takes it",
    "mlx_jina.load_reranker opens it": "`mlx-jina rerank` takes it",
    "mlx_jina.load_multi_vector opens it": "`mlx-jina serve` and mlx_jina.load_multi_vector take it",
}


def options_of(command: click.Command) -> Iterator[click.Option]:
    """All options of a command and of those below it."""
    yield from (option for option in command.params if isinstance(option, click.Option))
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from options_of(inner)


def spelled(words: str, command: click.Command) -> str:
    """A message with its Python arguments, `name=value`, as options of the command, `--name value`.

    A function that opens another kind of model becomes the command that does. Options that the command does not
    have stay as they are, and so does what is part of a path or an address.
    """
    for function, program in _OPENS.items():
        words = words.replace(function, program)
    known: dict[str, click.Option] = {}
    for option in options_of(command):
        known.setdefault(str(option.name), option)
    names = "|".join(sorted(known, key=len, reverse=True))
    argument = re.compile(rf"(?<![\w/.?&=-])({names})=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[\w.+-]*\w|)")
    return argument.sub(lambda found: _as_option(known[found[1]], found[2]), words)


def _as_option(option: click.Option, value: str) -> str:
    name = max(option.opts, key=len)
    if value == "None":
        return f"no {name}"
    if option.is_flag:
        if value == "False":
            return option.secondary_opts[0] if option.secondary_opts else f"no {name}"
        return name
    if value.startswith(("'", '"')):
        value = shlex.quote(ast.literal_eval(value))
    return f"{name} {value}".rstrip()
