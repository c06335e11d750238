"""The command line: `app.py` has the parsers, and each command a file of its own."""

from mlx_jina.cli.app import main

__all__ = ["main"]
