"""Peers that users could run instead of mlx-jina, one file each, set up as the peer's documentation advises.

A module says which distribution it needs (`PACKAGE`), which architectures it runs (`FAMILIES`), its `SETTINGS` in
words, its variants by backend (`options`), and `load(folder, option)` gives a function from texts, and the
number of tokens of the longest, to vectors. Heavy imports are inside `load`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.models import Model

MODULES = (
    "ours",
    "mlx_dense",
    "mlx_embeddings",
    "mlx_lm",
    "sentence_transformers",
    "torch_dense",
    "onnxruntime",
    "llama_cpp",
)
OURS = "mlx-jina"
# The lowest cosine to our vectors at which a peer still computes the same.
COSINES = {"float32": 0.99999, "float16": 0.9999, "bfloat16": 0.99, "F16": 0.999, "Q8_0": 0.98}


@dataclass(frozen=True)
class Peer:
    """A module and the variant of it."""

    name: str
    module: str
    option: str
    package: str
    settings: str

    def missing(self) -> str | None:
        """Why the peer cannot run here, or None."""
        return None if util.find_spec(self.package) else f"{self.package} is not installed"

    @property
    def cosine(self) -> float:
        """The lowest cosine to our vectors that the peer must reach."""
        return COSINES[self.option]


def of(model: Model, wanted: Sequence[str] = ()) -> list[Peer]:
    """Peers that run the model's architecture, ours first, then those whose name contains a word of `wanted`."""
    found = []
    for name in MODULES:
        module: Any = importlib.import_module(f"bench.peers.{name}")
        if model.family not in module.FAMILIES:
            continue
        for option in module.options(model):
            label = OURS if name == "ours" else f"{module.NAME} {option}"
            if name == "ours" or not wanted or any(part in label for part in wanted):
                found.append(Peer(label, name, option, module.PACKAGE, module.SETTINGS))
    return found


def settings(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """How each peer of a table is set up, in words, by its name without the variant."""
    labels = {row.get("peer", "") for row in rows}
    modules: list[Any] = [importlib.import_module(f"bench.peers.{name}") for name in MODULES]
    return {m.NAME: m.SETTINGS for m in modules if any(label.startswith(m.NAME) for label in labels)}
