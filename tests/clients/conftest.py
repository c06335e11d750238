"""One server process for all clients, and the same models in this process to compare with."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_jina
from mlx_jina import Encoder
from tests.support import decoder_checkpoints
from tests.support.process import Server

TEXTS = ["How do I bake bread?", "Sourdough for beginners", "", "GPU drivers 🍞 日本語", "word " * 300]

# Several clients never close their connections.
UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def dropped_connections() -> Iterator[None]:
    """They go while the module's own filter of warnings is in force."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with tasks and sides."""
    return decoder_checkpoints.v5_nano(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session")
def pocket() -> Encoder:
    return mlx_jina.load("pocket")


@pytest.fixture(scope="session")
def tiny(folder: Path) -> Encoder:
    return mlx_jina.load(folder)


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[str]:
    """Address of `mlx-jina serve` with `pocket` and, as `tiny-embedding`, the tiny model."""
    with Server("pocket", f"tiny-embedding={folder}") as process:
        yield process.url
