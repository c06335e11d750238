"""Our .gguf against the folder it came from, and against llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader

import mlx_jina
from mlx_jina.choices import GGUFType
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.weights import convert, folder
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import reader as gguf_reader
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, decoder_checkpoints, gguf_files, llama_cpp, reference, v3_checkpoints

TEXTS = [
    "how do i bake bread",
    "the quick brown fox jumps over the lazy dog " * 8,
    "Paris is the capital of France; light travels fast in vacuum!",
]
QUANTIZED = ["Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL", "Q2_K"]


def _same(source: Path, target: Path) -> None:
    ours = folder.read(source).tensors
    read = gguf_reader.read(target).tensors
    kept = {name: x for name, x in ours.items() if not name.startswith("pooler.")}
    assert kept.keys() == read.keys()
    for name, tensor in kept.items():
        assert mx.array_equal(tensor.astype(mx.float32), read[name].astype(mx.float32)), name


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
@pytest.mark.parametrize(("kind", "dtype"), [("F32", mx.float32), ("F16", mx.float16), ("BF16", mx.bfloat16)])
def test_plain_types_come_back_exactly(tmp_path: Path, layout: str, kind: GGUFType, dtype: mx.Dtype) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", layout, dtype=dtype)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind=kind)
    _same(source, tmp_path / "m.gguf")
    convert.to_mlx(str(tmp_path / "m.gguf"), tmp_path / "back")
    _same(tmp_path / "back", tmp_path / "m.gguf")


@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
def test_f32_and_back_is_byte_identical(tmp_path: Path, layout: str) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", layout)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="F32")
    convert.to_mlx(str(tmp_path / "m.gguf"), tmp_path / "back")
    first, second = checkpoints.read_tensors(source), checkpoints.read_tensors(tmp_path / "back")
    assert {name for name in first if not name.startswith("pooler.")} == second.keys()
    for name, tensor in second.items():
        assert tensor.dtype == mx.float32
        assert np.array(tensor).tobytes() == np.array(first[name]).tobytes(), name
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def _check_against_llama(path: Path, bound: float) -> None:
    encoder = mlx_jina.load(path, dtype="float32")
    ids = gguf_reader.read(path).tokenizer.encode(TEXTS)
    ours = reference.unit(encoder.encode(TEXTS, prompt=""))
    cosines = (ours * llama_cpp.vectors(path, [row.tolist() for row in ids])).sum(axis=1)
    assert 1 - cosines.min() < bound


# llama.cpp's GELU is the tanh form from a table in float16, and its quantised products round activations.
@pytest.mark.parametrize("layout", checkpoints.LAYOUTS)
@pytest.mark.parametrize(("kind", "bound"), [("F32", 1e-6), ("F16", 1e-5), ("Q8_0", 2e-3), ("Q4_0", 3e-3)])
def test_llama_cpp_gives_the_same_vectors_for_v2(
    tmp_path: Path, layout: str, kind: GGUFType, bound: float
) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", layout)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind=kind)
    _check_against_llama(tmp_path / "m.gguf", bound)


@pytest.mark.parametrize(("kind", "bound"), [("F32", 1e-9), ("F16", 1e-5), ("Q8_0", 2e-3), ("Q4_0", 3e-3)])
def test_llama_cpp_gives_the_same_vectors_for_v5_small(tmp_path: Path, kind: GGUFType, bound: float) -> None:
    source = checkpoints.v5_small(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", task="retrieval", kind=kind)
    _check_against_llama(tmp_path / "m.gguf", bound)


@pytest.mark.parametrize(("kind", "bound"), [("F32", 1e-9), ("F16", 1e-5), ("Q8_0", 2e-3), ("Q4_0", 3e-3)])
def test_llama_cpp_gives_the_same_vectors_for_v5_nano(tmp_path: Path, kind: GGUFType, bound: float) -> None:
    source = decoder_checkpoints.v5_nano(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", task="retrieval", kind=kind)
    _check_against_llama(tmp_path / "m.gguf", bound)
    wanted = mlx_jina.load(source, task="retrieval").fingerprint()
    assert kind != "F32" or mlx_jina.load(tmp_path / "m.gguf", task="retrieval").fingerprint() == wanted


@pytest.mark.parametrize("layout", ["original", "native"])
@pytest.mark.parametrize(("kind", "bound"), [("F32", 1e-6), ("F16", 1e-5), ("Q8_0", 2e-3), ("Q4_0", 3e-3)])
def test_llama_cpp_gives_the_same_vectors_for_v3(
    tmp_path: Path, layout: str, kind: GGUFType, bound: float
) -> None:
    source = getattr(v3_checkpoints, layout)(tmp_path / "model")
    task = "retrieval.query"
    convert.to_gguf(str(source), tmp_path / "m.gguf", task=task, kind=kind)
    _check_against_llama(tmp_path / "m.gguf", bound)
    if kind == "F32":
        wanted = mlx_jina.load(source, task=task)
        convert.to_mlx(str(source), tmp_path / "mlx", task=task)
        convert.to_mlx(str(tmp_path / "m.gguf"), tmp_path / "back")
        for name in ("m.gguf", "mlx", "back"):
            encoder = mlx_jina.load(tmp_path / name)
            assert (encoder.tasks, encoder.max_length) == ((task,), 8192)
            assert encoder.fingerprint() == wanted.fingerprint()
            # The one task's prompt is the default.
            assert np.array_equal(encoder.encode(TEXTS), wanted.encode(TEXTS, task=task))


@pytest.mark.parametrize(("kind", "bound"), [("F32", 1e-9), ("F16", 1e-5), ("Q8_0", 2e-3), ("Q4_0", 3e-3)])
def test_llama_cpp_gives_the_same_vectors_for_code(tmp_path: Path, kind: GGUFType, bound: float) -> None:
    source = decoder_checkpoints.code(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind=kind)
    ids = gguf_reader.read(tmp_path / "m.gguf").tokenizer.encode(TEXTS)
    encoder = mlx_jina.load(tmp_path / "m.gguf", dtype="float32")
    ours = reference.unit(encoder.encode(TEXTS, task=encoder.tasks[0], prompt=""))
    cosines = (ours * llama_cpp.vectors(tmp_path / "m.gguf", [row.tolist() for row in ids])).sum(axis=1)
    assert 1 - cosines.min() < bound


def test_one_fingerprint_for_one_model(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", dtype=mx.float16)
    wanted = mlx_jina.load(source).fingerprint()
    for kind in ("F32", "F16"):
        convert.to_gguf(str(source), tmp_path / f"{kind}.gguf", kind=kind)
        assert mlx_jina.load(tmp_path / f"{kind}.gguf").fingerprint() == wanted
    convert.to_mlx(str(source), tmp_path / "mlx")
    convert.to_mlx(str(tmp_path / "F16.gguf"), tmp_path / "from-gguf")
    for name in ("mlx", "from-gguf"):
        assert mlx_jina.load(tmp_path / name).fingerprint() == wanted


def test_one_fingerprint_for_a_task_with_its_prompts(tmp_path: Path) -> None:
    source = checkpoints.v5_small(tmp_path / "model")
    wanted = mlx_jina.load(source, task="retrieval").fingerprint()
    convert.to_gguf(str(source), tmp_path / "m.gguf", task="retrieval", kind="F32")
    convert.to_mlx(str(source), tmp_path / "mlx", task="retrieval")
    convert.to_gguf(str(tmp_path / "mlx"), tmp_path / "again.gguf", kind="F32")
    for name in ("m.gguf", "mlx", "again.gguf"):
        encoder = mlx_jina.load(tmp_path / name, task="retrieval")
        assert encoder.fingerprint() == wanted
        assert encoder.prompts == {"query": "Query: ", "document": "Document: "}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantised_files_expand_to_what_the_gguf_package_reads(tmp_path: Path, kind: GGUFType) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", heads=16)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind=kind)
    convert.to_mlx(str(tmp_path / "m.gguf"), tmp_path / "packed")
    convert.to_mlx(str(tmp_path / "m.gguf"), tmp_path / "full", dtype="float32")
    # On a GPU float16 would compute, the dtype of some types' scales.
    wanted = mlx_jina.load(tmp_path / "m.gguf", dtype="float32").fingerprint()
    assert mlx_jina.load(tmp_path / "packed", dtype="float32").fingerprint() == wanted
    assert mlx_jina.load(tmp_path / "full", dtype="float32").fingerprint() == wanted


@pytest.mark.parametrize("options", [{}, {"bits": 8, "group_size": 32}, {"dtype": "bfloat16"}])
@pytest.mark.parametrize("model", ["v5-small", "code", "Q4_K_S"])
def test_mlx_lm_loads_our_folders(tmp_path: Path, options: dict[str, Any], model: str) -> None:
    utils = pytest.importorskip("mlx_lm.utils")
    shape = {**checkpoints.V5_TINY, "hidden": 256, "head_dim": 64, "intermediate": 512}
    if model == "code":
        source, task = decoder_checkpoints.code(tmp_path / "model"), None
    else:
        source, task = checkpoints.v5_small(tmp_path / "model", shape), "retrieval"
    if model == "Q4_K_S":
        # Of a .gguf, blocks of different widths stay as they are.
        convert.to_gguf(str(source), tmp_path / "m.gguf", task=task, kind="Q4_K_S")
        source, task = tmp_path / "m.gguf", None
    convert.to_mlx(str(source), tmp_path / "mlx", task=task, **options)
    theirs, _ = utils.load_model(tmp_path / "mlx")
    ids = folder.read(tmp_path / "mlx").tokenizer.encode(["how do i bake bread"])[0]
    vector = np.array(theirs.model(mx.array(ids)[None])[0, -1].astype(mx.float32))
    encoder = mlx_jina.load(tmp_path / "mlx")
    first = encoder.tasks[0] if encoder.tasks else None
    ours = encoder.encode("how do i bake bread", task=first, prompt="")
    assert ours @ vector / np.linalg.norm(vector) > (0.999 if "dtype" in options else 0.999999)


MODELS: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "jina-embeddings-v2-small-en": (checkpoints.tiny_jina_bert, None),
    "jina-embeddings-v5-text-small": (checkpoints.v5_small, "retrieval"),
    "jina-embeddings-v5-text-nano": (decoder_checkpoints.v5_nano, "clustering"),
    "jina-code-embeddings-0.5b": (decoder_checkpoints.code, None),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_metadata_survives_a_folder(tmp_path: Path, model: str, kind: GGUFType) -> None:
    make, task = MODELS[model]
    convert.to_gguf(str(make(tmp_path / model)), tmp_path / "made.gguf", task=task, kind=kind)
    # What other people add has to survive as well.
    extra = {"general.description": "words", "general.tags": ["a", "b"], "general.size_label": "33M"}
    made = GGUF(tmp_path / "made.gguf")
    outputs = [
        gguf_file.Output(name, entry.type, entry.shape, partial(made.raw, name))
        for name, entry in made.entries.items()
    ]
    architecture = made.metadata["general.architecture"]
    gguf_file.write([gguf_file.File(tmp_path / "a.gguf", architecture, {**made.metadata, **extra}, outputs)])
    convert.to_mlx(str(tmp_path / "a.gguf"), tmp_path / "mlx")
    convert.to_gguf(str(tmp_path / "mlx"), tmp_path / "b.gguf", kind=kind)
    first, second = GGUF(tmp_path / "a.gguf"), GGUF(tmp_path / "b.gguf")
    assert first.metadata == second.metadata == {**made.metadata, **extra}
    assert first.metadata["general.license"] in ("apache-2.0", "cc-by-nc-4.0")
    assert first.metadata["general.source.url"] == f"https://huggingface.co/jinaai/{model}"
    assert first.metadata.get("general.finetune") == task
    for name, entry in first.entries.items():
        assert entry.type == second.entries[name].type
        assert first.raw(name).tobytes() == second.raw(name).tobytes()


def test_a_file_says_where_it_comes_from(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--jinaai--jina-embeddings-v5-text-small" / "snapshots" / "0a1b2c"
    snapshot.mkdir(parents=True)
    convert.to_gguf(str(checkpoints.v5_small(snapshot)), tmp_path / "m.gguf", task="retrieval", kind="Q5_K_M")
    metadata = GGUF(tmp_path / "m.gguf").metadata
    assert {key: value for key, value in metadata.items() if key.startswith("general.")} == {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": "jina-embeddings-v5-text-small",
        "general.finetune": "retrieval",
        "general.license": "cc-by-nc-4.0",
        "general.source.url": "https://huggingface.co/jinaai/jina-embeddings-v5-text-small",
        "general.source.revision": "0a1b2c",
        "general.file_type": 17,
        "general.quantization_version": 2,
    }


def test_what_llama_cpp_assumes_when_it_is_missing_is_there(tmp_path: Path) -> None:
    convert.to_gguf(str(checkpoints.tiny_jina_bert(tmp_path / "v2")), tmp_path / "v2.gguf", kind="F16")
    file = GGUF(tmp_path / "v2.gguf")
    assert file.metadata["jina-bert-v2.pooling_type"] == 1
    assert file.metadata["jina-bert-v2.context_length"] == 8192
    assert file.metadata["jina-bert-v2.attention.causal"] is False
    assert file.metadata["jina-bert-v2.feed_forward_length"] == 96
    assert file.entries["token_types.weight"].type == Type.F32
    assert file.entries["blk.0.ffn_gate.weight"].shape == file.entries["blk.0.ffn_up.weight"].shape == (96, 64)
    convert.to_gguf(str(checkpoints.v5_small(tmp_path / "v5")), tmp_path / "v5.gguf", task="clustering")
    file = GGUF(tmp_path / "v5.gguf")
    assert file.metadata["general.architecture"] == "qwen3"
    assert file.metadata["qwen3.rope.freq_base"] == 3.5e6
    assert file.metadata["qwen3.pooling_type"] == 3
    assert file.metadata["qwen3.context_length"] == 32768
    assert file.metadata["qwen3.attention.key_length"] == file.metadata["qwen3.attention.value_length"] == 32
    assert "output.weight" not in file.entries


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    convert.to_gguf(
        str(checkpoints.v5_small(tmp_path / "v5")), tmp_path / "v5.gguf", task="retrieval", kind="Q8_0"
    )
    ours, theirs = GGUF(tmp_path / "v5.gguf"), GGUFReader(tmp_path / "v5.gguf")
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert {key: field.contents() for key, field in fields.items()} == ours.metadata
    for tensor in theirs.tensors:
        assert tensor.tensor_type == ours.entries[tensor.name].type
        assert tensor.data.tobytes() == ours.raw(tensor.name).tobytes()


def _rewritten(source: Path, target: Path, change: dict[str, object], **renamed: np.ndarray) -> Path:
    """A copy with other metadata and other tensors (None removes a key)."""
    file = GGUF(source)
    metadata = {key: value for key, value in {**file.metadata, **change}.items() if value is not None}
    arrays = {
        name: np.frombuffer(file.raw(name).tobytes(), np.float32).reshape(entry.shape)
        for name, entry in file.entries.items()
    }
    for name, array in renamed.items():
        arrays[name] = array
    outputs = [
        gguf_file.Output(name, Type.F32, array.shape, lambda array=array: array)  # type: ignore[misc]
        for name, array in reversed(arrays.items())
        if array.size
    ]
    keys = dict(reversed(metadata.items()))
    gguf_file.write([gguf_file.File(target, str(metadata["general.architecture"]), keys, outputs)])
    return target


GONE = np.zeros(0, dtype=np.float32)


@pytest.mark.parametrize("layout", ["original", "qk-devlin-norm", "qk-post-norm"])
def test_fused_tensors_and_old_files_are_read(tmp_path: Path, layout: str) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model", layout)
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="F32")
    tensors = {name: np.array(x) for name, x in folder.read(source).tensors.items()}
    changed: dict[str, np.ndarray] = {}
    for i in range(2):
        own = f"encoder.layer.{i}"
        for leaf in ("weight", "bias"):
            parts = [tensors[f"{own}.attention.self.{part}.{leaf}"] for part in ("query", "key", "value")]
            changed[f"blk.{i}.attn_qkv.{leaf}"] = np.concatenate(parts)
            changed |= {f"blk.{i}.attn_{part}.{leaf}": GONE for part in "qkv"}
        fused = "up_gated_layer" if layout == "qk-post-norm" else "gated_layers"
        changed[f"blk.{i}.ffn_up.weight"] = tensors[f"{own}.mlp.{fused}.weight"]
        changed[f"blk.{i}.ffn_gate.weight"] = GONE
    # As converters of 2024 wrote it: no flags, no JSON of our own, another word for the first token.
    old = dict.fromkeys(
        [
            "tokenizer.huggingface.json",
            "mlx-jina.config",
            "tokenizer.ggml.add_bos_token",
            "tokenizer.ggml.add_eos_token",
            "tokenizer.ggml.add_sep_token",
            "tokenizer.ggml.bos_token_id",
            "tokenizer.ggml.normalizer.lowercase",
            "general.type",
        ]
    )
    _rewritten(tmp_path / "m.gguf", tmp_path / "old.gguf", dict(old), **changed)
    if layout == "qk-post-norm":
        with pytest.warns(UserWarning, match=r"old\.gguf has a fused ffn_up"):
            encoder = mlx_jina.load(tmp_path / "old.gguf")
    else:
        encoder = mlx_jina.load(tmp_path / "old.gguf")
    np.testing.assert_array_equal(encoder.encode(TEXTS), mlx_jina.load(source).encode(TEXTS))


def test_errors_name_file_and_key(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="F32")
    zeros = np.zeros((4, 64), dtype=np.float32)
    for change, tensors, reason in (
        ({"general.architecture": "llama"}, {}, "'general.architecture' is 'llama'"),
        ({"general.type": "adapter"}, {}, "is an adapter, not a model"),
        ({"jina-bert-v2.pooling_type": 3}, {}, "asks for last pooling"),
        (
            {"jina-bert-v2.block_count": 3000000},
            {},
            "'jina-bert-v2.block_count' is 3000000, but the tensors say 2",
        ),
        ({"jina-bert-v2.embedding_length": 65}, {}, "'jina-bert-v2.embedding_length' is 65"),
        ({"jina-bert-v2.attention.head_count": 0}, {}, "'jina-bert-v2.attention.head_count' is 0"),
        (
            {"jina-bert-v2.context_length": "8192"},
            {},
            "'jina-bert-v2.context_length' is '8192', of the wrong type",
        ),
        ({"jina-bert-v2.feed_forward_length": None}, {}, "lacks the metadata 'jina-bert-v2.feed_forward_length'"),
        ({"tokenizer.huggingface.json": "{}"}, {}, "'tokenizer.huggingface.json' is not a tokenizer"),
        ({}, {"blk.0.attn_odd.weight": zeros}, "tensor 'blk.0.attn_odd.weight' is not one that jina-bert-v2 has"),
        ({}, {"blk.1.ffn_gate.weight": GONE}, "there is only blk.1.ffn_up.weight"),
    ):
        bad = _rewritten(tmp_path / "m.gguf", tmp_path / "bad.gguf", dict(change), **tensors)
        with pytest.raises(CheckpointError) as caught:
            mlx_jina.load(bad)
        assert str(bad) in str(caught.value)
        assert reason in str(caught.value)


def test_targets_and_options_are_checked_first(tmp_path: Path) -> None:
    source = checkpoints.tiny_jina_bert(tmp_path / "model")
    (tmp_path / "there").mkdir()
    for function, target, options, reason in (
        (convert.to_gguf, "there", {}, "--force"),
        (convert.to_mlx, "there", {}, "--force"),
        (convert.to_gguf, "there", {"force": True}, "is a folder"),
        (convert.to_gguf, "no/m.gguf", {}, "does not exist"),
        (convert.to_gguf, "m.gguf", {"kind": "IQ2_XS"}, "importance matrix"),
        (convert.to_gguf, "m.gguf", {"kind": "Q9_0"}, "type 'Q9_0' is not one of F32, F16"),
        (convert.to_mlx, "model", {"force": True}, "also the source"),
        (convert.to_mlx, "x", {"bits": 7}, "cannot be quantised"),
        (convert.to_mlx, "x", {"group_size": 31}, "group size 31"),
        (convert.to_mlx, "x", {"dtype": "int8"}, "dtype='int8'"),
    ):
        with pytest.raises(InputError, match=reason):
            function(str(source), tmp_path / target, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "there"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        # Without a type, llama.cpp takes the factor for linear scaling.
        ({"qwen3.rope.scaling.factor": 4.0}, r"'qwen3\.rope\.scaling\.factor' is 4\.0; only 1 is implemented"),
        ({"qwen3.rope.scale_linear": 2.0}, r"'qwen3\.rope\.scale_linear' is 2\.0"),
        ({"qwen3.rope.scaling.type": "yarn"}, r"'qwen3\.rope\.scaling\.type' is 'yarn'"),
        ({"qwen3.rope.scaling.attn_factor": 3.0}, r"'qwen3\.rope\.scaling\.attn_factor' is 3\.0"),
        ({"qwen3.rope.dimension_count": 16}, r"'qwen3\.rope\.dimension_count' is 16; only 32 is implemented"),
        ({"qwen3.rope.freq_base": float("inf")}, "'rope_theta' is inf"),
        (
            {"mlx-jina.prompts": '{"default_prompt_name": "x"}'},
            "'default_prompt_name' is 'x', but the prompts",
        ),
    ],
)
def test_metadata_that_makes_other_vectors(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    convert.to_gguf(str(checkpoints.v5_small(tmp_path / "v5")), tmp_path / "m.gguf", task="retrieval", kind="F32")
    metadata = GGUF(tmp_path / "m.gguf").metadata
    same = {"qwen3.rope.scaling.factor": 1.0, "qwen3.rope.dimension_count": 32}
    mlx_jina.load(gguf_files.with_metadata(tmp_path / "m.gguf", tmp_path / "same.gguf", {**metadata, **same}))
    other = gguf_files.with_metadata(tmp_path / "m.gguf", tmp_path / "other.gguf", {**metadata, **values})
    for use in (mlx_jina.load, lambda path: convert.to_mlx(str(path), tmp_path / "x")):
        with pytest.raises(CheckpointError, match=words):
            use(other)
