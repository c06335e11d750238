"""Qwen3.5's vision tower, that of jina-embeddings-v5-omni: patches of pictures to features, one for 2 x 2 patches.

"jina-embeddings-v5-omni" (arXiv 2605.08384). Every block attends over the whole picture; patches have rotary
positions, and learned ones from a table that is stretched over the picture. Always in float32.

Axes: P patches of all pictures, N features, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_jina.errors import CheckpointError
from mlx_jina.models.config import expect, required
from mlx_jina.models.qwen2_5_vl_tower import MERGED, Grid, PatchEmbed, PreNorm, Windows
from mlx_jina.nn.activations import gelu, gelu_tanh
from mlx_jina.nn.pieces import evaluate_if_long

_EPS = 1e-6
_SIZES = ("depth", "hidden_size", "num_heads", "intermediate_size", "num_position_embeddings")
# So many patches that no window cuts a picture.
_WHOLE = 1 << 20
# What Qwen3.5's tower has where a `vision_config` of Jina's says nothing.
_DEFAULTS: Mapping[str, Any] = {
    "hidden_act": "gelu_pytorch_tanh",
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


@dataclass(frozen=True)
class Config:
    """The hyper-parameters that shape a feature; keys are those of config.json's `vision_config`."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    num_position_embeddings: int
    patch_size: int
    out_hidden_size: int

    @classmethod
    def read(cls, config: Mapping[str, Any], width: int) -> Config:
        """Check a `vision_config`, for a language model of this width. Raises CheckpointError."""
        config = {**_DEFAULTS, "out_hidden_size": width, **config}
        expect(config, "hidden_act", (_DEFAULTS["hidden_act"],))
        expect(config, "patch_size", (16,))
        expect(config, "spatial_merge_size", (2,))
        expect(config, "temporal_patch_size", (2,))
        expect(config, "out_hidden_size", (width,))
        expect(config, "deepstack_visual_indexes", ([], None))
        sizes = {name: required(config, name, int) for name in _SIZES}
        if sizes["hidden_size"] % (4 * sizes["num_heads"]):
            raise CheckpointError("config.json: the tower's heads should have a width that 4 divides")
        if math.isqrt(sizes["num_position_embeddings"]) ** 2 != sizes["num_position_embeddings"]:
            raise CheckpointError("config.json: 'num_position_embeddings' should be a square")
        return cls(**sizes, patch_size=config["patch_size"], out_hidden_size=width)


class MLP(nn.Module):
    """Two layers, with GELU by its tanh approximation."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.linear_fc2 = nn.Linear(c.intermediate_size, c.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_fc2(gelu_tanh(self.linear_fc1(x)))


class Block(PreNorm):
    """LayerNorm and GELU."""

    def __init__(self, c: Config) -> None:
        super().__init__(c.hidden_size, c.num_heads)
        self.norm1 = nn.LayerNorm(c.hidden_size, _EPS)
        self.norm2 = nn.LayerNorm(c.hidden_size, _EPS)
        self.mlp = MLP(c)


class Merger(nn.Module):
    """Four neighbouring patches to one feature."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        width = MERGED * c.hidden_size
        self.norm = nn.LayerNorm(c.hidden_size, _EPS)
        self.linear_fc1 = nn.Linear(width, width)
        self.linear_fc2 = nn.Linear(width, c.out_hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        joined = self.norm(x).reshape(x.shape[0] // MERGED, -1)
        return self.linear_fc2(gelu(self.linear_fc1(joined)))


class Qwen35Tower(nn.Module):
    """The tower with its merger; parameters carry the checkpoint's names without the tower's own."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(c.hidden_size, c.patch_size, bias=True)
        self.pos_embed = nn.Embedding(c.num_position_embeddings, c.hidden_size)
        self.blocks = [Block(c) for _ in range(c.depth)]
        self.merger = Merger(c)
        self.config = c

    def __call__(self, patches: mx.array, grids: Sequence[Grid]) -> mx.array:
        """Features of pictures one after the other: patches (P, 3 * patch * patch) to (P / 4, D)."""
        windows = Windows(tuple(grids), _WHOLE)
        rotations = windows.rotations(self.config.hidden_size // self.config.num_heads)
        x = self.patch_embed.proj(patches[windows.rows]) + self._learned(windows)
        for block in self.blocks:
            x = evaluate_if_long(block.windowed(x, rotations, windows))
        return self.merger(x)[windows.features_of_pictures]

    def _learned(self, windows: Windows) -> mx.array:
        """The learned position of each patch (P, D), between four of a table with the picture's corners."""
        side = math.isqrt(self.config.num_position_embeddings)
        picture, row, column = windows.places[windows.order].T
        last = np.array(windows.grids)[picture] - 1
        # The one row of a flat picture lies at the table's first.
        y, x = (place * (side - 1) / np.maximum(last[:, i], 1) for i, place in enumerate((row, column)))
        top, left = y.astype(np.intp), x.astype(np.intp)
        bottom, right = np.minimum(top + 1, side - 1), np.minimum(left + 1, side - 1)
        down, over = y - top, x - left
        corners = np.stack([top * side + left, top * side + right, bottom * side + left, bottom * side + right], 1)
        shares = np.stack([(1 - down) * (1 - over), (1 - down) * over, down * (1 - over), down * over], 1)
        return (self.pos_embed(mx.array(corners)) * mx.array(shares.astype(np.float32))[..., None]).sum(axis=1)
