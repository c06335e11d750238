"""What a folder has for pictures: the settings of its preprocessor, the tokens around a picture, the vision tower.

The tower is a fifth of v4's weights, and nothing here reads it before the first picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_jina import device
from mlx_jina.cpu import layers as cpu_layers
from mlx_jina.errors import CheckpointError, ModelTooLargeError
from mlx_jina.models import qwen3_5_tower
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.config import required
from mlx_jina.models.qwen2_5_vl import TOWER, Qwen25VL
from mlx_jina.models.qwen2_5_vl_tower import MERGED, Config, Grid, VisionTower
from mlx_jina.models.qwen3 import Qwen3
from mlx_jina.models.qwen3_5_tower import Qwen35Tower
from mlx_jina.nn import pooling
from mlx_jina.nn.rotary import Rotations, sectioned
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.vision.patches import Preprocessor
from mlx_jina.weights import checkpoint, folder, jina_v4, json_file, safetensors_file
from mlx_jina.weights.checkpoint import Checkpoint

_PATCHES = "patch_embed.proj.weight"
# jina-embeddings-v5-omni enlarges small pictures, and its processor's own limits do not count.
_OMNI = {"patch_size": 16, "min_pixels": 262_144, "max_pixels": 1_310_720}
_OMNI_COLOURS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_OMNI_TOWER = re.compile(r"(?:model\.)?(?:vision_tower|visual)\.(.+)")
_MERGER = "merger."
_BEFORE, _QUESTION, _AFTER = "user\n", "Describe the image.", "\n"


class Template(NamedTuple):
    """The tokens around a picture, which the model was trained with: before it, its own, and after it.

    The last token before and the first one after it mark the picture.
    """

    before: tuple[int, ...]
    picture: int
    after: tuple[int, ...]


@dataclass(frozen=True)
class Vision:
    """How jina-embeddings-v4 sees; every part is read when it is first asked for, and raises CheckpointError."""

    path: Path
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    language: Qwen3

    @property
    def sees(self) -> bool:
        """Whether there is a vision tower, by the settings; its weights are not looked for."""
        return self.has_settings and isinstance(self.config.get("vision_config"), Mapping)

    @property
    def has_settings(self) -> bool:
        """Whether there is a preprocessor_config.json."""
        return self.path.is_dir() and (self.path / jina_v4.PREPROCESSOR).is_file()

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """What becomes of pixels."""
        if not self.path.is_dir() or not isinstance(self.config.get("vision_config"), Mapping):
            raise CheckpointError(
                f"{self.path} sees no pictures: a .gguf has the language model alone, and so have some folders"
            )
        if not self.has_settings:
            raise CheckpointError(
                f"{self.path} has no {jina_v4.PREPROCESSOR}, which says how large pictures may be; copy it from "
                "the model's repository"
            )
        path = self.path / jina_v4.PREPROCESSOR
        found = Preprocessor.read(self._settings(json_file.read(path), path), path)
        patch: int = self.tower_config.patch_size
        if found.patch != patch:
            raise CheckpointError(f"{path}: 'patch_size' is {found.patch}, but the tower's is {patch}")
        return found

    def _settings(self, settings: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
        """The preprocessor's settings that count."""
        return settings

    def template(self, prefix: str) -> Template:
        """The tokens around a picture; `prefix` is a prompt, which this model's pictures do not have."""
        start, end = (self._token(name) for name in ("<|im_start|>", "<|im_end|>"))
        return Template(
            before=(start, *self._plain(_BEFORE), self._id("vision_start_token_id")),
            picture=self._id("image_token_id"),
            after=(self._id("vision_end_token_id"), *self._plain(_QUESTION), end, *self._plain(_AFTER)),
        )

    def rotations(self, template: Template, grids: Sequence[Grid]) -> Rotations:
        """How the tokens of pictures, one after the other, are turned."""
        if not isinstance(self.language, Qwen25VL) or self.language.sections is None:
            raise CheckpointError(f"{self.path}: config.json has no 'mrope_section', which places pictures")
        positions = np.concatenate([positions_of(template, grid) for grid in grids], axis=1)
        return sectioned(positions, self.language.sections, self.language.config.rope_theta)

    def pooled(
        self, states: mx.array, template: Template, starts: Sequence[int], tokens: Sequence[int]
    ) -> mx.array:
        """A row for each picture, from states (T, D): the mean from the mark before it to the one after it."""
        first = len(template.before) - 1
        spans = [(start + first, start + first + count + 2) for start, count in zip(starts, tokens, strict=True)]
        return pooling.span_means(states, spans)

    def _id(self, key: str) -> int:
        try:
            return required(self.config, key, int)
        except CheckpointError as error:
            raise checkpoint.located(self.path, error) from None

    def _token(self, name: str) -> int:
        found = self.tokenizer.fast.token_to_id(name)
        if found is None:
            raise CheckpointError(f"{self.path}: the tokenizer has no {name}, which stands around pictures")
        return int(found)

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer.fast.encode(text, add_special_tokens=False).ids)

    @cached_property
    def tower_config(self) -> Any:
        """The tower's hyper-parameters."""
        try:
            return self._read_config()
        except CheckpointError as error:
            raise checkpoint.located(self.path, error) from None

    def _read_config(self) -> Any:
        return Config.read(self.config["vision_config"])

    @cached_property
    def tower(self) -> VisionTower | Qwen35Tower:
        """On the model's thread: the vision tower, in float32. Raises ModelTooLargeError, too."""
        tensors: dict[str, mx.array] = {}
        for file in folder.weight_files(self.path):
            for name, tensor in safetensors_file.read(file).items():
                if (own := self._name_in_tower(name)) is not None:
                    tensors[own] = tensor
        if not tensors:
            raise CheckpointError(f"{self.path} has no vision tower among its weights")
        self._check_memory(sum(tensor.size for tensor in tensors.values()) * mx.float32.size)
        for name, tensor in tensors.items():
            safetensors_file.check_floating(f"{name} of the vision tower", tensor)
        tower = self._empty_tower()
        if _PATCHES in tensors and tensors[_PATCHES].ndim == 5:
            tensors[_PATCHES] = tower.patch_embed.folded(tensors[_PATCHES])
        checkpoint.assign(tower, tensors, self.path)
        tower.apply(lambda x: x.astype(mx.float32))
        if not device.on_gpu():
            cpu_layers.adapt(tower)
        mx.eval(tower.parameters())
        return tower

    def _name_in_tower(self, name: str) -> str | None:
        """A tensor's name in the tower, or None for one that is not the tower's."""
        name = jina_v4.renamed(name)
        return name.removeprefix(TOWER) if name.startswith(TOWER) else None

    def _empty_tower(self) -> VisionTower | Qwen35Tower:
        return VisionTower(self.tower_config)

    def _check_memory(self, needed: int) -> None:
        free = max(0, device.memory() - mx.get_active_memory())
        if needed > free:
            raise ModelTooLargeError(
                f"{self.path}: the vision tower takes {needed / 1e9:.1f} GB in float32, and {free / 1e9:.1f} GB "
                "of memory are free for models here; text is encoded without it, and a text model of 8 or 4 bits "
                "(`mlx-jina convert to-mlx --bits`) leaves more room"
            )


