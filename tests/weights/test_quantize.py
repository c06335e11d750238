"""Packed weights of every mode: read, written, computed with, and refused where MLX has no such packing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import mlx_jina
from mlx_jina import choices, device
from mlx_jina.choices import Mode, Recipe
from mlx_jina.cli.convert import convert as command
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.weights import convert, folder, quantize
from tests.support import checkpoints, decoder_checkpoints, reference, v3_checkpoints

TEXTS = ["how do i bake bread", "light travels fast in vacuum " * 40, "a"]
# Every mode as MLX has it by default, and affine weights of other widths.
OPTIONS: dict[str, dict[str, Any]] = {
    **{mode: {"mode": mode} for mode in choices.MODES},
    **{f"affine {bits}": {"bits": bits, "group_size": 32} for bits in choices.BITS},
}
MODELS: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "v2": (checkpoints.tiny_jina_bert, None),
    "v3": (lambda path: v3_checkpoints.original(path), "text-matching"),
    "v5-small": (checkpoints.v5_small, "retrieval"),
    "v5-nano": (decoder_checkpoints.v5_nano, "clustering"),
    "code": (decoder_checkpoints.code, None),
}

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float64)


def e4m3(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """OCP's float8 with four bits of exponent: sign, exponent with bias 7, three bits of mantissa."""
    sign, exponent, mantissa = codes >> 7, (codes >> 3) & 15, codes & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent.astype(int) - 7))
    return np.where(sign == 1, -size, size)


def unpacked(weight: mx.array, scales: mx.array, biases: mx.array | None, mode: str, bits: int, group: int) -> Any:
    """The full weight (rows, columns) in float64, after the formats' definitions and not by MLX."""
    words = np.array(weight)
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").reshape(len(words), -1, bits)
    codes = (stream * (1 << np.arange(bits))).sum(axis=2)
    if mode == "affine":
        assert biases is not None
        step, start = (np.repeat(np.array(x.astype(mx.float32), np.float64), group, 1) for x in (scales, biases))
        return codes * step + start
    exponents = np.array(scales)
    size = e4m3(exponents) if mode == "nvfp4" else 2.0 ** (exponents.astype(np.float64) - 127)
    values = e4m3(codes.astype(np.uint8)) if bits == 8 else np.where(codes > 7, -1, 1) * E2M1[codes & 7]
    return values * np.repeat(size, group, 1)


