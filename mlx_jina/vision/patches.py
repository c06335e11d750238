"""A picture as the patches that Qwen2.5-VL's vision tower takes: resized, normalised, in blocks of 2 x 2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlx_jina.errors import CheckpointError, InputError, PictureError
from mlx_jina.vision.resize import Pixels, resize

# A picture's longer side is at most so many times the shorter one.
MOST_RATIO = 200
# What Qwen2.5-VL's processor does, which a file may also say.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_convert_rgb": (True,),
    "resample": (3,),
    "rescale_factor": (1 / 255, 0.00392156862745098),
    "temporal_patch_size": (2,),
    "merge_size": (2,),
}


class Picture(NamedTuple):
    """A picture in patches: `rows` (P, 3 * patch * patch) in float32, of `grid[0]` lines with `grid[1]` each.

    Rows come in blocks of 2 x 2 patches, from left to right and from top to bottom; so do the four of a block.
    """

    rows: npt.NDArray[np.float32]
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Tokens of the language model: one for each block."""
        return len(self.rows) // 4


@dataclass(frozen=True)
class Preprocessor:
    """The settings of preprocessor_config.json. Limits differ between repositories, and so do vectors."""

    patch: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, settings: Mapping[str, Any], path: Path) -> Preprocessor:
        """Check a preprocessor_config.json, read from `path`. Raises CheckpointError."""
        for key, allowed in _ONLY.items():
            if settings.get(key) is not None and settings[key] not in allowed:
                raise CheckpointError(f"{path}: {key!r} is {settings[key]!r}; only {allowed[0]!r} is implemented")
        size = settings.get("size") or {}
        # transformers 4 reads the first, transformers 5 the second.
        low = settings.get("min_pixels") or size.get("shortest_edge")
        high = settings.get("max_pixels") or size.get("longest_edge")
        numbers = {"patch_size": settings.get("patch_size"), "min_pixels": low, "max_pixels": high}
        sizes = {key: value for key, value in numbers.items() if isinstance(value, int) and value > 0}
        for key in numbers.keys() - sizes.keys():
            raise CheckpointError(f"{path}: {key!r} should be a number of pixels, found {numbers[key]!r}")
        mean, std = (_colours(settings, key, path) for key in ("image_mean", "image_std"))
        if 0 in std:
            raise CheckpointError(f"{path}: 'image_std' is {std!r}, by which nothing is divided")
        patch, low, high = sizes.values()
        return cls(patch, low, high, mean, std)

    @property
    def facts(self) -> dict[str, Any]:
        """What shapes vectors of pictures, for a fingerprint."""
        return {**vars(self), "resize": "torch bicubic antialiased uint8"}

    def limited(self, max_pixels: int | None) -> Preprocessor:
        """The same with another upper limit; None is the file's. Raises InputError."""
        if max_pixels is None:
            return self
        if max_pixels < self.min_pixels:
            raise InputError(f"max_pixels={max_pixels} must be at least this model's smallest, {self.min_pixels}")
        return replace(self, max_pixels=max_pixels)

    def size(self, height: int, width: int, position: int | None = None) -> tuple[int, int]:
        """The size that a picture is resized to: whole blocks, within the limits. Raises PictureError."""
        check_ratio(height, width, position)
        factor = 2 * self.patch
        # Halves are rounded to even numbers, as Python's `round` does.
        new = round(height / factor) * factor, round(width / factor) * factor
        if new[0] * new[1] > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            new = (
                max(factor, math.floor(height / shrink / factor) * factor),
                max(factor, math.floor(width / shrink / factor) * factor),
            )
        elif new[0] * new[1] < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            new = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
        return new

    def picture(self, pixels: Pixels, position: int | None = None) -> Picture:
        """RGB (h, w, 3) as patches. Raises PictureError."""
        height, width = self.size(pixels.shape[0], pixels.shape[1], position)
        pixels = resize(pixels, height, width)
        scale, mean, std = (np.array(x, dtype=np.float32) for x in (255, self.mean, self.std))
        normalised = (pixels.astype(np.float32) / scale - mean) / std
        rows, columns, patch = height // self.patch, width // self.patch, self.patch
        blocks = normalised.reshape(rows // 2, 2, patch, columns // 2, 2, patch, 3)
        # A patch has its pixels by channel.
        flat = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3 * patch * patch)
        return Picture(np.ascontiguousarray(flat), (rows, columns))


def check_ratio(height: int, width: int, position: int | None = None) -> None:
    """Raise PictureError for a picture that is too narrow for any model."""
    if max(height, width) > MOST_RATIO * min(height, width):
        raise PictureError(
            f"is {width} x {height} pixels; one side is more than {MOST_RATIO} times the other",
            position=position,
        )


def _colours(settings: Mapping[str, Any], key: str, path: Path) -> tuple[float, ...]:
    """A number for each colour. Raises CheckpointError."""
    values = settings.get(key)
    if not isinstance(values, list) or len(values) != 3 or not all(type(x) in (int, float) for x in values):
        raise CheckpointError(f"{path}: {key!r} should be three numbers, found {values!r}")
    return tuple(map(float, values))
