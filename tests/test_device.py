"""Which dtype computes where."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_jina import InputError, device


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert device.compute_dtype(mx.bfloat16) == mx.float32
    assert device.compute_dtype(mx.bfloat16, "float16") == mx.float16
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    assert device.compute_dtype(mx.bfloat16) == mx.bfloat16
    with pytest.raises(InputError, match="dtype='int4' is not one of"):
        device.compute_dtype(mx.float32, "int4")
