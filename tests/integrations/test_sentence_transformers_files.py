"""Folders that sentence-transformers itself writes: its vectors, or a refusal."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from mlx_jina.errors import CheckpointError
from tests.support import checkpoints, decoder_checkpoints

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = ["how do i bake bread", "a fox jumps over the lazy dog", "light travels fast in vacuum " * 20]


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("sentence_transformers", reason="pip install --group reference")


def modules(library: Any, *wanted: str) -> list[Any]:
    """The modules that follow the model."""
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.base.modules.normalize import Normalize
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling

    made = {"Normalize": lambda: Normalize(), "Dense": lambda: Dense(96, 8)}
    return [made[name]() if name in made else Pooling(96, name) for name in wanted]


def saved(library: Any, target: Path, *wanted: str, max_seq_length: int | None = None) -> Any:
    """A tiny code model with these modules behind it, in float32, saved by the library."""
    from sentence_transformers.base.modules.transformer import Transformer

    source = decoder_checkpoints.code(target.parent / "published")
    config = checkpoints.read_config(source)
    checkpoints.write_json(source / "config.json", config | {"torch_dtype": "float32"})
    model = library.SentenceTransformer(modules=[Transformer(str(source)), *modules(library, *wanted)])
    if max_seq_length is not None:
        model.max_seq_length = max_seq_length
    model.save(str(target))
    return model


@pytest.mark.parametrize("max_seq_length", [None, 5])
def test_its_vectors(library: Any, tmp_path: Path, max_seq_length: int | None) -> None:
    theirs = saved(library, tmp_path / "saved", "lasttoken", "Normalize", max_seq_length=max_seq_length)
    ours = mlx_jina.load(tmp_path / "saved")
    assert ours.max_length == theirs.max_seq_length
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(ours.encode(TEXTS, prompt=""), theirs.encode(TEXTS), atol=5e-6)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (["mean", "Normalize"], "asks for 'mean' pooling"),
        (["weightedmean"], "asks for 'weightedmean' pooling"),
        (["lasttoken", "Dense", "Normalize"], "puts a module .*Dense"),
    ],
)
def test_its_other_vectors(library: Any, tmp_path: Path, wanted: list[str], words: str) -> None:
    saved(library, tmp_path / "saved", *wanted)
    with pytest.raises(CheckpointError, match=words):
        mlx_jina.load(tmp_path / "saved")
