"""Shared set-up: the process is tuned as the command line's, and nothing reaches the network."""

import os

import pytest

from mlx_jina import process

process.tune()


def pytest_configure(config: pytest.Config) -> None:
    """Without `-m network` the hub is off, so that a test which would need it fails at once."""
    if "network" not in (config.option.markexpr or ""):
        os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what was not asked for, and say how to ask."""
    for mark in ("network", "slow"):
        if mark in (config.option.markexpr or ""):
            continue
        skip = pytest.mark.skip(reason=f"run with -m {mark}")
        for item in items:
            if mark in item.keywords:
                item.add_marker(skip)
