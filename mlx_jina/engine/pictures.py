"""Vectors of pictures: decoded ahead, seen by the tower, read by the language model, pooled like texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_jina.engine.pipeline import Pipeline, ahead, finish
from mlx_jina.engine.plan import Plan
from mlx_jina.errors import CheckpointError, PictureError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.qwen2_5_vl import Qwen25VLTokens
from mlx_jina.models.qwen3 import Qwen3
from mlx_jina.nn import pieces
from mlx_jina.nn.ragged import Batch
from mlx_jina.text.tokenizer import Ids
from mlx_jina.vectors import Vectors
from mlx_jina.vision import images
from mlx_jina.vision.patches import Picture, Preprocessor
from mlx_jina.weights.loading import Loaded
from mlx_jina.weights.vision import Template, Vision

# Pictures that are decoded and resized together, while those before compute; a page of patches has 7 MB.
WINDOW = 8
# Tokens of a batch, at most: one page, or some smaller pictures. A tower's activations take 4 x 14 kB for a token.
BATCH_TOKENS = 1024

# Patches that the tower computes at once, at most: of a larger picture in pieces, each of which is waited for.
PATCHES = 16_384

Item = tuple[int, object]


class Seen(NamedTuple):
    """A picture's rows (n, D), one or one for each of its tokens, and how many tokens it was run as."""

    vectors: Vectors
    tokens: int


def vision_of(loaded: Loaded) -> Vision:
    """How a model sees. Raises CheckpointError for one that sees no pictures."""
    if loaded.vision is None:
        raise CheckpointError(f"{loaded.files.path} sees no pictures; v4 and v5-omni do")
    return loaded.vision


def picture_vectors(
    pipeline: Pipeline,
    vision: Vision,
    items: Iterable[Item],
    plan: Plan,
    advance: Callable[[int], object],
) -> Iterator[tuple[list[int], list[Seen]]]:
    """Positions of each window of pictures, and what became of them."""
    preprocessor = vision.preprocessor.limited(plan.max_pixels)
    template = vision.template(plan.prefix)
    # Whatever is wrong with the settings is said before the tower is read.
    vision.rotations(template, [(2, 2)])
    # On its thread, once, because several cores may need it.
    pipeline.thread.run(lambda: vision.tower)
    plan = replace(plan, batch_tokens=min(plan.batch_tokens, BATCH_TOKENS))
    for positions, pictures in ahead(items, partial(_seen, preprocessor), _windows):
        ids = [_ids(template, picture) for picture in pictures]
        for position, text in zip(positions, ids, strict=True):
            if len(text) > plan.max_length:
                words = f"takes {len(text)} tokens, more than this model's {plan.max_length}; lower max_pixels"
                raise PictureError(words, position=position)
        counts = [len(text) if plan.model.pooling == "none" else 1 for text in ids]
        rows = pipeline.forward(
            ids,
            positions,
            plan,
            lambda done: advance(len(done)),
            pool=partial(_pooled, vision, template, pictures),
            counts=counts,
        )
        split = np.split(rows, np.cumsum(counts)[:-1])
        yield positions, [Seen(finish(own, plan), len(text)) for own, text in zip(split, ids, strict=True)]


def _windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    window: list[Item] = []
    for item in items:
        window.append(item)
        if len(window) == WINDOW:
            yield window
            window = []
    if window:
        yield window


def _seen(preprocessor: Preprocessor, window: Sequence[Item]) -> list[Picture]:
    """The patches of each picture. Raises InputError."""
    return [preprocessor.picture(images.decode(item, position), position) for position, item in window]


def _ids(template: Template, picture: Picture) -> Ids:
    """The tokens of a picture and of the words around it."""
    return np.array([*template.before, *[template.picture] * picture.tokens, *template.after], dtype=np.int32)


def _pooled(
    vision: Vision, template: Template, pictures: Sequence[Picture], model: EncoderModel, batch: Batch
) -> mx.array:
    """On the model's thread: rows of a batch's pictures, in the batch's order."""
    own = [pictures[index] for index in batch.order]
    grids = [picture.grid for picture in own]
    patches = mx.array(np.concatenate([picture.rows for picture in own]))
    with pieces.at_most(PATCHES):
        features = vision.tower(patches, grids)
    starts, tokens = batch.ragged.starts.tolist(), [picture.tokens for picture in own]
    sources, done = np.arange(len(batch.ids)), len(batch.ids)
    for start, count in zip(starts, tokens, strict=True):
        first = start + len(template.before)
        sources[first : first + count] = np.arange(done, done + count)
        done += count
    turns = vision.rotations(template, grids)
    language = model.model if isinstance(model, Qwen25VLTokens) else model
    assert isinstance(language, Qwen3)
    states = language.seeing(mx.array(batch.ids), mx.array(sources), features, turns, batch.ragged)
    if isinstance(model, Qwen25VLTokens):
        return model.projected(states).astype(mx.float32)
    return vision.pooled(states, template, starts, tokens)
