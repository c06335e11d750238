"""Pieces and blocks of attention so small that a short text has many of them."""

from __future__ import annotations

import pytest

from mlx_jina.cpu import attention as cpu_attention
from mlx_jina.nn import attention, pieces


def small(monkeypatch: pytest.MonkeyPatch, score_bytes: int, rows: int | None = None) -> None:
    """Blocks of at most so many bytes of scores, and pieces of `rows` tokens, on every backend."""
    for module in (attention, cpu_attention):
        monkeypatch.setattr(module, "SCORE_BYTES", score_bytes)
    if rows is not None:
        monkeypatch.setattr(pieces._Here, "tokens", rows)
