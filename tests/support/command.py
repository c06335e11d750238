"""Runs `mlx-jina`: within the process of the tests, or as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

import pytest

from mlx_jina.cli import main

# `mlx-jina` with small windows, so that a few thousand lines make many blocks.
SMALL_WINDOWS = """
import mlx_jina
mlx_jina.load
from mlx_jina import cli
from mlx_jina.engine import pipeline
pipeline.WINDOW_TEXTS = 64
cli.main()
"""
SMALL = (sys.executable, "-W", "error", "-c", SMALL_WINDOWS)
PROGRAM = (sys.executable, "-W", "error", "-m", "mlx_jina")


def run(
    *arguments: str | Path, stdin: str | bytes = b"", program: Sequence[str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """What `mlx-jina` did with these arguments, its output as text.

    A `program` is a process of its own, which takes half a second to start. Without it the command line runs in
    this process, with real files as its standard streams.
    """
    content = stdin.encode() if isinstance(stdin, str) else stdin
    texts = [*map(str, arguments)]
    if program is None:
        return _call(texts, content)
    done = subprocess.run([*program, *texts], input=content, capture_output=True, timeout=timeout, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _call(arguments: list[str], stdin: bytes) -> subprocess.CompletedProcess[str]:
    """Run `main` here, and leave the process as it was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    status: object = None
    with ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", ["mlx-jina", *arguments])
        patch.setattr(sys, "stdin", stack.enter_context(_opened(given, "r")))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        try:
            with (
                _opened(out, "w") as stdout,
                _opened(err, "w") as stderr,
                redirect_stdout(stdout),
                redirect_stderr(stderr),
            ):
                main()
        except SystemExit as ended:
            status = ended.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert isinstance(status, int)
        return subprocess.CompletedProcess(arguments, status, _content(out), _content(err))


def _opened(file: IO[bytes], mode: str) -> IO[str]:
    """A text stream on the same file, which the command line may close or send elsewhere."""
    return open(os.dup(file.fileno()), mode, encoding="utf-8", newline="")


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
