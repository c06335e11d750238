"""Files that do not fit together, or that mean harm: refused before anything comes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from gguf import GGUFReader, GGUFWriter

import mlx_jina
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import convert, lora
from tests.support import checkpoints, decoder_checkpoints


def change(path: Path, **values: Any) -> None:
    """Keys of a JSON file."""
    checkpoints.write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


@pytest.mark.parametrize("beyond", [0, 20_000])
def test_a_token_without_weights(bert: Path, tmp_path: Path, beyond: int) -> None:
    tokenizer = json.loads((bert / "tokenizer.json").read_text(encoding="utf-8"))
    rows = checkpoints.read_config(bert)["vocab_size"]
    tokenizer["added_tokens"].append(
        {
            "id": rows + beyond,
            "content": "<new>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
    )
    if beyond:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["<new>"] = rows + beyond
    checkpoints.write_json(bert / "tokenizer.json", tokenizer)
    with pytest.raises(CheckpointError, match=rf"id {rows + beyond}, but the model only {rows} rows"):
        convert.to_gguf(str(bert), tmp_path / "bert.gguf")
    model = mlx_jina.load(bert)
    assert model.encode("a fox").shape == (64,)
    with pytest.raises(CheckpointError, match=rf"gives the id \d+, but the model has weights for {rows} tokens"):
        model.encode(["a fox", "a <new> fox"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but there are"),
        ({"num_attention_heads": 0}, "should be positive, found 0"),
        ({"layer_norm_eps": -1.0}, "should be positive"),
        ({"hidden_size": 2**40}, "cannot be loaded"),
        ({"text_config": None, "num_hidden_layers": None}, "'num_hidden_layers' should be int"),
        ({"quantization": None}, ""),
        ({"quantization": {"bits": 3.5}}, ""),
        ({"task_names": "retrieval"}, "'task_names' should be a list of names, found 'retrieval'"),
        ({"task_names": ["retrieval", 5]}, "'task_names' should be a list of names"),
        ({"matryoshka_dims": 5}, "'matryoshka_dims' should be sizes, found 5"),
    ],
)
def test_a_config_that_cannot_be(bert: Path, values: dict[str, Any], words: str) -> None:
    change(bert / "config.json", **values)
    if words:
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(bert)
    else:
        # Nothing is packed, so nothing asks how.
        assert mlx_jina.load(bert).encode("a fox").shape == (64,)


def test_prompts_that_are_no_texts(bert: Path) -> None:
    checkpoints.write_json(bert / "config_sentence_transformers.json", {"prompts": {"document": 5}})
    with pytest.raises(CheckpointError, match="'prompts' should be texts by name"):
        mlx_jina.load(bert)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"hidden_size": ' + "1" * 5000 + "}"])
def test_json_that_python_gives_up_on(bert: Path, content: str) -> None:
    (bert / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        mlx_jina.load(bert)


@pytest.mark.parametrize("index", [{"weight_map": None}, {"weight_map": ["x"]}, {"weight_map": {"a": "../x"}}])
def test_an_index_that_leads_elsewhere(bert: Path, index: dict[str, Any]) -> None:
    checkpoints.write_json(bert / "model.safetensors.index.json", index)
    (bert / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="'weight_map' should map tensors to files beside it"):
        mlx_jina.load(bert)


def test_a_task_that_is_a_path(small: Path, tmp_path: Path) -> None:
    change(small / "config.json", task_names=["../../../elsewhere"])
    with pytest.raises(CheckpointError, match=r"'\.\./\.\./\.\./elsewhere' is no name of a task"):
        mlx_jina.load(small)
    assert not (tmp_path / "elsewhere").exists()


def test_an_adapters_task_that_is_a_path(small: Path, tmp_path: Path) -> None:
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    convert.to_gguf(str(small), downloaded / "base.gguf")
    adapter = downloaded / "lora-retrieval-base.gguf"
    raw = adapter.read_bytes()
    name = b"adapter.lora.task_name"
    at = raw.index(name) + len(name) + 4
    # Of the same length, or every offset behind it would be wrong.
    assert raw[at : at + 17] == (9).to_bytes(8, "little") + b"retrieval"
    adapter.write_bytes(raw[: at + 8] + b"../victim" + raw[at + 17 :])
    adapter.rename(downloaded / "adapter.gguf")
    for work in (mlx_jina.load, lambda path: convert.to_mlx(str(path), tmp_path / "work" / "out")):
        (tmp_path / "work").mkdir(exist_ok=True)
        with pytest.raises(CheckpointError, match=r"'\.\./victim' is no name of a task"):
            work(downloaded)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloaded", "small", "work"]


@pytest.mark.parametrize("pattern", ["((.*)*)*x", "("])
def test_a_rank_pattern_that_is_no_name(small: Path, pattern: str) -> None:
    change(small / "adapters/retrieval/adapter_config.json", rank_pattern={pattern: 4})
    with pytest.raises(CheckpointError, match="only names of modules are implemented"):
        lora.read(small / "adapters/retrieval")


@pytest.mark.parametrize(
    "values", [{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, {"hidden_act": "relu"}]
)
def test_what_does_not_load_is_not_converted(tmp_path: Path, values: dict[str, Any]) -> None:
    folder = decoder_checkpoints.code(tmp_path / "code")
    change(folder / "config.json", **values)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: mlx_jina.load(folder),
        lambda: convert.to_gguf(str(folder), tmp_path / "x.gguf"),
        lambda: convert.to_mlx(str(folder), tmp_path / "x"),
    )
    for attempt in attempts:
        with pytest.raises(CheckpointError, match="is implemented"):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


@pytest.mark.parametrize(
    ("key", "value"), [("qwen2.rope.scaling.type", "yarn"), ("qwen2.attention.causal", False)]
)
def test_a_gguf_that_llama_cpp_computes_otherwise(tmp_path: Path, key: str, value: Any) -> None:
    plain, changed = tmp_path / "plain.gguf", tmp_path / "changed.gguf"
    convert.to_gguf(str(decoder_checkpoints.code(tmp_path / "code")), plain, kind="F32")
    reader, writer = GGUFReader(plain), GGUFWriter(changed, "qwen2")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kind, inner)
    writer.add_string(key, value) if isinstance(value, str) else writer.add_bool(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    mlx_jina.load(plain)
    with pytest.raises(CheckpointError, match=rf"'{key}' is {value!r}; only"):
        mlx_jina.load(changed)


def test_mlx_lms_second_block_does_not_outlive_the_first(bert: Path, tmp_path: Path) -> None:
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    convert.to_mlx(str(bert), packed, bits=8, group_size=32)
    block = checkpoints.read_config(packed)["quantization"]
    change(packed / "config.json", quantization_config=block)
    convert.to_mlx(str(packed), plain, dtype="bfloat16")
    assert not {"quantization", "quantization_config"} & checkpoints.read_config(plain).keys()


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (None, r"'quantization' should say how .* is packed, found None"),
        ({"group_size": 32}, "'bits' should be int, found None"),
        ({"group_size": 32, "bits": 4}, r"word_embeddings is quantised, but there is no .*\.biases"),
    ],
)
def test_packed_layers_that_are_incomplete(
    bert: Path, tmp_path: Path, block: dict[str, Any] | None, words: str
) -> None:
    packed = tmp_path / "packed"
    convert.to_mlx(str(bert), packed, bits=4, group_size=32)
    change(packed / "config.json", quantization=block)
    tensors = checkpoints.read_tensors(packed)
    mx.eval(tensors)
    mx.save_safetensors(
        str(packed / "model.safetensors"),
        {name: x for name, x in tensors.items() if name != "embeddings.word_embeddings.biases"},
    )
    for use in (mlx_jina.load, lambda path: convert.to_gguf(str(path), tmp_path / "x.gguf")):
        with pytest.raises(CheckpointError, match=words):
            use(packed)
