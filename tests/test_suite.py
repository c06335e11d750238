"""The suite itself: it runs wherever it is started from, and it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# How a child of the suite's process takes signals: whether it ignores them.
CHILD = "import signal; print(*(signal.getsignal(n) == signal.SIG_IGN for n in (signal.SIGINT, signal.SIGTERM)))"
SUITE = f"""
import subprocess, sys
import tests.conftest
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


@pytest.mark.parametrize("ignored", ["", "trap '' INT; ", "trap '' INT TERM; "])
def test_children_heed_signals_that_the_shell_ignores(ignored: str) -> None:
    """As after `nohup pytest &`: a child that ignores Ctrl-C would be waited for without end."""
    command = ["sh", "-c", f'{ignored}exec "$0" -c "$1"', sys.executable, SUITE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_test_has_a_time_out(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("timeout")) <= 600
