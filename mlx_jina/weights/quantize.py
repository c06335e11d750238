"""MLX's quantised layers: `X.weight` packed in uint32, beside `X.scales` and, in the affine mode, `X.biases`.

Modes, bits and group sizes are those of the MLX that is installed: MLX itself is asked, since its releases differ.
config.json says how layers are packed in the form of mlx-lm (mlx_lm/utils.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.choices import MODES
from mlx_jina.errors import CheckpointError, shown
from mlx_jina.models.config import required
from mlx_jina.nn.quantized import QuantizedEmbedding

# config.json says under these names how layers are packed. mlx-lm writes both; the first is read.
BLOCKS = ("quantization", "quantization_config")
# The parts of a packed layer's weight. Only the affine mode has biases.
PARTS = ("weight", "scales", "biases")
AFFINE = "affine"
# Tensors are packed and unpacked in pieces of so many numbers, because MLX's steps on a CPU take many times the
# memory of the result.
PIECE = 1 << 20
# No layer's group is larger; a guard for MLX, which divides by the size that a file names.
_LARGEST_GROUP = 1 << 16
# Settings of mlx-lm that change what a layer computes.
_OTHER_LAYERS = ("quantize_activations", "quantize_input", "global_scale")
# Whose tensors have these endings.
_OTHER_QUANTIZERS = {
    ".qweight": "AWQ or GPTQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "compressed-tensors or ModelOpt",
    ".weight_scale_inv": "DeepSeek's FP8",
    ".weight.absmax": "bitsandbytes",
}


class Packing(NamedTuple):
    """How the weight of a layer is packed; the names are those of MLX's functions and of config.json."""

    group_size: int
    bits: int
    mode: str = AFFINE

    def __str__(self) -> str:
        return f"mode {self.mode}, {self.bits} bits, group size {self.group_size}"

    def layout(self, columns: int, dtype: mx.Dtype = mx.float32) -> dict[str, tuple[int, mx.Dtype]]:
        """Columns and dtype of each part, for rows of so many numbers. Raises ValueError where they do not divide.

        The affine mode has scales and biases in `dtype`.
        """
        parts = mx.quantize(mx.zeros((1, columns), dtype), **self._asdict())
        return {name: (part.shape[1], part.dtype) for name, part in zip(PARTS, parts, strict=False)}


Packings = Mapping[str, Packing]
"""By the layer's name."""


