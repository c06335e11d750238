"""Which type each tensor of a .gguf gets: as llama-quantize chooses without a calibration file."""

from __future__ import annotations

import re

from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from mlx_jina.weights.gguf_file import nbytes

# Names of file types as llama-quantize has them, each with the type of most matrices.
FILE_TYPES = {
    "F32": Type.F32,
    "F16": Type.F16,
    "BF16": Type.BF16,
    "Q8_0": Type.Q8_0,
    "Q6_K": Type.Q6_K,
    "Q5_K_M": Type.Q5_K,
    "Q5_K_S": Type.Q5_K,
    "Q5_1": Type.Q5_1,
    "Q5_0": Type.Q5_0,
    "Q4_K_M": Type.Q4_K,
    "Q4_K_S": Type.Q4_K,
    "Q4_1": Type.Q4_1,
    "Q4_0": Type.Q4_0,
}
# For rows that are not whole blocks.
_INSTEAD = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}


def number(file_type: str) -> int:
    """`general.file_type`."""
    return int(LlamaFileType["ALL_F32" if file_type == "F32" else f"MOSTLY_{file_type}"])


def _more_bits(layer: int, layers: int) -> bool:
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _mixed(name: str, file_type: str, layers: int) -> Type:
    kind = FILE_TYPES[file_type]
    if name == "token_embd.weight":
        return kind if kind in (Type.F32, Type.F16, Type.BF16, Type.Q8_0) else Type.Q6_K
    match = re.fullmatch(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight", name)
    if match is None:
        return kind
    layer = int(match[1])
    if file_type in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, layers):
        return Type.Q6_K
    early = 4 if match[2] == "attn_v" else layers // 8
    return Type.Q5_K if file_type == "Q4_K_S" and layer < early else kind


def choose(name: str, shape: tuple[int, ...], file_type: str, layers: int) -> Type:
    """A tensor's type in a file of `file_type`. Vectors, norms and token types stay in F32."""
    if len(shape) < 2 or name.endswith("_norm.weight") or name == "token_types.weight":
        return Type.F32
    kind = _mixed(name, file_type, layers)
    if nbytes(kind, shape) is None:
        kind = _INSTEAD.get(kind, kind)
    return kind if nbytes(kind, shape) is not None else Type.F16
