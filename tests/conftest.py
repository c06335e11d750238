"""Shared set-up: the process is tuned as the command line's, and nothing reaches the network."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from mlx_jina import process

process.tune()

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

# What is in a file of tests that imports PyTorch or transformers.
PYTORCH = re.compile(
    r"(torch|rerank)_reference|(omni|v4)_checkpoints|importorskip\(\s*\"(torch|transformers|sentence_transformers|mlx_lm|mteb)"
)

# Seconds of a test with the mark `slow`, such as a soak; of the others pyproject.toml says it.
SLOW = 3600


def restore_signals() -> None:
    """Heed signals that `nohup ... &` ignores: tests send them to children, which inherit what is ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, handler)


restore_signals()


def pytest_configure(config: pytest.Config) -> None:
    """Without `-m network` the hub is off, so that a test which would need it fails at once."""
    if "network" not in (config.option.markexpr or ""):
        os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """With `--dist loadfile`, files that import PyTorch share one process, as the imports take it ten seconds."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if (file := super()._split_scope(nodeid)) not in groups:
                path = config.rootpath / file
                groups[file] = "pytorch" if PYTORCH.search(path.read_text(encoding="utf-8")) else file
            return groups[file]

    groups: dict[str, str] = {}
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what was not asked for, and say how to ask; give what takes long its time."""
    for item in items:
        if "slow" in item.keywords and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW))
    for mark in ("network", "slow"):
        if mark in (config.option.markexpr or ""):
            continue
        skip = pytest.mark.skip(reason=f"run with -m {mark}")
        for item in items:
            if mark in item.keywords:
                item.add_marker(skip)
