"""How near two computations of the same vectors come, by what computes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from mlx_jina import device
from mlx_jina.cpu import blas

no_cuda = pytest.mark.skipif(
    device.backend() == "cuda", reason="CUDA keeps outputs until a graph of many operations is done"
)
"""Of tests that bound the memory of what a CPU or Metal computes."""

# A CPU: sums in another order, for which each test has its own bound.
# Metal: softmax and fused attention take `metal::fast::exp` (softmax.h and steel_attention.h in MLX's source),
# which Apple's specification of Metal's language allows 3 + 2|x| units in the last place: of a softmax's largest
# parts some 4e-7, in each layer. exp, erf, rsqrt and the tables of rotary positions are as exact as on a CPU.
# CUDA: cuBLAS and the fused attention of cuDNN, with softmax by `exp2` of the same exactness.
_TIMES = {"cpu": 1, "metal": 8, "cuda": 8}[device.backend()]


def bound(of_cpu: float) -> float:
    """The absolute difference that is allowed here, where a CPU's may be `of_cpu`."""
    return of_cpu * _TIMES


def place_matters() -> bool:
    """Whether a row's sum depends on its place in a batch: in OpenBLAS's kernels without AVX-512 it does."""
    return sys.platform == "linux" and device.backend() == "cpu" and not blas.multiplies_small()


def assert_same_scores(found: Any, wanted: Any) -> None:
    """To the bit, if a row's sum does not depend on the row's place."""
    assert np.shape(found) == np.shape(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 if place_matters() else 0)