@pytest.fixture(params=["cpu", "gpu"])
def branch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Weights unpacked for a CPU, or kept packed as for a GPU, where this machine computes either way."""
    monkeypatch.setattr(device, "on_gpu", lambda: request.param == "gpu")
    return str(request.param)


def encode(path: Path, task: str | None = None, texts: Sequence[str] = TEXTS) -> Any:
    model = mlx_jina.load(path, dtype="float32")
    return model.encode(list(texts), task=task)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_layer_is_what_its_format_defines(tmp_path: Path, name: str) -> None:
    """The file that is written, decoded bit by bit in NumPy, is what loads and what is exported."""
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    convert.to_mlx(str(source), tmp_path / "packed", **OPTIONS[name])
    block = checkpoints.read_config(tmp_path / "packed")["quantization"]
    mode, bits, group = block.get("mode", "affine"), block["bits"], block["group_size"]
    tensors = checkpoints.read_tensors(tmp_path / "packed")
    originals = checkpoints.read_tensors(source)
    convert.to_mlx(str(tmp_path / "packed"), tmp_path / "full", dtype="float32")
    expanded = checkpoints.read_tensors(tmp_path / "full")
    layers = quantize.layers(tensors)
    assert "encoder.layer.0.attention.self.query" in layers
    assert "embeddings.word_embeddings" in layers
    assert "embeddings.token_type_embeddings" not in layers
    for layer in layers:
        weight, scales = (tensors[f"{layer}.{part}"] for part in ("weight", "scales"))
        exact = unpacked(weight, scales, tensors.get(f"{layer}.biases"), mode, bits, group)
        np.testing.assert_allclose(np.array(expanded[f"{layer}.weight"]), exact, rtol=1e-6, atol=1e-6)
        wanted = np.array(originals[f"{layer}.weight"], np.float64)
        error = np.sqrt(((exact - wanted) ** 2).mean() / (wanted**2).mean())
        assert error < {2: 0.5, 3: 0.25, 4: 0.13, 5: 0.06, 6: 0.03, 8: 0.035 if mode == "mxfp8" else 0.01}[bits]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_packed_decoder_equals_float64(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = decoder_checkpoints.code(tmp_path / "code")
    convert.to_mlx(str(source), tmp_path / "packed", **OPTIONS[name])
    convert.to_mlx(str(tmp_path / "packed"), tmp_path / "full", dtype="float32")
    config = checkpoints.read_config(source)
    weights = {
        name.removeprefix("model."): np.array(x) for name, x in checkpoints.read_tensors(tmp_path / "full").items()
    }
    packed = [tensor for tensor in checkpoints.read_tensors(tmp_path / "packed") if tensor.endswith(".scales")]
    ids = [np.array(x) for x in mlx_jina.load(tmp_path / "packed").tokenize(TEXTS)]
    wanted = np.stack([reference.unit(reference.qwen3(weights, config, x)[-1]) for x in ids])
    for on_gpu, atol in {False: 2e-6, True: 1e-5}.items():
        monkeypatch.setattr(device, "on_gpu", lambda on_gpu=on_gpu: on_gpu)
        model = mlx_jina.load(tmp_path / "packed", dtype="float32")
        names = {name.removeprefix("model.").removesuffix(".scales") for name in packed}
        assert model.loaded.packings.keys() == names
        found = model.encode(TEXTS, task="nl2code", prompt="")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("mode", choices.MODES)
@pytest.mark.parametrize("model", MODELS)
def test_packed_models_are_their_full_ones(
    tmp_path: Path, model: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed weights, with adapters beside them, give the vectors and fingerprints of the same numbers in full."""
    make, task = MODELS[model]
    convert.to_mlx(str(make(tmp_path / "source")), tmp_path / "packed", mode=mode)
    convert.to_mlx(str(tmp_path / "packed"), tmp_path / "full", dtype="float32")
    convert.to_gguf(str(tmp_path / "packed"), tmp_path / "m.gguf", kind="F32")
    for on_gpu, atol in {False: 2e-6, True: 2e-5}.items():
        monkeypatch.setattr(device, "on_gpu", lambda on_gpu=on_gpu: on_gpu)
        packed = mlx_jina.load(tmp_path / "packed", dtype="float32")
        vectors, fingerprint = packed.encode(TEXTS, task=task), packed.fingerprint(task)
        # Both files hold the same numbers in full.
        full = mlx_jina.load(tmp_path / ("m.gguf" if on_gpu else "full"), dtype="float32")
        assert fingerprint == full.fingerprint(task)
        np.testing.assert_allclose(vectors, full.encode(TEXTS, task=task), atol=atol)
        assert {packing.mode for packing in packed.loaded.packings.values()} == {mode}


@pytest.mark.parametrize("mode", choices.MODES)
def test_a_task_of_packed_weights(tmp_path: Path, mode: Mode, branch: str) -> None:
    convert.to_mlx(str(checkpoints.v5_small(tmp_path / "source")), tmp_path / "packed", mode=mode)
    kept, fused = mlx_jina.load(tmp_path / "packed"), mlx_jina.load(tmp_path / "packed", task="retrieval")
    wanted = kept.encode(TEXTS, task="retrieval").astype(np.float64)
    np.testing.assert_allclose(fused.encode(TEXTS), wanted, atol=5e-6)
    assert branch == "gpu" or kept.dtype == "float32"


def test_half_precision_beside_packed_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    source = checkpoints.v5_small(tmp_path / "source", dtype=mx.bfloat16)
    for mode in choices.MODES:
        convert.to_mlx(str(source), tmp_path / mode, mode=mode)
        half = mlx_jina.load(tmp_path / mode)
        assert half.dtype == "bfloat16"
        exact = encode(tmp_path / mode, "retrieval")
        assert (half.encode(TEXTS, task="retrieval") * exact).sum(axis=1).min() > 0.999


