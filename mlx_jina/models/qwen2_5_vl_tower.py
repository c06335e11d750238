"""Qwen2.5-VL's vision tower: patches of pictures to features, one for each 2 x 2 patches.

Bai et al. 2025, "Qwen2.5-VL Technical Report" (arXiv 2502.13923), section 2.1.1: most blocks attend within
windows, a few over the whole picture. Always in float32: bfloat16 moves single features by a cosine of up to 0.2.

Axes: P patches of all pictures, N features, D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_jina.errors import CheckpointError
from mlx_jina.models.config import expect, required
from mlx_jina.nn import attention
from mlx_jina.nn.activations import gelu, swiglu
from mlx_jina.nn.attention import split_heads
from mlx_jina.nn.pieces import evaluate_if_long, tokenwise
from mlx_jina.nn.ragged import Ragged, neighbours
from mlx_jina.nn.rotary import Rotations, of_angles, rotate

# Patches of a block, which become one feature.
MERGED = 4
_EPS = 1e-6
_THETA = 10_000.0
_SIZES = "depth hidden_size num_heads intermediate_size out_hidden_size patch_size window_size".split()
# What the tower's code takes where config.json says nothing.
_DEFAULTS: Mapping[str, Any] = {"hidden_act": "silu"}


@dataclass(frozen=True)
class Config:
    """The hyper-parameters that shape a feature; keys are those of config.json's `vision_config`."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    out_hidden_size: int
    patch_size: int
    window_size: int
    full_attention: frozenset[int]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """Check a `vision_config`. Raises CheckpointError."""
        config = {**_DEFAULTS, **config}
        expect(config, "hidden_act", ("silu",))
        expect(config, "spatial_merge_size", (2,))
        expect(config, "temporal_patch_size", (2,))
        expect(config, "in_channels" if "in_channels" in config else "in_chans", (3, None))
        sizes = {name: required(config, name, int) for name in _SIZES}
        full = config.get("fullatt_block_indexes")
        if not isinstance(full, list) or not all(type(i) is int and 0 <= i < sizes["depth"] for i in full):
            raise CheckpointError(
                f"config.json: 'fullatt_block_indexes' should be numbers of blocks, found {full!r}"
            )
        if sizes["hidden_size"] % (4 * sizes["num_heads"]):
            raise CheckpointError("config.json: the tower's heads should have a width that 4 divides")
        if sizes["window_size"] % (2 * sizes["patch_size"]):
            raise CheckpointError("config.json: 'window_size' should be a number of blocks of 2 x 2 patches")
        return cls(**sizes, full_attention=frozenset(full))


