"""The names that options take: Literals for type checkers, tuples for parsers and messages. Imports no library."""

from __future__ import annotations

from typing import Literal, get_args

Dtype = Literal["float32", "float16", "bfloat16"]
"""What a model computes in, and what a folder stores."""
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
"""What a vector is stored in."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

ChunkKind = Literal["paragraph", "sentence", "fixed"]
"""Where a document may be cut."""
CHUNK_KINDS: tuple[ChunkKind, ...] = get_args(ChunkKind)

Output = Literal["vectors", "tokens"]
"""One vector for a text, or one for each of its tokens."""
OUTPUTS: tuple[Output, ...] = get_args(Output)

Activation = Literal["default", "none"]
"""Whether a reranker's logits become probabilities."""
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

GGUFType = Literal[
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "IQ3_M",
    "IQ3_S",
    "Q2_K",
]
"""Types that a .gguf can be written in; reading knows more types."""
GGUF_TYPES: tuple[GGUFType, ...] = get_args(GGUFType)

Bits = Literal[2, 3, 4, 5, 6, 8]
"""Of a weight in a quantised MLX folder."""
BITS: tuple[Bits, ...] = get_args(Bits)

GroupSize = Literal[16, 32, 64, 128]
"""How many weights of a quantised MLX folder share a scale. MLX has 16 only in mode nvfp4."""
GROUP_SIZES: tuple[GroupSize, ...] = get_args(GroupSize)

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
"""How MLX packs weights: integers with a scale and a bias, or small floats with a scale."""
MODES: tuple[Mode, ...] = get_args(Mode)

Recipe = Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"]
"""mlx-lm's mixtures of two widths for a decoder: the higher for the layers that lose most."""
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
