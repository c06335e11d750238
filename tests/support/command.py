"""Runs `mlx-jina` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
    *arguments: str | Path, stdin: str | bytes = b"", program: Sequence[str] = PROGRAM, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """The finished process, its output as text."""
    done = subprocess.run(
        [*program, *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