class OmniVision(Vision):
    """How jina-embeddings-v5-omni sees: a picture stands where a text would, behind the prompt."""

    def _settings(self, settings: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
        for key, value in {**_OMNI_COLOURS, "patch_size": _OMNI["patch_size"]}.items():
            if settings.get(key) not in (None, value):
                raise CheckpointError(f"{path}: {key!r} is {settings[key]!r}; only {value!r} is implemented")
        return {**settings, **_OMNI_COLOURS, **_OMNI}

    def template(self, prefix: str) -> Template:
        """The prompt before a picture, and the closing token of every text after it."""
        return Template(
            before=(*self._plain(prefix), self._marker("vision_start")),
            picture=self._marker("image"),
            after=(self._marker("vision_end"), *self.tokenizer.fast.encode("").ids),
        )

    def _marker(self, name: str) -> int:
        """A token's id, from config.json and from the tokenizer's words, which must not disagree."""
        key, word = f"{name}_token_id", "<|image_pad|>" if name == "image" else f"<|{name}|>"
        known, found = self.config.get(key), self.tokenizer.fast.token_to_id(word)
        if known is None and found is not None:
            return int(found)
        if found not in (None, known):
            raise CheckpointError(
                f"{self.path}: config.json: {key!r} is {known!r}, but {word} is {found} in its tokenizer"
            )
        return self._id(key)

    def rotations(self, template: Template, grids: Sequence[Grid]) -> Rotations:
        """By plain positions."""
        around = len(template.before) + len(template.after)
        positions = np.concatenate([np.arange(around + rows * columns // MERGED) for rows, columns in grids])
        config = self.language.config
        return sectioned(positions[None], [config.head_dim // 2], config.rope_theta)

    def pooled(
        self, states: mx.array, template: Template, starts: Sequence[int], tokens: Sequence[int]
    ) -> mx.array:
        """The state of each picture's last token."""
        around = len(template.before) + len(template.after)
        last = [start + count + around - 1 for start, count in zip(starts, tokens, strict=True)]
        return states[mx.array(last)].astype(mx.float32)

    def _read_config(self) -> Any:
        return qwen3_5_tower.Config.read(self.config["vision_config"], self.language.dimension)

    def _name_in_tower(self, name: str) -> str | None:
        if name.startswith(_MERGER):
            return name
        match = _OMNI_TOWER.fullmatch(name)
        return match[1] if match else None

    def _empty_tower(self) -> VisionTower | Qwen35Tower:
        return Qwen35Tower(self.tower_config)


def omni_tower(path: Path) -> dict[str, mx.array]:
    """The vision tower of v5-omni under the names that a folder has; empty for one without."""
    return {
        name: tensor
        for file in folder.weight_files(path)
        for name, tensor in safetensors_file.read(file).items()
        if name.startswith(_MERGER) or _OMNI_TOWER.fullmatch(name)
    }


def positions_of(template: Template, grid: Grid) -> npt.NDArray[np.intp]:
    """Time, height and width of each token, (3, L): words count up, after a picture from its longer side on.

    Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1.
    """
    rows, columns = (side // 2 for side in grid)
    start = len(template.before)
    row, column = np.divmod(np.arange(rows * columns), columns)
    after = start + max(rows, columns) + np.arange(len(template.after))
    return np.concatenate(
        [
            np.tile(np.arange(start), (3, 1)),
            start + np.stack([np.zeros_like(row), row, column]),
            np.tile(after, (3, 1)),
        ],
        axis=1,
    )


def of(files: Checkpoint, model: EncoderModel) -> Vision | None:
    """How a model sees, None for one that has no way to."""
    if isinstance(model, Qwen25VL):
        return Vision(files.path, files.config, files.tokenizer, model)
    if isinstance(model, Qwen3) and isinstance(files.config.get("vision_config"), Mapping):
        return OmniVision(files.path, files.config, files.tokenizer, model)
    return None
