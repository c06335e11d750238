"""What a folder has for pictures: the settings of its preprocessor, the tokens around a picture, the vision tower.

The tower is a fifth of v4's weights, and nothing here reads it before the first picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from mlx_jina import device
from mlx_jina.cpu import layers as cpu_layers
from mlx_jina.errors import CheckpointError, ModelTooLargeError
from mlx_jina.models.config import required
from mlx_jina.models.qwen2_5_vl import TOWER
from mlx_jina.models.qwen2_5_vl_tower import Config, PatchEmbed, VisionTower
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.vision.patches import Preprocessor
from mlx_jina.weights import checkpoint, folder, jina_v4, json_file, safetensors_file

_PATCHES = "patch_embed.proj.weight"
_BEFORE, _QUESTION, _AFTER = "user\n", "Describe the image.", "\n"


class Template(NamedTuple):
    """The tokens around a picture, which the model was trained with: before it, its own, and after it.

    The last token before and the first one after it mark the picture, and belong to what is pooled.
    """

    before: tuple[int, ...]
    picture: int
    after: tuple[int, ...]


@dataclass(frozen=True)
class Vision:
    """How a model sees; every part is read when it is first asked for, and raises CheckpointError."""

    path: Path
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    rotary_sections: Sequence[int] | None

    @property
    def sections(self) -> Sequence[int]:
        """How many angles turn with time, height and width."""
        if self.rotary_sections is None:
            raise CheckpointError(f"{self.path}: config.json has no 'mrope_section', which places pictures")
        return self.rotary_sections

    @property
    def has_settings(self) -> bool:
        """Whether there is a preprocessor_config.json."""
        return self.path.is_dir() and (self.path / jina_v4.PREPROCESSOR).is_file()

    @property
    def sees(self) -> bool:
        """Whether there is a vision tower, by the settings; its weights are not looked for."""
        return self.has_settings and isinstance(self.config.get("vision_config"), Mapping)

    @cached_property
    def preprocessor(self) -> Preprocessor:
        """What becomes of pixels."""
        if not self.path.is_dir() or not isinstance(self.config.get("vision_config"), Mapping):
            raise CheckpointError(
                f"{self.path} sees no pictures: a .gguf has the language model alone; jinaai/jina-embeddings-v4 "
                "has the vision tower, too"
            )
        if not self.has_settings:
            raise CheckpointError(
                f"{self.path} has no {jina_v4.PREPROCESSOR}, which says how large pictures may be; copy it from "
                "the model's repository"
            )
        path = self.path / jina_v4.PREPROCESSOR
        found = Preprocessor.read(json_file.read(path), path)
        if found.patch != self._tower_config.patch_size:
            raise CheckpointError(
                f"{path}: 'patch_size' is {found.patch}, but the tower's is {self._tower_config.patch_size}"
            )
        return found

    @cached_property
    def template(self) -> Template:
        """The tokens around a picture."""
        ids = {key: self._id(key) for key in ("vision_start_token_id", "vision_end_token_id", "image_token_id")}
        start, end = (self._token(name) for name in ("<|im_start|>", "<|im_end|>"))
        return Template(
            before=(start, *self._plain(_BEFORE), ids["vision_start_token_id"]),
            picture=ids["image_token_id"],
            after=(ids["vision_end_token_id"], *self._plain(_QUESTION), end, *self._plain(_AFTER)),
        )

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
    def _tower_config(self) -> Config:
        try:
            return Config.read(self.config["vision_config"])
        except CheckpointError as error:
            raise checkpoint.located(self.path, error) from None

    @cached_property
    def tower(self) -> VisionTower:
        """On the model's thread: the vision tower, in float32. Raises ModelTooLargeError, too."""
        tensors: dict[str, mx.array] = {}
        for file in folder.weight_files(self.path):
            named = ((jina_v4.renamed(name), tensor) for name, tensor in safetensors_file.read(file).items())
            tensors |= {name.removeprefix(TOWER): tensor for name, tensor in named if name.startswith(TOWER)}
        if not tensors:
            raise CheckpointError(f"{self.path} has no vision tower among its weights ({TOWER}*)")
        self._check_memory(sum(tensor.size for tensor in tensors.values()) * mx.float32.size)
        for name, tensor in tensors.items():
            safetensors_file.check_floating(f"{TOWER}{name}", tensor)
        if _PATCHES in tensors and tensors[_PATCHES].ndim == 5:
            tensors[_PATCHES] = PatchEmbed.folded(tensors[_PATCHES])
        tower = VisionTower(self._tower_config)
        checkpoint.assign(tower, tensors, self.path)
        tower.apply(lambda x: x.astype(mx.float32))
        if not device.on_gpu():
            cpu_layers.adapt(tower)
        mx.eval(tower.parameters())
        return tower

    def _check_memory(self, needed: int) -> None:
        free = max(0, device.memory() - mx.get_active_memory())
        if needed > free:
            raise ModelTooLargeError(
                f"{self.path}: the vision tower takes {needed / 1e9:.1f} GB in float32, and {free / 1e9:.1f} GB "
                "of memory are free for models here; text is encoded without it, and a text model of 8 or 4 bits "
                "(`mlx-jina convert to-mlx --bits`) leaves more room"
            )
