"""v5-omni's pictures against transformers' tower and text models on the same weights; texts stay as they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import catalog, device
from mlx_jina.engine import pictures as engine
from mlx_jina.errors import CheckpointError
from mlx_jina.models import qwen3_5_tower
from mlx_jina.nn import activations, ragged
from mlx_jina.weights import convert, vision
from tests.support import checkpoints, omni_checkpoints
from tests.support.bare import TEXTS
from tests.support.omni_checkpoints import Reference
from tests.support.tolerance import bound
from tests.support.v4_checkpoints import pixels
from tests.test_metal import METAL, primitives

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

NAMES = ("small", "nano")
# Enlarged, as it is but for whole blocks, and reduced, by a sixteenth of the published limits.
LIMITS = {"patch_size": 16, "min_pixels": 16_384, "max_pixels": 81_920}
PICTURES = [pixels(100, 90, 1), pixels(180, 330, 2), pixels(600, 440, 3)]
RESIZED = [(160, 128), (192, 320), (320, 224)]


@pytest.fixture(autouse=True)
def small_limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.originalname != "test_sizes":
        monkeypatch.setattr(vision, "_OMNI", LIMITS)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: omni_checkpoints.omni(tmp_path_factory.mktemp("omni") / name, name) for name in NAMES}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: omni_checkpoints.text(tmp_path_factory.mktemp("text") / name, name) for name in NAMES}


@pytest.fixture
def models(paths: dict[str, Path]) -> dict[str, mlx_jina.Encoder]:
    return {name: mlx_jina.load(path, dtype="float32") for name, path in paths.items()}


def ends(model: mlx_jina.Encoder, prompt: str) -> tuple[list[int], list[int]]:
    """The tokens before and after a picture, from the specification and not from mlx_jina."""
    fast = model.loaded.files.tokenizer.fast

    def of(name: str) -> int:
        found = fast.token_to_id(name)
        assert found is not None
        return found

    before = [*fast.encode(prompt, add_special_tokens=False).ids, of("<|vision_start|>")]
    nano = model.architecture == "eurobert"
    return before, [of("<|vision_end|>"), *([of("<|end_of_text|>")] if nano else [])]


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_those_of_the_text_model(
    models: dict[str, mlx_jina.Encoder], texts: dict[str, Path], name: str
) -> None:
    alone = mlx_jina.load(texts[name], dtype="float32")
    for task in ("retrieval", "clustering"):
        assert np.array_equal(models[name].encode(TEXTS, task=task), alone.encode(TEXTS, task=task))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_equal_transformers(
    models: dict[str, mlx_jina.Encoder], texts: dict[str, Path], name: str
) -> None:
    model = models[name]
    reference = Reference(texts[name], name, "retrieval")
    for prompt_name, prompt in ((None, "Document: "), ("query", "Query: ")):
        found = model.encode_images(PICTURES, task="retrieval", prompt_name=prompt_name)
        around = ends(model, prompt)
        wanted = [reference.picture(*each, *around) for each in zip(PICTURES, RESIZED, strict=True)]
        np.testing.assert_allclose(found, wanted, atol=bound(5e-6), rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_layouts_and_a_gpu_change_nothing(
    models: dict[str, mlx_jina.Encoder],
    paths: dict[str, Path],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = models[name].encode_images(PICTURES, task="text-matching")
    alone = [models[name].encode_images(picture, task="text-matching") for picture in PICTURES]
    np.testing.assert_allclose(alone, wanted, atol=bound(1e-6), rtol=0)
    other = mlx_jina.load(omni_checkpoints.omni(tmp_path / "torch", name, channels_last=False), dtype="float32")
    assert np.array_equal(other.encode_images(PICTURES, task="text-matching"), wanted)
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    found = mlx_jina.load(paths[name], dtype="float32").encode_images(PICTURES, task="text-matching")
    np.testing.assert_allclose(found, wanted, atol=bound(5e-6), rtol=0)


def test_mistakes_show(models: dict[str, mlx_jina.Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    """No learned positions, no corners in their table, the tanh of the wrong GELU, the prompt left out."""
    model, picture = models["small"], PICTURES[1]
    right = model.encode_images(picture, task="retrieval")

    def changed(**options: Any) -> float:
        return float(abs(model.encode_images(picture, task="retrieval", **options) - right).max())

    assert changed() == 0
    assert changed(prompt="") > 1e-3
    with monkeypatch.context() as patched:
        patched.setattr(qwen3_5_tower.Qwen35Tower, "_learned", lambda self, windows: mx.zeros(1))
        assert changed() > 1e-3
    with monkeypatch.context() as patched:
        patched.setattr(qwen3_5_tower, "gelu_tanh", activations.gelu)
        assert changed() > 1e-5
    with monkeypatch.context() as patched:
        patched.setattr(qwen3_5_tower, "gelu", activations.gelu_tanh)
        assert changed() > 1e-5


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((440, 600), (448, 608)), ((1754, 1240), (1344, 960)), ((100, 90), (544, 512)), ((512, 512), (512, 512))],
)
def test_sizes(models: dict[str, mlx_jina.Encoder], size: tuple[int, int], wanted: tuple[int, int]) -> None:
    seen = models["small"].loaded.vision
    assert seen is not None
    assert seen.preprocessor.size(*size) == wanted


def test_every_primitive_has_a_metal_kernel(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    mx.disable_compile()
    try:
        loaded = mlx_jina.load(paths["nano"], task="retrieval", dtype="float32").loaded
        seen = loaded.vision
        assert seen is not None
        template = seen.template("Document: ")
        own = [seen.preprocessor.picture(picture) for picture in PICTURES]
        batch = ragged.flatten([engine._ids(template, picture) for picture in own], np.arange(3))
        used = primitives(engine._pooled(seen, template, own, loaded.model_for(None), batch))
        assert {"Tanh", "Erf", "Softmax"} <= used
        assert used <= METAL
    finally:
        mx.enable_compile()


class TestRefusals:
    @pytest.fixture
    def copy(self, paths: dict[str, Path], tmp_path: Path) -> Path:
        shutil.copytree(paths["small"], tmp_path / "copy")
        return tmp_path / "copy"

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("vision_start_token_id", 3, "but <.vision_start.> is"),
            ("image_token_id", 3, "but <.image_pad.> is"),
        ],
    )
    def test_ids_that_disagree(self, copy: Path, key: str, value: int, words: str) -> None:
        checkpoints.write_json(copy / "config.json", checkpoints.read_config(copy) | {key: value})
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy).encode_images(PICTURES[0], task="retrieval")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"hidden_act": "silu"}, "hidden_act"),
            ({"patch_size": 14}, "patch_size"),
            ({"num_position_embeddings": 35}, "num_position_embeddings"),
            ({"deepstack_visual_indexes": [1]}, "deepstack_visual_indexes"),
            ({"out_hidden_size": 7}, "out_hidden_size"),
        ],
    )
    def test_other_towers(self, copy: Path, changes: dict[str, Any], words: str) -> None:
        own = checkpoints.read_config(copy)
        checkpoints.write_json(copy / "config.json", own | {"vision_config": own["vision_config"] | changes})
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy).encode_images(PICTURES[0], task="retrieval")

    def test_other_colours(self, copy: Path) -> None:
        checkpoints.write_json(copy / "preprocessor_config.json", {"image_mean": [0.4, 0.4, 0.4]})
        with pytest.raises(CheckpointError, match="image_mean"):
            mlx_jina.load(copy).encode_images(PICTURES[0], task="retrieval")


def test_the_models_see(models: dict[str, mlx_jina.Encoder]) -> None:
    assert all(model.sees for model in models.values())
    assert isinstance(models["nano"].loaded.vision, vision.OmniVision)


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_folder_keeps_its_tower(
    models: dict[str, mlx_jina.Encoder], paths: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """As it is, with bits for the language model, and once more from that; also of one task."""
    model = models[name]
    wanted = model.encode_images(PICTURES[:2], task="retrieval")
    convert.to_mlx(paths[name], tmp_path / "same")
    same = mlx_jina.load(tmp_path / "same", dtype="float32")
    assert np.array_equal(same.encode_images(PICTURES[:2], task="retrieval"), wanted)
    assert np.array_equal(same.encode(TEXTS, task="retrieval"), model.encode(TEXTS, task="retrieval"))
    assert same.fingerprint("retrieval") == model.fingerprint("retrieval")
    convert.to_mlx(tmp_path / "same", tmp_path / "packed", bits=8, group_size=32)
    packed = mlx_jina.load(tmp_path / "packed", dtype="float32")
    seen = packed.encode_images(PICTURES[:2], task="retrieval")
    assert 1e-5 < abs(seen - wanted).max() < 0.1
    towers = [vision.omni_tower(folder) for folder in (paths[name], tmp_path / "packed")]
    assert towers[0].keys() == towers[1].keys()
    assert all(np.array_equal(towers[0][key], towers[1][key]) for key in towers[0])
    convert.to_mlx(paths[name], tmp_path / "fused", task="retrieval")
    fused = mlx_jina.load(tmp_path / "fused", dtype="float32")
    np.testing.assert_allclose(fused.encode_images(PICTURES[:2]), wanted, atol=bound(2e-2), rtol=0)


def test_repositories_of_one_task() -> None:
    for name in NAMES:
        for task in ("retrieval", "text-matching", "clustering", "classification"):
            for ending in ("", "-mlx"):
                row = catalog.find(f"jinaai/jina-embeddings-v5-omni-{name}-{task}{ending}")
                assert row is not None
                assert (row.tasks, row.sees, row.merged) == ((task,), True, True)
                assert catalog.find(f"v5-omni-{name}-{task}{ending}") is row
        assert catalog.find(f"v5-{name}-retrieval").sees is False  # type: ignore[union-attr]
