"""A tiny model with two sides, as a folder and loaded."""

from __future__ import annotations

import pytest

import mlx_jina
from mlx_jina import Encoder
from tests.support import decoder_checkpoints


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(decoder_checkpoints.v5_nano(tmp_path_factory.mktemp("adapted") / "tiny"))


@pytest.fixture(scope="session")
def tiny(folder: str) -> Encoder:
    return mlx_jina.load(folder, task="retrieval")
