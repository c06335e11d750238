"""Ray Data on a local Ray: the same vectors in the same order, also when a worker is killed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from bench import texts
from mlx_jina.errors import InputError
from mlx_jina.ray import Encoder
from tests.support.tolerance import bound

TEXTS = [" ".join(texts.words()[i : i + 3 + i % 40]) for i in range(400)]


class Fragile(Encoder):
    """Kills its own process, once, in the middle of the job."""

    def __init__(self, marker: str, **options: Any) -> None:
        super().__init__(**options)
        self._marker = Path(marker)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode, or die."""
        if TEXTS[200] in batch["text"] and not self._marker.exists():
            self._marker.touch()
            os._exit(9)
        return super().__call__(batch)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with warnings.catch_warnings():
        # What Ray and pandas say of themselves is no failure of ours.
        warnings.simplefilter("ignore")
        ray = pytest.importorskip("ray", reason="needs Ray (pip install 'mlx-jina[ray]')")
        pytest.importorskip("ray.data", reason="needs Ray Data (pip install 'mlx-jina[ray]')")
        environment = {
            "env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
        }
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        yield ray
        ray.shutdown()


def encoded(ray: Any, encoder: type[Encoder], **options: Any) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
        dataset = ray.data.from_items(rows, override_num_blocks=8).map_batches(
            encoder,
            fn_constructor_kwargs={"model": "pocket", **options},
            compute=ray.data.ActorPoolStrategy(size=2),
            batch_size=50,
        )
        taken: list[dict[str, Any]] = dataset.take_all()
    return taken


def test_batches_in_this_process() -> None:
    encoder = Encoder("pocket", column="passage", output="vector", truncate_dim=64)
    batch = encoder({"passage": np.array(TEXTS[:3], dtype=object), "id": np.arange(3)})
    assert list(batch) == ["passage", "id", "vector"]
    np.testing.assert_array_equal(batch["vector"], mlx_jina.load("pocket").encode(TEXTS[:3], truncate_dim=64))
    with pytest.raises(InputError, match="truncate_dim"):
        Encoder("pocket", truncate_dim=63)
    with pytest.raises(InputError, match=r"no column 'passage' \(it has: body\); column= names it"):
        encoder({"body": np.array(["a"])})
    with pytest.raises(InputError, match="letter of which would be one"):
        encoder({"passage": "abc"})  # type: ignore[dict-item]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_same_vectors_in_order(ray: Any, tmp_path: Path, killed: bool) -> None:
    marker = tmp_path / "killed"
    rows = encoded(ray, Fragile, marker=str(marker)) if killed else encoded(ray, Encoder)
    assert marker.exists() == killed
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    expected = mlx_jina.load("pocket").encode(TEXTS)
    np.testing.assert_allclose(np.stack([row["embedding"] for row in rows]), expected, atol=bound(1e-6))
