"""A model that computes in milliseconds, and a folder for notes."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlx_jina
from mlx_jina.encoder import Encoder
from tests.support.checkpoints import tiny_jina_bert


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights."""
    return tiny_jina_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Encoder:
    """A model whose vectors mean nothing."""
    return mlx_jina.load(tiny_folder)


@pytest.fixture(scope="session")
def pocket() -> Encoder:
    """A model whose vectors mean something."""
    return mlx_jina.load("pocket")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for notes."""
    path = tmp_path / "notes"
    path.mkdir()
    return path
