"""What a model takes of its device's memory: weights, a batch, and MLX's cache of freed buffers.

On a GPU the output of an operation lives until what was queued with its last reader has run, and MLX lets eleven
such parts of a graph wait (`MAX_ACTIVE_TASKS` in mlx/transforms.cpp). On Metal a part is a command buffer, which
ends after 40 or 50 MB (mlx/backend/metal/device.cpp), so that an operation of a full batch has one to itself. On
CUDA a part is a CUDA graph of up to 100 operations or 1000 million numbers (mlx/backend/cuda/device.cpp), so that
all layers of a forward pass may be queued before the first has run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_jina import catalog, device, process
from mlx_jina.errors import ModelTooLargeError
from mlx_jina.models.base import EncoderModel
from mlx_jina.weights.checkpoint import Checkpoint

# Outputs of a model's widest layer that live at once, at most. On Metal: eleven that are queued, and those still
# to be read. On CUDA for each layer: of texts of one length 11 were measured on an H200; padding adds up to 3.
OUTPUTS = 16
OUTPUTS_PER_LAYER = 14
# A batch of fewer tokens would be slow.
FEWEST_TOKENS = 1024


@dataclass(frozen=True)
class Budget:
    """Bytes."""

    memory: int
    """What the device has for models, less what is in use already."""
    weights: int
    token: int
    """Of a batch, for each of its tokens."""
    cache: int

    @property
    def fits(self) -> bool:
        """Whether the weights leave room for the smallest batch."""
        return self.weights + self.cache + FEWEST_TOKENS * self.token <= self.memory

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch: what keeps the device busy, in half of the memory that the weights leave."""
        room = (self.memory - self.weights - self.cache) // 2 // self.token
        return max(FEWEST_TOKENS, min(device.default_batch_tokens(), room // FEWEST_TOKENS * FEWEST_TOKENS))


def of(model: EncoderModel, files: Checkpoint, dtype: mx.Dtype, *, packed: bool, fuse: bool) -> Budget:
    """The budget of a model that is not read yet, of `packed` weights or not. Raises ModelTooLargeError."""
    stays_packed = packed and device.on_gpu()
    arrays = files.tensors.values() if stays_packed else dict(tree_flatten(model.parameters())).values()
    adapters = () if fuse and not stays_packed else files.adapters.values()
    halves = [half for adapter in adapters for pair in adapter.pairs.values() for half in (pair.a, pair.b)]
    budget = Budget(
        memory=max(0, device.memory() - mx.get_active_memory()),
        weights=sum(_bytes(x, dtype) for x in (*arrays, *halves)),
        token=token_bytes(model, dtype),
        cache=process.cache_bytes(),
    )
    if not budget.fits:
        raise _too_large(files, budget, dtype, packed=stays_packed)
    return budget


def token_bytes(model: EncoderModel, dtype: mx.Dtype) -> int:
    """Bytes that a token of a batch takes at most while the batch is computed."""
    outputs = max(OUTPUTS, OUTPUTS_PER_LAYER * _layers(model)) if device.backend() == "cuda" else OUTPUTS
    return outputs * dtype.size * _widest(model)


def _layers(model: EncoderModel) -> int:
    numbers = re.findall(r"\blayers?\.(\d+)\.", " ".join(dict(tree_flatten(model.parameters()))))
    return 1 + max(map(int, numbers), default=0)


def _bytes(x: mx.array, dtype: mx.Dtype) -> int:
    return x.size * dtype.size if mx.issubdtype(x.dtype, mx.floating) else x.nbytes


def _widest(model: EncoderModel) -> int:
    rows: list[int] = [module.weight.shape[0] for module in model.modules() if isinstance(module, nn.Linear)]
    return max(rows, default=model.dimension)


def _too_large(files: Checkpoint, budget: Budget, dtype: mx.Dtype, *, packed: bool) -> ModelTooLargeError:
    name = str(dtype).removeprefix("mlx.core.")
    batch = FEWEST_TOKENS * budget.token + budget.cache
    would_fit = "; ".join(_would_fit(files, budget, dtype, packed=packed))
    return ModelTooLargeError(
        f"{files.path} takes {_gigabytes(budget.weights)} for its weights{'' if packed else f' in {name}'} and "
        f"{_gigabytes(batch)} to compute, and {_gigabytes(budget.memory)} of memory are free for models here"
        + (f". What would fit: {would_fit}" if would_fit else "")
    )


def _would_fit(files: Checkpoint, budget: Budget, dtype: mx.Dtype, *, packed: bool) -> Iterator[str]:
    on_gpu = device.on_gpu()
    numbers = budget.weights // dtype.size
    if on_gpu and not packed:
        if dtype == mx.float32 and _fits(budget, numbers * 2):
            yield "dtype='bfloat16'"
        for bits in (8, 4):
            # A scale and an offset in half precision for each group of 64.
            if _fits(budget, int(numbers * (bits + 0.5) / 8)):
                yield f"{bits} bits, by `mlx-jina convert to-mlx {files.path} FOLDER --bits {bits}`"
                break
    half = 2 if on_gpu else 4
    by_size = sorted(catalog.main_entries(), key=lambda entry: -entry.parameters)
    # Of those with the same text model, the one without towers: the last one of a key is the smallest.
    models = {(e.architecture, e.dimension, e.max_length): e for e in by_size}.values()
    smaller = [e for e in models if e.parameters * half < budget.weights and _fits(budget, e.parameters * half)]
    smaller.sort(key=lambda entry: -entry.parameters)
    if smaller:
        yield "a smaller model, such as " + " or ".join(catalog.short_name(entry) for entry in smaller[:2])


def _fits(budget: Budget, weights: int) -> bool:
    return Budget(budget.memory, weights, budget.token, budget.cache).fits


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