@cache
def packing_of(mode: str, bits: int | None = None, group_size: int | None = None) -> Packing:
    """A packing; what is left out follows from the mode. Raises ValueError, which says what MLX has instead."""
    if group_size is not None and not 0 < group_size <= _LARGEST_GROUP:
        raise ValueError(f"The group size {group_size} is not supported.")
    columns = 32 * (group_size or 32)
    try:
        weight, scales, *_ = mx.quantize(mx.zeros((1, columns)), group_size, bits, mode)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("[quantize] ")) from None
    # Of numbers beyond 64 bits.
    except TypeError:
        raise ValueError(f"{bits} bits are not supported.") from None
    return Packing(columns // scales.shape[1], weight.shape[1] * 32 // columns, mode)


def normalized(
    config: Mapping[str, Any], tensors: Collection[str], rename: Callable[[str], str]
) -> dict[str, Any]:
    """config.json with its block under MLX's first name, where `rename` makes our names of the layers'.

    Raises CheckpointError for weights that another program has quantised in a way of its own.
    """
    block = config.get(BLOCKS[0], config.get(BLOCKS[1]))
    method = block.get("quant_method") if isinstance(block, Mapping) else None
    if method in MODES:
        # As mlx-lm takes it.
        block = {"mode": method}
    else:
        _refuse_other_quantizers(method, tensors)
    if config.get("quantize_activations"):
        raise _not_implemented("quantize_activations")
    if not isinstance(block, Mapping):
        return dict(config)
    return {**config, BLOCKS[0]: {rename(key): value for key, value in block.items()}}


def _refuse_other_quantizers(method: Any, tensors: Collection[str]) -> None:
    for name in tensors:
        ending = next((ending for ending in _OTHER_QUANTIZERS if name.endswith(ending)), None)
        if ending is not None:
            method = method or f"{_OTHER_QUANTIZERS[ending]} ({name})"
    if method is not None:
        raise CheckpointError(
            f"the weights are quantised by {method}, which is not implemented; take the model's full weights, of "
            "which `mlx-jina convert to-mlx --bits` makes quantised ones"
        )


def _not_implemented(setting: str) -> CheckpointError:
    return CheckpointError(
        f"config.json: {setting!r} is set, which is not implemented: only weights are quantised"
    )


def block(packings: Packings) -> dict[str, Any]:
    """The `quantization` block for layers packed like this: the most frequent packing, and the other layers."""
    kinds = list(packings.values())
    common = max(sorted(set(kinds)), key=kinds.count)
    other = {layer: _entry(kind) for layer, kind in packings.items() if kind != common}
    return {**_entry(common), **other}


def _entry(packing: Packing) -> dict[str, Any]:
    entry = packing._asdict()
    if packing.mode == AFFINE:
        # What older programs take for granted.
        del entry["mode"]
    return entry


def describe(packings: Packings) -> list[str]:
    """A line for each packing that layers have, most frequent first: what a person wants to know of a model."""
    counts = Counter(packings.values())
    return [f"{packing} ({count} layers)" for packing, count in counts.most_common()]


def layers(tensors: Collection[str]) -> list[str]:
    """Names of the layers that are packed, given those of all tensors."""
    return [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]


def packings(
    config: Mapping[str, Any], tensors: Mapping[str, mx.array], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Packing]:
    """How each packed layer is packed, given the unpacked shapes of the model's layers.

    Raises CheckpointError where config.json does not say so, where MLX has no such packing, and where a layer's
    parts are others.
    """
    return {layer: _packing(config, layer, tensors, shapes.get(layer)) for layer in layers(tensors)}


def _packing(
    config: Mapping[str, Any], layer: str, tensors: Mapping[str, mx.array], shape: tuple[int, ...] | None
) -> Packing:
    common = config.get(BLOCKS[0])
    if not isinstance(common, Mapping):
        raise CheckpointError(
            f"config.json: 'quantization' should say how {layer} is packed, found {shown(common)}"
        )
    scales = tensors[f"{layer}.scales"]
    if scales.ndim != 2:
        raise CheckpointError(f"{layer}.scales has shape {scales.shape}, which is no matrix")
    special = common.get(layer)
    if not isinstance(special, (Mapping, bool, type(None))):
        raise CheckpointError(
            f"config.json: 'quantization' should say how {layer} is packed, found {shown(special)}"
        )
    wanted = _read(special if isinstance(special, Mapping) else common, layer)
    if special is False:
        raise CheckpointError(f"config.json: 'quantization' says that {layer} is not packed, but it has scales")
    columns = scales.shape[1] * wanted.group_size if shape is None else shape[1]
    misfit = _misfit(wanted, layer, tensors, columns)
    if misfit is None:
        return wanted
    if not isinstance(special, Mapping) and shape is not None:
        # As mlx-lm does: the block's common values need not be those of a layer that it does not name.
        inferred = _inferred(layer, tensors, columns)
        if inferred is not None and _misfit(inferred, layer, tensors, columns) is None:
            return inferred
    raise CheckpointError(
        f"{layer} is quantised, but {misfit}; config.json says {wanted}. The files are incomplete or not of one "
        "model"
    )


def _read(settings: Mapping[str, Any], layer: str) -> Packing:
    """One entry of the block, checked by MLX."""
    for setting in _OTHER_LAYERS:
        if settings.get(setting):
            raise _not_implemented(setting)
    try:
        mode = required({"mode": AFFINE, **settings}, "mode", str)
        # Of the other modes, bits and group size follow.
        names = [name for name in ("bits", "group_size") if mode == AFFINE or name in settings]
        sizes = {name: required(settings, name, int) for name in names}
    except CheckpointError as error:
        raise CheckpointError(f"{error}, where 'quantization' says how {layer} is packed") from None
    try:
        return packing_of(mode, **sizes)
    except ValueError as error:
        raise CheckpointError(
            f"config.json: how 'quantization' packs {layer} is not implemented in MLX {version('mlx')}: {error}"
        ) from None


def _misfit(packing: Packing, layer: str, tensors: Mapping[str, mx.array], columns: int) -> str | None:
    """What is wrong with the parts of a layer with so many columns, in words."""
    try:
        layout = packing.layout(columns)
    except ValueError:
        return f"its {columns} columns are no groups of {packing.group_size}"
    rows = tensors[f"{layer}.scales"].shape[0]
    for part in PARTS:
        name = f"{layer}.{part}"
        tensor = tensors.get(name)
        if part not in layout:
            if tensor is not None:
                return f"there is {name}, which mode {packing.mode} does not have"
        elif tensor is None:
            return f"there is no {name}"
        elif tensor.shape != (rows, layout[part][0]):
            return f"{name} has shape {tensor.shape}, not {(rows, layout[part][0])}"
        elif not _is_of(tensor.dtype, layout[part][1]):
            return f"{name} is {_name(tensor.dtype)}, not {_name(layout[part][1])}"
    return None


def _is_of(dtype: mx.Dtype, wanted: mx.Dtype) -> bool:
    """Whether a tensor has this dtype; any floating one is as good as another."""
    floating = mx.issubdtype(wanted, mx.floating)
    return bool(mx.issubdtype(dtype, mx.floating)) if floating else dtype == wanted


def _name(dtype: mx.Dtype) -> str:
    return "floating" if mx.issubdtype(dtype, mx.floating) else str(dtype).removeprefix("mlx.core.")


def _inferred(layer: str, tensors: Mapping[str, mx.array], columns: int) -> Packing | None:
    """What the shapes of a layer's parts and its scales' dtype say, as mlx-lm reads them."""
    weight, scales = (tensors.get(f"{layer}.{part}") for part in PARTS[:2])
    if weight is None or scales is None or not scales.shape[-1]:
        return None
    group_size, bits = columns // scales.shape[-1], weight.shape[-1] * 32 // columns
    for mode in MODES:
        # Only the affine mode keeps its scales in a floating dtype.
        if (mode == AFFINE) == (scales.dtype != mx.uint8):
            try:
                return packing_of(mode, bits, group_size)
            except ValueError:
                continue
    return None


def unpack(parts: Sequence[mx.array], packing: Packing) -> mx.array:
    """The full weight of a layer's parts, in float32."""
    weight, *others = parts
    # Affine scales decide in which dtype MLX computes.
    scales, *biases = (part.astype(mx.float32) if packing.mode == AFFINE else part for part in others)
    return mx.dequantize(weight, scales, biases[0] if biases else None, **packing._asdict(), dtype=mx.float32)


def pack(weight: mx.array, packing: Packing, dtype: mx.Dtype) -> list[mx.array]:
    """The parts of a full weight (rows, columns), evaluated some rows at a time; affine scales are in `dtype`."""
    # Other modes' scales have a dtype of their own, and are the better for numbers that were not rounded before.
    exact = dtype if packing.mode == AFFINE else mx.float32
    pieces = []
    for rows in _pieces(*weight.shape):
        pieces.append(mx.quantize(weight[rows].astype(exact), **packing._asdict()))
        mx.eval(pieces[-1])
    return [_together(column) for column in zip(*pieces, strict=True)]


def dequantize(tensors: Mapping[str, mx.array], packings: Packings, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Full weights in `dtype`, computed in float32: for CPUs, where quantised matmul is a plain loop."""
    full = dict(tensors)
    for layer, kind in packings.items():
        names = [name for part in PARTS if (name := f"{layer}.{part}") in tensors]
        full[f"{layer}.weight"] = _unpacked([full.pop(name) for name in names], kind, dtype)
    return full


def _unpacked(parts: Sequence[mx.array], packing: Packing, dtype: mx.Dtype) -> mx.array:
    """The full weight, evaluated some rows at a time."""
    rows, groups = parts[1].shape
    pieces = []
    for piece in _pieces(rows, groups * packing.group_size):
        pieces.append(unpack([part[piece] for part in parts], packing).astype(dtype))
        mx.eval(pieces[-1])
    return _together(pieces)


def _pieces(rows: int, columns: int) -> list[slice]:
    step = max(1, PIECE // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]


def _together(pieces: Sequence[mx.array]) -> mx.array:
    full = pieces[0] if len(pieces) == 1 else mx.concatenate(list(pieces))
    mx.eval(full)
    return full


def quantize_model(model: nn.Module, packings: Packings, dtype: mx.Dtype) -> None:
    """Swap the layers that are packed for MLX's quantised ones, in a model that computes in `dtype`."""
    nn.quantize(model, class_predicate=lambda path, _: packings[path]._asdict() if path in packings else False)
    QuantizedEmbedding.adapt(model, dtype)