# ---- folders of mlx-lm


def _by_mlx_lm(target: Path, how: str) -> Path:
    """A checkpoint quantised and written by mlx-lm's own code."""
    utils = pytest.importorskip("mlx_lm.utils")
    from mlx_lm.convert import mixed_quant_predicate_builder

    source = target.parent / "source"
    convert.to_mlx(str(decoder_checkpoints.code(target.parent / "published")), source)
    model, config = utils.load_model(source, lazy=True)
    predicate: Any = None
    options: dict[str, Any] = {"group_size": 32, "bits": 4}
    if how in choices.RECIPES:
        predicate = mixed_quant_predicate_builder(how, model, 32)
    elif how == "by hand":

        def predicate(path: str, module: Any) -> Any:
            if "embed_tokens" in path:
                return {"group_size": 32, "bits": 8}
            if "layers.0." in path:
                return False
            return {"group_size": 32, "bits": 8, "mode": "mxfp8"} if "down_proj" in path else True

    else:
        options = {"group_size": None, "bits": None, "mode": how}
    model, config = utils.quantize_model(model, config, quant_predicate=predicate, **options)
    utils.save_model(target, model)
    utils.save_config(config, target / "config.json")
    for name in ("tokenizer.json", "config_sentence_transformers.json"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


@pytest.mark.parametrize("how", [*choices.MODES, *choices.RECIPES, "by hand"])
def test_what_mlx_lm_writes(tmp_path: Path, how: str, branch: str) -> None:
    """mlx-lm's folder gives mlx-lm's last state; our copy of it is one that mlx-lm loads again."""
    utils = pytest.importorskip("mlx_lm.utils")
    path = _by_mlx_lm(tmp_path / "packed", how)
    model = mlx_jina.load(path, dtype="float32")
    ids = model.tokenize(TEXTS[0])[0]
    theirs, _ = utils.load_model(path)
    theirs.apply(lambda x: x.astype(mx.float32) if x.dtype == mx.bfloat16 else x)
    state = np.array(theirs.model(mx.array(ids)[None])[0, -1].astype(mx.float32), np.float64)
    # mlx-lm looks rows of the other modes up in bfloat16.
    atol = 1e-2 if how in choices.MODES[1:] else 2e-5
    np.testing.assert_allclose(
        model.encode(TEXTS[0], task="nl2code", prompt=""), state / np.linalg.norm(state), atol=atol
    )
    expected = checkpoints.read_config(path)["quantization"]
    packed = {f"model.{name}": packing._asdict() for name, packing in model.loaded.packings.items()}
    for layer, module in theirs.named_modules():
        if hasattr(module, "bits"):
            sizes = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
            assert packed.pop(layer) == sizes
    assert not packed
    assert expected


@pytest.mark.parametrize("recipe", choices.RECIPES)
def test_recipes_are_mlx_lms(tmp_path: Path, recipe: Recipe) -> None:
    theirs = folder.read(_by_mlx_lm(tmp_path / "theirs", recipe))
    source = tmp_path / "source"
    convert.to_mlx(str(source), tmp_path / "ours", recipe=recipe, group_size=32)
    ours = folder.read(tmp_path / "ours")
    # mlx-lm rounds its models to the dtype of config.json first only in its command.
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert ours.tensors[name].shape == tensor.shape
        assert ours.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(np.array(ours.tensors[name]), np.array(tensor))


@pytest.mark.parametrize("mode", choices.MODES)
def test_mlx_lm_loads_what_we_write(tmp_path: Path, mode: Mode) -> None:
    utils = pytest.importorskip("mlx_lm.utils")
    convert.to_mlx(str(decoder_checkpoints.code(tmp_path / "source")), tmp_path / "packed", mode=mode)
    theirs, _ = utils.load_model(tmp_path / "packed")
    model = mlx_jina.load(tmp_path / "packed")
    ids = model.tokenize(TEXTS[0])[0]
    state = np.array(theirs.model(mx.array(ids)[None])[0, -1].astype(mx.float32), np.float64)
    found = model.encode(TEXTS[0], task="nl2code", prompt="")
    assert found @ state / np.linalg.norm(state) > 0.9999


def test_names_of_other_programs(tmp_path: Path) -> None:
    """mlx-vlm and mlx-embeddings put a language model's prefix before the names of layers."""
    path = _by_mlx_lm(tmp_path / "packed", "by hand")
    wanted = encode(path, "nl2code")
    tensors = {f"language_model.{name}": x for name, x in checkpoints.read_tensors(path).items()}
    mx.eval(tensors)
    mx.save_safetensors(str(path / "model.safetensors"), tensors)
    config = checkpoints.read_config(path)
    for block in quantize.BLOCKS:
        config[block] = {
            name if not isinstance(value, dict) else f"language_model.{name}": value
            for name, value in config[block].items()
        }
        config[block]["language_model.model.layers.0.mlp.up_proj"] = False
    checkpoints.write_json(path / "config.json", config)
    np.testing.assert_array_equal(encode(path, "nl2code"), wanted)
    # Older programs write the second name alone.
    del config["quantization"]
    checkpoints.write_json(path / "config.json", config)
    np.testing.assert_array_equal(encode(path, "nl2code"), wanted)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"bits": 4}, {"mode": "mxfp4", "group_size": 32}),
        ({"bits": 4}, {"bits": 8, "group_size": 32}),
        ({"mode": "mxfp8"}, {"mode": "affine"}),
        ({"mode": "nvfp4"}, {"mode": "mxfp4", "group_size": 32}),
    ],
)
def test_parts_know_better_than_common_values(
    tmp_path: Path, options: dict[str, Any], changes: dict[str, Any], branch: str
) -> None:
    """As in mlx-lm: shapes and dtypes leave only one packing, and the block may mean other layers."""
    path = _packed(tmp_path, **options)
    wanted = encode(path)
    config = checkpoints.read_config(path)
    config["quantization"] = {**config["quantization"], **changes}
    checkpoints.write_json(path / "config.json", config)
    np.testing.assert_array_equal(encode(path), wanted)


