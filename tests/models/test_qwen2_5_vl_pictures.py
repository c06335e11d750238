"""v4's pictures against transformers in float64 and torch's resize; every plausible mistake must show."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from PIL import features

import mlx_jina
from mlx_jina import device
from mlx_jina.errors import CheckpointError, InputError, ModelTooLargeError, PictureError
from mlx_jina.models import qwen2_5_vl_tower
from mlx_jina.models.qwen2_5_vl_tower import Windows
from mlx_jina.nn.rotary import sectioned
from mlx_jina.vision import images
from mlx_jina.vision.patches import Preprocessor
from mlx_jina.vision.resize import resize
from mlx_jina.weights import convert, vision
from tests.support import checkpoints, v4_checkpoints
from tests.support.bare import TEXTS
from tests.support.tolerance import bound
from tests.support.v4_checkpoints import Reference, pixels

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

CONFIG = v4_checkpoints.config()
# Windows that are cut, a reduced picture, a strip, an enlarged one, a small square, and a high one.
SIZES = [(308, 420), (470, 700), (28, 400), (29, 31), (112, 112), (700, 300)]
RESIZED = [(308, 420), (280, 420), (28, 392), (56, 84), (112, 112), (532, 224)]
PICTURES = [pixels(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v4_checkpoints.v4(tmp_path_factory.mktemp("v4") / "repository")


@pytest.fixture(scope="module")
def model(path: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(path, dtype="float32")


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(CONFIG, "retrieval")


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    shutil.copytree(path, tmp_path / "copy")
    return tmp_path / "copy"


def preprocessor(**changes: Any) -> Preprocessor:
    return Preprocessor.read(v4_checkpoints.preprocessor(**changes), Path("preprocessor_config.json"))


def file(array: npt.NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


class TestVectors:
    def test_every_picture_equals_transformers(self, model: mlx_jina.Encoder, reference: Reference) -> None:
        found = model.encode_images(PICTURES, task="retrieval")
        wanted = [reference.picture(*each) for each in zip(PICTURES, RESIZED, strict=True)]
        np.testing.assert_allclose(found, wanted, atol=bound(2e-6), rtol=0)

    def test_every_token_equals_transformers(self, model: mlx_jina.Encoder, reference: Reference) -> None:
        found = model.multi_vector.encode_images(PICTURES, task="retrieval")
        for rows, picture, size in zip(found, PICTURES, RESIZED, strict=True):
            wanted = reference.picture_tokens(picture, size)
            np.testing.assert_allclose(rows, wanted, atol=bound(1e-5), rtol=0)

    def test_one_task_is_fused(self, path: Path, model: mlx_jina.Encoder) -> None:
        one = mlx_jina.load(path, task="retrieval", dtype="float32").encode_images(PICTURES[0])
        np.testing.assert_allclose(one, model.encode_images(PICTURES[0], task="retrieval"), atol=bound(2e-6))
        assert abs(one - model.encode_images(PICTURES[0], task="code")).max() > 1e-2

    def test_neighbours_change_nothing(self, model: mlx_jina.Encoder) -> None:
        together = model.encode_images(PICTURES, task="code")
        for picture, row in zip(PICTURES, together, strict=True):
            alone = model.encode_images(picture, task="code", batch_tokens=1)
            np.testing.assert_allclose(alone, row, atol=bound(1e-6), rtol=0)

    def test_a_gpu_computes_the_same(
        self, path: Path, model: mlx_jina.Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its formulas, on this CPU; and bfloat16 weights, with the tower in float32 all the same."""
        wanted = model.encode_images(PICTURES, task="code")
        monkeypatch.setattr(device, "on_gpu", lambda: True)
        found = mlx_jina.load(path, dtype="float32").encode_images(PICTURES, task="code")
        np.testing.assert_allclose(found, wanted, atol=bound(2e-6), rtol=0)
        half = mlx_jina.load(path, dtype="bfloat16")
        assert (half.encode_images(PICTURES, task="code") * wanted).sum(axis=1).min() > 0.999
        assert half.loaded.vision is not None
        assert half.loaded.vision.tower.merger.ln_q.weight.dtype == mx.float32

    def test_texts_and_pictures_in_one_list(self, model: mlx_jina.Encoder) -> None:
        mixed: list[Any] = [TEXTS[0], mlx_jina.Image(PICTURES[0]), TEXTS[1], PIL.Image.fromarray(PICTURES[3])]
        found = model.encode(mixed, task="retrieval")
        texts = model.encode(TEXTS[:2], task="retrieval")
        own = model.encode_images([PICTURES[0], PICTURES[3]], task="retrieval")
        np.testing.assert_allclose(found, [texts[0], own[0], texts[1], own[1]], atol=bound(1e-6), rtol=0)
        assert np.array_equal(model.encode(iter(mixed), task="retrieval"), found)  # type: ignore[call-overload]
        assert np.array_equal(model.encode(iter(TEXTS), task="retrieval"), model.encode(TEXTS, task="retrieval"))  # type: ignore[call-overload]
        streamed = np.concatenate([*model.encode_stream(iter(mixed), task="retrieval")])
        np.testing.assert_allclose(streamed, found, atol=bound(1e-6), rtol=0)
        with pytest.raises(InputError, match="late_chunking"):
            model.encode(mixed, task="retrieval", late_chunking=True)
        with pytest.raises(InputError, match="text 2 is of type int"):
            model.encode([TEXTS[0], mlx_jina.Image(PICTURES[0]), 7], task="retrieval")  # type: ignore[list-item]

    def test_mistakes_show(
        self, model: mlx_jina.Encoder, reference: Reference, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Windows off, or everywhere; flat positions; rows for columns; words of the template in the mean."""

        def changed(picture: npt.NDArray[np.uint8] = PICTURES[0]) -> float:
            return float(model.encode_images(picture, task="retrieval") @ right)

        right = reference.picture(PICTURES[0], RESIZED[0])
        assert changed() > 1 - 1e-6
        with monkeypatch.context() as patched:
            patched.setattr(qwen2_5_vl_tower.Block, "windowed", qwen2_5_vl_tower.Block.full)
            assert changed() < 0.99
        with monkeypatch.context() as patched:
            patched.setattr(qwen2_5_vl_tower.Block, "full", qwen2_5_vl_tower.Block.windowed)
            assert changed() < 0.99

        def flat(template: vision.Template, grid: tuple[int, int]) -> npt.NDArray[np.intp]:
            return np.tile(np.arange(positions_of(template, grid).shape[1]), (3, 1))

        positions_of = vision.positions_of
        with monkeypatch.context() as patched:
            patched.setattr(vision, "positions_of", flat)
            assert changed() < 0.999
        with monkeypatch.context() as patched:
            patched.setattr(vision, "positions_of", lambda *of: positions_of(*of)[[0, 2, 1]])
            assert changed() < 0.9999
        assert changed(np.ascontiguousarray(PICTURES[0].transpose(1, 0, 2))) < 0.999
        states = reference.picture_states(PICTURES[0], RESIZED[0])
        everything = states.mean(axis=0)
        assert everything @ right / np.linalg.norm(everything) < 1 - 1e-5

    def test_precisions_and_sizes(self, model: mlx_jina.Encoder) -> None:
        full = model.encode_images(PICTURES[:2], task="code")
        cut = full[:, :16] / np.linalg.norm(full[:, :16], axis=1, keepdims=True)
        np.testing.assert_allclose(
            model.encode_images(PICTURES[:2], task="code", truncate_dim=16), cut, atol=bound(1e-6)
        )
        assert model.encode_images(PICTURES[:2], task="code", precision="int8").dtype == np.int8
        assert model.encode_images([], task="code").shape == (0, 64)

    def test_a_task_is_needed(self, model: mlx_jina.Encoder) -> None:
        with pytest.raises(InputError, match="needs a task"):
            model.encode_images(PICTURES[0])

    def test_an_mlx_folder_with_bits_sees_too(self, path: Path, tmp_path: Path, model: mlx_jina.Encoder) -> None:
        convert.to_mlx(path, tmp_path / "packed", bits=8, group_size=32)
        found = mlx_jina.load(tmp_path / "packed", dtype="float32").encode_images(PICTURES[0], task="code")
        assert found @ model.encode_images(PICTURES[0], task="code") > 0.999

    def test_the_spellings_of_transformers(self, tmp_path: Path, model: mlx_jina.Encoder) -> None:
        newer = mlx_jina.load(v4_checkpoints.v4(tmp_path / "newer", newer=True), dtype="float32")
        found = newer.encode_images(PICTURES[0], task="code")
        assert np.array_equal(found, model.encode_images(PICTURES[0], task="code"))

    def test_the_repositories_for_vllm(self, tmp_path: Path, reference: Reference) -> None:
        merged = mlx_jina.load(
            v4_checkpoints.merged(tmp_path / "jina-embeddings-v4-vllm-retrieval", "retrieval"), dtype="float32"
        )
        found = merged.encode_images(PICTURES[0])
        # Its tower is stored in float32 here, and the main repository's in bfloat16.
        assert found @ reference.picture(PICTURES[0], RESIZED[0]) > 0.99


class TestLimits:
    def test_limits_come_from_the_file(self, copy: Path, model: mlx_jina.Encoder) -> None:
        larger = v4_checkpoints.preprocessor(max_pixels=400_000, size=None)
        checkpoints.write_json(copy / "preprocessor_config.json", larger)
        other = mlx_jina.load(copy, dtype="float32")
        wide = other.encode_images(PICTURES[1], task="code")
        assert wide @ model.encode_images(PICTURES[1], task="code") < 0.9999
        again = other.encode_images(PICTURES[1], task="code", max_pixels=131_712)
        assert np.array_equal(again, model.encode_images(PICTURES[1], task="code"))
        assert other.fingerprint("code") != model.fingerprint("code")
        with pytest.raises(InputError, match="max_pixels=100 must be at least"):
            model.encode_images(PICTURES[1], task="code", max_pixels=100)
        with pytest.raises(InputError, match="max_pixels"):
            model.encode_images(PICTURES[1], task="code", max_pixels="many")  # type: ignore[arg-type]

    @pytest.mark.slow
    def test_pictures_of_more_tokens_than_a_text_may_have(self, model: mlx_jina.Encoder) -> None:
        page = np.zeros((5200, 5200, 3), dtype=np.uint8)
        with pytest.raises(PictureError, match=r"picture 1 takes 3\d{4} tokens, more than this model's 32768"):
            model.encode_images([PICTURES[3], page], task="code", max_pixels=40_000_000)

    def test_keys_of_newer_files(self) -> None:
        newer = preprocessor(min_pixels=None, max_pixels=None, size={"shortest_edge": 784, "longest_edge": 5000})
        assert (newer.min_pixels, newer.max_pixels) == (784, 5000)

    @pytest.mark.parametrize(
        ("limit", "size", "wanted"),
        [
            (602_112, (224, 224), (224, 224)),
            (602_112, (240, 320), (252, 308)),
            (602_112, (512, 512), (504, 504)),
            (602_112, (842, 595), (840, 588)),
            (602_112, (1754, 1240), (896, 644)),
            (1_003_520, (1754, 1240), (1176, 840)),
            (12_845_056, (1754, 1240), (1764, 1232)),
            (12_845_056, (3508, 2480), (3500, 2492)),
            (602_112, (1080, 1920), (560, 1008)),
            (12_845_056, (1080, 1920), (1092, 1932)),
            (602_112, (29, 31), (56, 84)),
            (602_112, (1, 1), (56, 56)),
            (602_112, (42, 70), (56, 56)),
            (602_112, (70, 42), (56, 56)),
        ],
    )
    def test_sizes(self, limit: int, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        assert preprocessor(max_pixels=limit).size(*size) == wanted

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"resample": 2}, "'resample' is 2"),
            ({"image_mean": [0.5]}, "image_mean"),
            ({"image_std": [0.0, 1.0, 1.0]}, "image_std"),
            ({"max_pixels": "many"}, "max_pixels"),
            ({"patch_size": 16}, "'patch_size' is 16, but the tower's is 14"),
        ],
    )
    def test_other_settings_are_refused(self, copy: Path, changes: dict[str, Any], words: str) -> None:
        checkpoints.write_json(copy / "preprocessor_config.json", v4_checkpoints.preprocessor(**changes))
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy).encode_images(PICTURES[3], task="code")


class TestPixels:
    @pytest.mark.parametrize(
        ("size", "target"),
        [
            *zip(SIZES, RESIZED, strict=True),
            ((300, 500), (1204, 28)),
            ((1, 1), (56, 56)),
            ((900, 33), (84, 28)),
            ((60, 1200), (1008, 56)),
        ],
    )
    def test_resizing_is_torch_s_bit_for_bit(self, size: tuple[int, int], target: tuple[int, int]) -> None:
        torch = pytest.importorskip("torch")
        source = pixels(*size, 3)
        planes = torch.tensor(source).permute(2, 0, 1)[None]
        wanted = torch.nn.functional.interpolate(planes, size=target, mode="bicubic", antialias=True)[0]
        assert np.array_equal(resize(source, *target), wanted.permute(1, 2, 0).numpy())

    def test_noise_and_hard_edges(self) -> None:
        torch = pytest.importorskip("torch")
        source = np.random.default_rng(0).choice(np.array([0, 255, 7, 99], dtype=np.uint8), (211, 307, 3))
        for target in ((112, 168), (420, 616), (28, 28), (211, 420)):
            planes = torch.tensor(source).permute(2, 0, 1)[None]
            wanted = torch.nn.functional.interpolate(planes, size=target, mode="bicubic", antialias=True)[0]
            assert np.array_equal(resize(source, *target), wanted.permute(1, 2, 0).numpy())

    def test_positions(self) -> None:
        """The worked example of Qwen2-VL's paper's rule: a picture of 2 x 3 tokens."""
        template = vision.Template((1, 2, 3, 4), 5, (6, 7, 8, 9, 10, 11, 12))
        found = vision.positions_of(template, (4, 6))
        tail = [7, 8, 9, 10, 11, 12, 13]
        assert found.tolist() == [
            [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, *tail],
            [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, *tail],
            [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, *tail],
        ]

    def test_sections_are_contiguous(self) -> None:
        cosines, _ = sectioned(np.array([[1], [0], [0]]), [2, 3, 3], 1e6)
        turned = np.array(cosines)[0, 0, 0] < 1
        assert turned.tolist() == [True, True] + [False] * 6

    def test_windows(self) -> None:
        windows = Windows(((22, 30), (8, 8)), 8)
        assert [(bucket.texts, bucket.length) for bucket in windows.by_window.buckets] == [
            (7, 64),
            (5, 48),
            (1, 36),
        ]
        places = windows.places[windows.order]
        for bucket in windows.by_window.buckets:
            for start in range(bucket.start, bucket.stop, bucket.length):
                own = places[start : start + bucket.length] // np.array([1, 8, 8])
                assert len(np.unique(own, axis=0)) == 1


class TestFiles:
    """A picture is right, or one clear error; never a traceback."""

    def test_every_source_is_alike(self, tmp_path: Path, model: mlx_jina.Encoder) -> None:
        array = PICTURES[3]
        (tmp_path / "a.png").write_bytes(file(array))
        content = file(array)
        sources: list[Any] = [tmp_path / "a.png", str(tmp_path / "a.png"), content, PIL.Image.fromarray(array)]
        sources += [bytearray(content), memoryview(content)]
        wanted = model.encode_images(array, task="code")
        found = model.encode_images([*sources, mlx_jina.Image(array)], task="code")
        np.testing.assert_allclose(found, [wanted] * 7, atol=bound(1e-6), rtol=0)
        assert model.encode_images(sources[4], task="code").shape == wanted.shape
        with pytest.raises(PictureError, match=r"picture 0 is an array uint8 \(29, 31\)"):
            model.encode_images(array[:, :, 0], task="code")

    @pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "RGBA", "P", "1", "YCbCr", "PA"])
    def test_modes_are_converted_as_pillow_does(self, mode: str) -> None:
        image = (
            PIL.Image.fromarray(PICTURES[3])
            .convert("L" if mode in ("1", "PA") else "RGB")
            .convert({"PA": "P"}.get(mode, mode))
        )
        image = image.convert("PA") if mode == "PA" else image
        assert np.array_equal(images.decode(image), np.array(image.convert("RGB")))

    def test_sixteen_bits_keep_their_high_byte(self) -> None:
        deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024).astype(np.uint16)
        out = io.BytesIO()
        PIL.Image.fromarray(deep).save(out, "PNG")
        assert np.array_equal(images.decode(out.getvalue())[:, :, 0], (deep >> 8).astype(np.uint8))

    def test_an_animation_is_its_first_frame(self) -> None:
        frames = [PIL.Image.fromarray(pixels(30, 40, seed)).quantize(16) for seed in (1, 2)]
        out = io.BytesIO()
        frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
        assert np.array_equal(images.decode(out.getvalue()), np.array(frames[0].convert("RGB")))

    def test_no_exif_turns_a_picture(self) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        found = images.decode(file(PICTURES[3], "JPEG", exif=exif))
        assert found.shape == PICTURES[3].shape

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (b"", "no picture of a kind that Pillow reads"),
            (b"<svg/>", "no picture of a kind that Pillow reads"),
            (file(PICTURES[0])[:5000], "cannot be read as a picture"),
            (file(PICTURES[0], "JPEG")[:3000], "cannot be read as a picture"),
            (Path("/nowhere/a.png"), "cannot be read as a picture.*No such file"),
            (np.zeros((4, 4), dtype=np.uint8), r"array uint8 \(4, 4\)"),
            (np.zeros((4, 4, 3)), r"array float64 \(4, 4, 3\)"),
            (np.zeros((0, 4, 3), dtype=np.uint8), r"\(0, 4, 3\)"),
            (np.zeros((1, 201, 3), dtype=np.uint8), "more than 200 times the other"),
            (PIL.Image.new("RGB", (0, 9)), "0 x 9 pixels, which is nothing"),
            (io.BytesIO(b""), r"is an open file \(BytesIO\): pass its path, or what its read\(\) returns"),
            (PIL.Image.new("F", (9, 9)), "mode F"),
            (PIL.Image.new("I", (9, 9)), "mode I"),
            (7, "is int; a picture is"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is a program in PostScript"),
        ],
    )
    def test_what_is_no_picture(self, model: mlx_jina.Encoder, source: Any, words: str) -> None:
        with pytest.raises(PictureError, match=rf"picture 1 .*{words}") as caught:
            model.encode_images([PICTURES[3], source], task="code")
        assert caught.value.position == 1

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("side", [10_000, 20_000])
    def test_decompression_bombs(self, side: int) -> None:
        """A file of some kilobytes; Pillow only warns of the smaller one."""
        out = io.BytesIO()
        PIL.Image.new("1", (side, side)).save(out, "PNG")
        assert len(out.getvalue()) < 200_000
        with pytest.raises(PictureError, match="pixels"):
            images.decode(out.getvalue(), 0)

    # Pillow warns of some damage, and reads on.
    @pytest.mark.filterwarnings("ignore")
    def test_damage_anywhere_is_an_error_or_a_picture(self) -> None:
        rng = np.random.default_rng(0)
        kinds = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", *(["AVIF"] if features.check("avif") else []))
        for kind in kinds:
            whole = file(PICTURES[3], kind)
            for trial in range(120):
                damaged = bytearray(whole)
                # Half of them are whole but for some bytes, of which the first ones say the most.
                last = len(whole) if trial % 2 else int(rng.integers(1, len(whole) + 1))
                for at in (
                    rng.integers(0, min(len(whole), 400), 3) if trial % 2 else rng.integers(0, len(whole), 8)
                ):
                    damaged[at] = rng.integers(0, 256)
                with suppress(PictureError):
                    assert images.decode(bytes(damaged[:last])).dtype == np.uint8

    def test_without_pillow_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
        with pytest.raises(PictureError, match=r"mlx-jina\[images\]"):
            images.decode(b"x")
        assert images.decode(PICTURES[3]) is PICTURES[3]

    @pytest.mark.parametrize("given", [7, {"a": 1}])
    def test_what_is_no_list(self, model: mlx_jina.Encoder, given: Any) -> None:
        with pytest.raises(InputError, match="images must be a picture or a list"):
            model.encode_images(given, task="code")


class TestWhatSeesNothing:
    def test_other_models(self) -> None:
        with pytest.raises(CheckpointError, match="sees no pictures"):
            mlx_jina.load("pocket").encode_images(PICTURES[3])

    def test_gguf(self, path: Path, tmp_path: Path) -> None:
        convert.to_gguf(path, tmp_path / "m.gguf", task="code", kind="F16")
        with pytest.raises(CheckpointError, match=r"a \.gguf has the language model alone"):
            mlx_jina.load(tmp_path / "m.gguf").encode_images(PICTURES[3])

    def test_without_settings(self, copy: Path) -> None:
        (copy / "preprocessor_config.json").unlink()
        with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
            mlx_jina.load(copy).encode_images(PICTURES[3], task="code")

    @pytest.mark.parametrize(
        ("rename", "words"),
        [
            (lambda name: None if name.startswith("visual.") else name, r"no vision tower"),
            (
                lambda name: None if name == "visual.blocks.0.attn.qkv.bias" else name,
                r"lacks blocks\.0\.attn\.qkv",
            ),
        ],
    )
    def test_without_weights(self, copy: Path, rename: Callable[[str], str | None], words: str) -> None:
        for part in copy.glob("model-*.safetensors"):
            tensors: dict[str, mx.array] = dict(mx.load(str(part)))  # type: ignore[arg-type]
            mx.eval(tensors)
            kept = {new: x for name, x in tensors.items() if (new := rename(name)) is not None}
            mx.save_safetensors(str(part), kept)
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy).encode_images(PICTURES[3], task="code")

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("hidden_act", "gelu", "hidden_act"),
            ("fullatt_block_indexes", [9], "fullatt_block_indexes"),
            ("window_size", 100, "window_size"),
            ("depth", None, "depth"),
        ],
    )
    def test_settings_of_towers(self, copy: Path, key: str, value: Any, words: str) -> None:
        own = CONFIG | {"vision_config": CONFIG["vision_config"] | {key: value}}
        checkpoints.write_json(copy / "config.json", own)
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy).encode_images(PICTURES[3], task="code")

    def test_without_the_placeholder_s_id(self, copy: Path) -> None:
        """vision_token_id is another token, and does not stand in."""
        own = {key: value for key, value in CONFIG.items() if key != "image_token_id"}
        checkpoints.write_json(copy / "config.json", own)
        with pytest.raises(CheckpointError, match="image_token_id"):
            mlx_jina.load(copy).encode_images(PICTURES[3], task="code")

    def test_too_little_memory(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = mlx_jina.load(path, dtype="float32")
        monkeypatch.setattr(device, "memory", lambda: 1)
        with pytest.raises(ModelTooLargeError, match="vision tower takes"):
            loaded.encode_images(PICTURES[3], task="code")
