"""Which type each tensor of a .gguf gets: as llama-quantize chooses without a calibration file."""

from __future__ import annotations

import re
from typing import cast

from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from mlx_jina.choices import GGUFType
from mlx_jina.errors import InputError
from mlx_jina.weights.gguf.file import nbytes

# Names of file types as llama-quantize has them, each with the type of most matrices.
FILE_TYPES: dict[str, Type] = {
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
    "IQ4_NL": Type.IQ4_NL,
    "IQ4_XS": Type.IQ4_XS,
    "Q3_K_L": Type.Q3_K,
    "Q3_K_M": Type.Q3_K,
    "Q3_K_S": Type.Q3_K,
    "IQ3_M": Type.IQ3_S,
    "IQ3_S": Type.IQ3_S,
    "Q2_K": Type.Q2_K,
}
# Types that llama-quantize refuses as well, unless it gets weights of importance that were measured on texts.
_CALIBRATED = re.compile(r"IQ1_[SM]|IQ2_(XXS|XS|S|M)|IQ3_(XXS|XS)|Q2_K_S")
# The type of a tensor whose rows are not whole blocks of the type that it should have.
_INSTEAD = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.IQ3_S: Type.IQ4_NL,
    Type.IQ4_XS: Type.IQ4_NL,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}


def check(file_type: str) -> GGUFType:
    """The name of a type in capitals. Raises InputError for a name that is not a type to write."""
    kind = file_type.upper()
    if kind in FILE_TYPES:
        return cast(GGUFType, kind)
    if _CALIBRATED.fullmatch(kind):
        raise InputError(
            f"type {kind} needs an importance matrix, which llama.cpp's llama-imatrix measures on texts; write "
            "F16 and quantise it with llama-quantize --imatrix"
        )
    raise InputError(f"type {kind!r} is not one of {', '.join(FILE_TYPES)}")


def number(file_type: str) -> int:
    """The value of `general.file_type`."""
    return int(LlamaFileType["ALL_F32" if file_type == "F32" else f"MOSTLY_{file_type}"])


def _more_bits(layer: int, layers: int) -> bool:
    """Whether the M types spare this layer: the first and the last eighth, and of the others every third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _mixed(name: str, file_type: str, layers: int, heads_per_kv: int) -> Type:
    kind = FILE_TYPES[file_type]
    if name == "token_embd.weight":
        return kind if kind in (Type.F32, Type.F16, Type.BF16, Type.Q8_0) else Type.Q6_K
    place = re.fullmatch(r"blk\.(\d+)\.(attn_v|attn_output|ffn_down)\.weight", name)
    if place is None:
        return kind
    # Many heads read the few values.
    layer, few = int(place[1]), heads_per_kv >= 4
    early = layer < layers // 8
    # As llama_tensor_get_type_impl in llama.cpp's llama-quant.cpp, for models without experts.
    match file_type, place[2]:
        case "Q2_K", part:
            return Type.Q4_K if part == "attn_v" and few else Type.Q3_K
        case "Q3_K_M", "attn_v":
            return Type.Q5_K if layer < 2 else Type.Q4_K
        case "Q3_K_M", "ffn_down":
            return Type.Q5_K if layer < layers // 16 else Type.Q4_K
        case "Q3_K_M", "attn_output":
            return Type.Q4_K
        case "Q3_K_L", _:
            return Type.Q5_K
        case "Q4_K_M" | "Q5_K_M", "attn_v" | "ffn_down" if _more_bits(layer, layers):
            return Type.Q6_K
        case "Q4_K_S", "attn_v" if layer < 4:
            return Type.Q5_K
        case "Q4_K_S" | "IQ4_NL" | "IQ4_XS", "ffn_down" if early:
            return Type.Q5_K
        case "IQ4_NL" | "IQ4_XS", "attn_v" if few:
            return Type.Q5_K
        case "IQ3_M", "attn_v" | "attn_output":
            return Type.Q4_K
        case "IQ3_M", "ffn_down" if early:
            return Type.Q4_K
        case "IQ3_S", "attn_v" if few:
            return Type.Q4_K
    return kind


def choose(name: str, shape: tuple[int, ...], file_type: str, layers: int, heads_per_kv: int = 1) -> Type:
    """A tensor's type in a file of `file_type`. Vectors, norms, token types and heads stay in F32."""
    if len(shape) < 2 or name.endswith("_norm.weight") or name == "token_types.weight" or name.startswith("cls."):
        return Type.F32
    kind = _mixed(name, file_type, layers, heads_per_kv)
    if nbytes(kind, shape) is None:
        kind = _INSTEAD.get(kind, kind)
    return kind if nbytes(kind, shape) is not None else Type.F16