# ---- refusals


def _packed(tmp_path: Path, **options: Any) -> Path:
    convert.to_mlx(str(checkpoints.tiny_jina_bert(tmp_path / "source")), tmp_path / "packed", **options)
    return tmp_path / "packed"


QUERY = "encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"bits": 4}, {"mode": "nf4"}, "is not implemented in MLX"),
        ({"bits": 4}, {"mode": 5}, "'mode' should be str"),
        ({"bits": 4}, {"bits": 7}, "is not implemented in MLX"),
        ({"bits": 4}, {"bits": 2**70}, "is not implemented in MLX"),
        ({"bits": 4}, {"group_size": 48}, "is not implemented in MLX"),
        ({"bits": 4}, {"group_size": 2**40}, "is not implemented in MLX"),
        ({"bits": 4}, {"mode": "mxfp4", "group_size": 64}, "is not implemented in MLX"),
        ({"bits": 4}, {QUERY: False}, f"says that {QUERY} is not packed"),
        ({"bits": 4}, {QUERY: {"group_size": 64, "bits": 8}}, f"{QUERY}.weight has shape"),
        ({"bits": 4}, {QUERY: {"group_size": 64}}, f"'bits' should be int, found None, .* how {QUERY} is packed"),
        ({"bits": 4}, {QUERY: []}, rf"should say how {QUERY} is packed, found \[\]"),
        ({"bits": 4}, {"bits": "4"}, "'bits' should be int, found '4'"),
        ({"bits": 4}, {"quant_method": ["x"]}, r"are quantised by \['x'\]"),
        ({"bits": 4}, {"quantize_input": True}, "'quantize_input' is set"),
        ({"bits": 4}, {"quant_method": "awq"}, "are quantised by awq"),
    ],
)
def test_packings_that_mlx_has_not(
    tmp_path: Path, options: dict[str, Any], changes: dict[str, Any], words: str, branch: str
) -> None:
    path = _packed(tmp_path, **options)
    config = checkpoints.read_config(path)
    config["quantization"] = {**config["quantization"], **changes}
    checkpoints.write_json(path / "config.json", config)
    uses: tuple[Callable[[], object], ...] = (
        lambda: mlx_jina.load(path),
        lambda: convert.to_mlx(str(path), tmp_path / "x"),
        lambda: convert.to_gguf(str(path), tmp_path / "x.gguf"),
    )
    for use in uses:
        with pytest.raises(CheckpointError, match=words) as caught:
            use()
        assert str(path) in str(caught.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("mode", choices.MODES)
def test_parts_that_are_missing(tmp_path: Path, mode: str, branch: str) -> None:
    path = _packed(tmp_path, mode=mode)
    parts = ("weight", "scales", "biases")[: 3 if mode == "affine" else 2]
    tensors = checkpoints.read_tensors(path)
    mx.eval(tensors)
    for part in parts:
        kept = {name: x for name, x in tensors.items() if name != f"{QUERY}.{part}"}
        mx.save_safetensors(str(path / "model.safetensors"), kept)
        with pytest.raises(CheckpointError, match=rf"{QUERY}"):
            mlx_jina.load(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qweight", "AWQ or GPTQ"),
        ("weight_packed", "compressed-tensors"),
        ("weight_scale_inv", "DeepSeek's FP8"),
        ("weight.absmax", "bitsandbytes"),
    ],
)
def test_weights_of_other_quantisers(bert: Path, name: str, words: str) -> None:
    tensors = checkpoints.read_tensors(bert)
    mx.eval(tensors)
    mx.save_safetensors(
        str(bert / "model.safetensors"), {**tensors, f"{QUERY}.{name}": mx.zeros((4, 4), mx.int32)}
    )
    with pytest.raises(CheckpointError, match=words):
        mlx_jina.load(bert)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 7}, r"cannot be quantised like this: .*bits 7"),
        ({"bits": 4, "group_size": 31}, "group size 31"),
        ({"group_size": 32}, "group size 32 is for quantised weights"),
        ({"mode": "nf4"}, "mode 'nf4' is not one of affine, mxfp4, mxfp8, nvfp4"),
        ({"mode": "mxfp4", "bits": 8}, "cannot be quantised like this"),
        ({"mode": "nvfp4", "group_size": 64}, "cannot be quantised like this"),
        ({"recipe": "mixed_1_2"}, "recipe 'mixed_1_2' is not one of mixed_2_6"),
        ({"recipe": "mixed_3_6", "bits": 4}, "decides on the bits of each layer"),
        ({"recipe": "mixed_3_6", "mode": "mxfp4"}, "decides on the bits of each layer"),
        ({"recipe": "mixed_3_6"}, "which .* does not have"),
    ],
)
def test_wishes_that_mlx_cannot_fulfil(bert: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        convert.to_mlx(str(bert), tmp_path / "x", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


# ---- the command line


def test_the_command_writes_and_info_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlx_jina.cli import info

    source = decoder_checkpoints.code(tmp_path / "source")
    run = CliRunner().invoke
    done = run(command, ["to-mlx", str(source), str(tmp_path / "fp"), "--mode", "nvfp4"])
    assert done.exit_code == 0, done.output
    done = run(
        command, ["to-mlx", str(source), str(tmp_path / "mixed"), "--recipe", "mixed_3_6", "--group-size", "32"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "fp/config.json").read_text())["quantization"]["mode"] == "nvfp4"
    for name, lines in (
        ("fp", ["mode nvfp4, 4 bits, group size 16 (22 layers)"]),
        ("mixed", ["mode affine, 3 bits, group size 32", "mode affine, 6 bits, group size 32"]),
        ("source", []),
    ):
        capsys.readouterr()
        info.run(str(tmp_path / name), {})
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("quantised")]
        assert len(rows) == len(lines)
        assert all(line in row for line, row in zip(lines, rows, strict=True))
