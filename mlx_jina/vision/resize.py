"""Bicubic resizing with antialiasing, bit for bit as torch computes it on bytes.

torch's kernel (aten/src/ATen/native/cpu/UpSampleKernel.cpp) works in integers, with a precision that depends on
the largest weight, and rounds to bytes between the axes. Keys 1981, "Cubic convolution interpolation for digital
image processing" (doi 10.1109/TASSP.1981.1163711).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

# Keys' coefficient, and pixels to either side of the centre when nothing is reduced.
_A, _SUPPORT = -0.5, 2.0
# Weights are 16 bits wide.
_MOST_BITS, _LARGEST = 22, 1 << 15


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize (h, w, 3) to (height, width, 3), the width first; an axis that keeps its size is left as it is."""
    if pixels.shape[1] != width:
        pixels = _along_width(pixels, width)
    if pixels.shape[0] != height:
        pixels = _along_width(pixels.transpose(1, 0, 2), height).transpose(1, 0, 2)
    return np.ascontiguousarray(pixels)


def _along_width(pixels: Pixels, width: int) -> Pixels:
    first, weights, bits = _taps(pixels.shape[1], width)
    last = pixels.shape[1] - 1
    total = np.full((pixels.shape[0], width, pixels.shape[2]), 1 << (bits - 1), dtype=np.int32)
    for tap in range(weights.shape[1]):
        # Beyond the last pixel every weight is 0.
        neighbours = pixels[:, np.minimum(first + tap, last)]
        total += neighbours.astype(np.int32) * weights[:, tap, None]
    return np.clip(total >> bits, 0, 255).astype(np.uint8)


def _taps(size: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32], int]:
    """For each new pixel the first old one and integer weights (target, taps), and how many bits they have."""
    scale = size / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    first = np.maximum((centres - _SUPPORT * stretch + 0.5).astype(np.intp), 0)
    stop = np.minimum((centres + _SUPPORT * stretch + 0.5).astype(np.intp), size)
    places = first[:, None] + np.arange((stop - first).max())
    weights = _cubic((places - centres[:, None] + 0.5) * (1 / stretch))
    weights[places >= stop[:, None]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    largest = weights.max()
    bits = max(bits for bits in range(_MOST_BITS + 1) if 0.5 + largest * (1 << bits) < _LARGEST)
    scaled = weights * (1 << bits)
    return first, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int32), bits


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
