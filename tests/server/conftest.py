"""One server for all tests that only ask it things, and its models in this process to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_jina
from tests.support import checkpoints
from tests.support.process import Server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with tasks and sides, for texts of up to 256 tokens."""
    folder = checkpoints.v5_small(tmp_path_factory.mktemp("served") / "small")
    config = checkpoints.read_json(folder / "config.json")
    checkpoints.write_json(folder / "config.json", {**config, "max_position_embeddings": 256})
    return folder


@pytest.fixture(scope="session")
def pocket() -> mlx_jina.Encoder:
    return mlx_jina.load("pocket")


@pytest.fixture(scope="session")
def tiny(folder: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(folder)


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    """With `pocket` as its default and `tiny`."""
    with Server("pocket", f"tiny={folder}", "--max-body", "4") as running:
        yield running
