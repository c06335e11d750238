"""A tiny checkpoint that tests may damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import checkpoints


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return checkpoints.tiny_jina_bert(tmp_path / "bert")