Grid = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """Where the patches of some pictures lie: sorted by window, windows of one size side by side."""

    grids: tuple[Grid, ...]
    side: int
    """Patches along a window's side."""

    @cached_property
    def places(self) -> npt.NDArray[np.intp]:
        """Picture, row and column of each patch as pictures have them, in blocks: (P, 3)."""
        return np.concatenate([_places(i, *grid) for i, grid in enumerate(self.grids)])

    @cached_property
    def _groups(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """For each patch the number of its window, and how many patches that window has."""
        windows = self.places // np.array([1, self.side, self.side])
        _, own, counts = np.unique(windows, axis=0, return_inverse=True, return_counts=True)
        own = own.reshape(-1)
        return own, counts[own]

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """The patch at each row (P,). The four of a block stay neighbours, since no window cuts a block."""
        own, sizes = self._groups
        return np.lexsort((own, -sizes))

    @cached_property
    def by_window(self) -> Ragged:
        """The windows as texts."""
        # Largest first, as `order` has them.
        sizes, counts = np.unique(self._groups[1], return_counts=True)
        return Ragged(neighbours(np.repeat(sizes, counts // sizes)[::-1].tolist()))

    @cached_property
    def by_picture(self) -> Ragged:
        """Whole pictures as texts, in the order of pictures."""
        return Ragged(neighbours(rows * columns for rows, columns in self.grids))

    @cached_property
    def rows(self) -> mx.array:
        """`order`, to index with: (P,)."""
        return mx.array(self.order)

    @cached_property
    def rows_of_pictures(self) -> mx.array:
        """The row of each patch as pictures have them, which undoes `order`: (P,)."""
        return mx.array(np.argsort(self.order))

    @cached_property
    def features_of_pictures(self) -> mx.array:
        """The same of blocks, each of which has become a feature: (P / 4,)."""
        return mx.array(np.argsort(self.order[::MERGED] // MERGED))

    def rotations(self, width: int) -> Rotations:
        """How heads of `width` are turned: half of the angles by the row, half by the column."""
        frequencies = _THETA ** (-np.arange(width // 4, dtype=np.float64) / (width // 4))
        angles = self.places[self.order, 1:, None] * frequencies
        return of_angles(angles.reshape(len(angles), width // 2))


def _places(picture: int, rows: int, columns: int) -> npt.NDArray[np.intp]:
    row, column = np.divmod(np.arange(rows * columns), columns)
    blocks = np.stack([np.full_like(row, picture), row, column], axis=1).reshape(rows // 2, 2, columns // 2, 2, 3)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 3)


class Attention(nn.Module):
    """Queries, keys and values of one matrix, with rotary positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)


class MLP(nn.Module):
    """SwiGLU, with biases."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class PreNorm(nn.Module):
    """A block of a tower, whose norms and feed-forward are the subclass's."""

    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.num_heads = heads

    def windowed(self, x: mx.array, rotations: Rotations, windows: Windows) -> mx.array:
        """Attention within windows: (P, D) to (P, D)."""
        q, k, v = self._project(x, *rotations)
        return self._finish(x, attention.ragged(attention.bidirectional, q, k, v, windows.by_window))

    def full(self, x: mx.array, rotations: Rotations, windows: Windows) -> mx.array:
        """Attention over each picture: (P, D) to (P, D)."""
        q, k, v = (part[windows.rows_of_pictures] for part in self._project(x, *rotations))
        attended = attention.ragged(attention.bidirectional, q, k, v, windows.by_picture)
        return self._finish(x, attended[windows.rows])

    @tokenwise
    def _project(self, x: mx.array, *rotations: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        parts = mx.split(self.attn.qkv(self.norm1(x)), 3, axis=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        return rotate(q, *rotations), rotate(k, *rotations), v

    @tokenwise
    def _finish(self, x: mx.array, attended: mx.array) -> mx.array:
        x = x + self.attn.proj(attended)
        return x + self.mlp(self.norm2(x))


class Block(PreNorm):
    """RMSNorm and SwiGLU."""

    def __init__(self, c: Config) -> None:
        super().__init__(c.hidden_size, c.num_heads)
        self.norm1 = nn.RMSNorm(c.hidden_size, _EPS)
        self.norm2 = nn.RMSNorm(c.hidden_size, _EPS)
        self.mlp = MLP(c)


class PatchEmbed(nn.Module):
    """One matrix for both frames of a patch, which in a picture are the same: their weights are added up."""

    def __init__(self, width: int, patch: int, *, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(3 * patch**2, width, bias=bias)

    @staticmethod
    def folded(weight: mx.array) -> mx.array:
        """The weight of a convolution over two frames, (D, 3, 2, patch, patch), for patches of one frame.

        MLX's layout has channels last.
        """
        weight = weight.astype(mx.float32)
        if weight.shape[-1] == 3:
            weight = weight.transpose(0, 4, 1, 2, 3)
        return (weight[:, :, 0] + weight[:, :, 1]).reshape(weight.shape[0], -1)


class Merger(nn.Module):
    """Four neighbouring patches to one feature."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.ln_q = nn.RMSNorm(c.hidden_size, _EPS)
        width = MERGED * c.hidden_size
        # The activation between the two has no weights, but a number in the checkpoint's names.
        self.mlp = [nn.Linear(width, width), nn.Identity(), nn.Linear(width, c.out_hidden_size)]

    def __call__(self, x: mx.array) -> mx.array:
        first, _, second = self.mlp
        return second(gelu(first(self.ln_q(x).reshape(x.shape[0] // MERGED, -1))))


class VisionTower(nn.Module):
    """The tower; parameters carry the checkpoint's names without `visual.`."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(c.hidden_size, c.patch_size, bias=False)
        self.blocks = [Block(c) for _ in range(c.depth)]
        self.merger = Merger(c)
        self.config = c

    def __call__(self, patches: mx.array, grids: Sequence[Grid]) -> mx.array:
        """Features of pictures one after the other: patches (P, 3 * patch * patch) to (P / 4, D)."""
        c = self.config
        windows = Windows(tuple(grids), c.window_size // c.patch_size)
        rotations = windows.rotations(c.hidden_size // c.num_heads)
        x = self.patch_embed.proj(patches[windows.rows])
        for number, block in enumerate(self.blocks):
            attend = block.full if number in c.full_attention else block.windowed
            x = evaluate_if_long(attend(x, rotations, windows))
        return self.merger(x)[windows.features_of_pictures]
