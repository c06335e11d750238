"""Files that say how vectors are made: obeyed or refused, in load and in convert."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina.errors import CheckpointError, TruncationWarning
from mlx_jina.weights import convert, folder, modules, settings
from tests.support import checkpoints, decoder_checkpoints, v3_checkpoints

MEAN = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
CLS = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
LAST = {"word_embedding_dimension": 96, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}


def write_modules(path: Path, *modules: tuple[str, str, dict[str, Any] | None]) -> Path:
    """modules.json with these (type, folder, settings), after the model."""
    rows: list[dict[str, Any]] = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    ]
    for index, (kind, place, config) in enumerate(modules, 1):
        rows.append(
            {"idx": index, "name": str(index), "path": place, "type": f"sentence_transformers.models.{kind}"}
        )
        if config is not None:
            checkpoints.write_json(path / place / "config.json", config)
    checkpoints.write_json(path / "modules.json", rows)
    return path


def attempts(path: Path, target: Path) -> tuple[Callable[[], object], ...]:
    """Everything that would make vectors or files of a folder."""
    return (
        lambda: mlx_jina.load(path),
        lambda: convert.to_gguf(str(path), target / "x.gguf"),
        lambda: convert.to_mlx(str(path), target / "x"),
    )


def refused(path: Path, target: Path, words: str) -> None:
    for attempt in attempts(path, target):
        with pytest.raises(CheckpointError, match=words) as caught:
            attempt()
        assert str(path) in str(caught.value)
    assert not list(target.glob("x*"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("Pooling", "1_Pooling", CLS)], "asks for 'pooling_mode_cls_token' pooling"),
        ([("Pooling", "1_Pooling", {"pooling_mode": "cls"})], "asks for 'cls' pooling"),
        (
            [("Pooling", "1_Pooling", {**MEAN, "pooling_mode_max_tokens": True})],
            "asks for 'mean and pooling_mode_max",
        ),
        ([("Pooling", "1_Pooling", {"pooling_mode": ["mean", "cls"]})], "asks for 'mean and cls'"),
        ([("Pooling", "1_Pooling", LAST)], "asks for 'last' pooling"),
        ([("Pooling", "1_Pooling", {**MEAN, "include_prompt": False})], "'include_prompt' is false"),
        # sentence-transformers takes whatever is not false.
        ([("Pooling", "1_Pooling", {"pooling_mode_cls_token": 1})], "asks for 'pooling_mode_cls_token' pooling"),
        ([("Pooling", "1_Pooling", {"pooling_mode_cls_token": "true"})], "asks for 'pooling_mode_cls_token'"),
        ([("Pooling", "1_Pooling", {"include_prompt": 0})], "'include_prompt' is false"),
        ([("Pooling", "1_Pooling", MEAN), ("Transformer", "", None)], "models.Transformer' .no folder. behind"),
        ([("Pooling", "1_Pooling", {"pooling_mode": 3})], "'pooling_mode' should be a name, found 3"),
        ([("Pooling", "1_Pooling", None)], "lacks 1_Pooling/config.json"),
        (
            [("Pooling", "1_Pooling", MEAN), ("Dense", "2_Dense", {"out_features": 8})],
            "models.Dense' .2_Dense. behind",
        ),
        ([("Pooling", "1_Pooling", MEAN), ("LayerNorm", "2_LayerNorm", None)], "models.LayerNorm"),
        ([("WeightedLayerPooling", "1_WLP", None), ("Pooling", "2_Pooling", MEAN)], "models.WeightedLayerPooling"),
        ([("Pooling", "../elsewhere", None)], "is no folder beside it"),
        (
            [
                ("Pooling", "1_Pooling", MEAN),
                ("Normalize", "2_Normalize", {"module_input_name": "token_embeddings"}),
            ],
            "'module_input_name' is 'token_embeddings'",
        ),
    ],
)
def test_modules_that_make_other_vectors(bert: Path, tmp_path: Path, rows: list[Any], words: str) -> None:
    write_modules(bert, *rows)
    refused(bert, tmp_path, words)


@pytest.mark.parametrize(
    "content",
    [
        *("{}", '[{"type": 5}]', "[3]", "[]"),
        '[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]',
        '[{"type": "custom_st.TransformerWithDense", "path": ""}]',
    ],
)
def test_a_list_of_modules_that_is_none(bert: Path, tmp_path: Path, content: str) -> None:
    (bert / "modules.json").write_text(content)
    refused(bert, tmp_path, r"modules\.json should")


def test_a_model_in_a_folder_of_its_own(bert: Path, tmp_path: Path) -> None:
    checkpoints.write_json(
        bert / "modules.json",
        [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}],
    )
    refused(bert, tmp_path, "has the model in the folder '0_Transformer'")


@pytest.mark.parametrize(
    "rows",
    [
        [("Pooling", "1_Pooling", MEAN)],
        [("Pooling", "1_Pooling", MEAN), ("Normalize", "2_Normalize", None)],
        [("Pooling", "1_Pooling", {"pooling_mode": "mean", "include_prompt": True}), ("Dropout", "2_Dropout", {})],
        [("Pooling", "1_Pooling", {"pooling_mode": ["mean"]})],
        # sentence-transformers takes the mean where no mode is set.
        [("Pooling", "1_Pooling", {"word_embedding_dimension": 64})],
    ],
)
def test_modules_that_make_our_vectors(bert: Path, tmp_path: Path, rows: list[Any]) -> None:
    plain = mlx_jina.load(bert).encode("a fox")
    write_modules(bert, *rows)
    np.testing.assert_array_equal(mlx_jina.load(bert).encode("a fox"), plain)
    convert.to_mlx(str(bert), tmp_path / "mlx")


@pytest.mark.parametrize("name", modules.LIMITS)
def test_the_longest_text(bert: Path, tmp_path: Path, name: str) -> None:
    checkpoints.write_json(bert / name, {"max_seq_length": 5, "do_lower_case": False})
    convert.to_mlx(str(bert), tmp_path / "mlx")
    convert.to_gguf(str(bert), tmp_path / "m.gguf", kind="F32")
    for path in (bert, tmp_path / "mlx", tmp_path / "m.gguf"):
        model = mlx_jina.load(path)
        assert model.max_length == 5
        with pytest.warns(TruncationWarning):
            cut = model.encode("the quick brown fox jumps")
        np.testing.assert_allclose(cut, model.encode("the quick brown"), atol=1e-6)
    # A longer one than the model's changes nothing.
    checkpoints.write_json(bert / name, {"max_seq_length": 10**6})
    assert mlx_jina.load(bert).max_length == 8192


def test_the_longest_text_of_newer_files(bert: Path) -> None:
    """sentence-transformers 6 saves it with the tokenizer, and takes it from there where its own file has none."""
    checkpoints.write_json(bert / "tokenizer_config.json", {"model_max_length": 5})
    assert mlx_jina.load(bert).max_length == 8192
    checkpoints.write_json(bert / "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    assert mlx_jina.load(bert).max_length == 5
    checkpoints.write_json(bert / "sentence_bert_config.json", {"max_seq_length": 7})
    assert mlx_jina.load(bert).max_length == 7
    # What transformers writes for no limit.
    checkpoints.write_json(bert / "sentence_bert_config.json", {"max_seq_length": None})
    checkpoints.write_json(bert / "tokenizer_config.json", {"model_max_length": int(1e30)})
    assert mlx_jina.load(bert).max_length == 8192


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"do_lower_case": True}, "'do_lower_case' is True"),
        ({"max_seq_length": 0}, "'max_seq_length' should be a number of tokens, found 0"),
        ({"max_seq_length": "512"}, "found '512'"),
        ({"transformer_task": "fill-mask"}, "'transformer_task' is 'fill-mask'"),
        ({"query_length": 32}, "'query_length' is 32"),
        ({"config_args": {"is_causal": False}}, "'config_args' is"),
        ({"model_kwargs": {"num_hidden_layers": 1}}, "'model_kwargs' is"),
        ({"tokenizer_args": {"do_lower_case": False}}, "'tokenizer_args' is"),
        ({"tokenizer_name_or_path": "another"}, "'tokenizer_name_or_path' is 'another'"),
        ({"processing_kwargs": {"text": {"max_length": 3}}}, "'processing_kwargs.text' is"),
        (
            {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
            "pooler_out",
        ),
    ],
)
def test_settings_of_the_model(bert: Path, tmp_path: Path, values: dict[str, Any], words: str) -> None:
    checkpoints.write_json(bert / "sentence_bert_config.json", values)
    refused(bert, tmp_path, words)


def test_settings_of_the_model_that_change_nothing(bert: Path) -> None:
    plain = mlx_jina.load(bert).encode("a fox")
    values = {
        "model_args": {"attn_implementation": "sdpa", "torch_dtype": "float16"},
        "tokenizer_args": {"trust_remote_code": True, "padding_side": "left"},
        "processing_kwargs": {"text": {"padding": True}, "chat_template": {"add_generation_prompt": True}},
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "unpad_inputs": False,
    }
    checkpoints.write_json(bert / "sentence_bert_config.json", values)
    np.testing.assert_array_equal(mlx_jina.load(bert).encode("a fox"), plain)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prompts": {"query": 5}}, "'prompts' should be texts by name, found {'query': 5}"),
        ({"prompts": ["query: "]}, "'prompts' should be texts by name"),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "nope"}, "is 'nope', but the prompts are: query"),
        ({"default_prompt_name": "query"}, "is 'query', but the prompts are: none"),
    ],
)
def test_prompts_that_are_none(bert: Path, tmp_path: Path, values: dict[str, Any], words: str) -> None:
    checkpoints.write_json(bert / "config_sentence_transformers.json", values)
    refused(bert, tmp_path, words)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_that_leaves_nothing_of_a_text(bert: Path, limit: int) -> None:
    checkpoints.write_json(bert / "sentence_bert_config.json", {"max_seq_length": limit})
    with pytest.raises(CheckpointError, match=f"to {limit} tokens, of which the tokenizer's own take 2"):
        mlx_jina.load(bert)


def test_an_adapter_on_the_whole_model(small: Path, tmp_path: Path) -> None:
    """Transformers puts it on the model; of a folder with nothing else, it is said what it is."""
    for file in (small / "adapters/retrieval").iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    refused(small, tmp_path, "an adapter that transformers puts on the model: merge it")
    (small / "config.json").unlink()
    with pytest.raises(CheckpointError, match="it is an adapter alone: merge it into its model"):
        mlx_jina.load(small)


# ---- weights in several files


def _sharded(path: Path, factor: float = 1) -> dict[str, mx.array]:
    """Write the weights, times a factor, as two files with an index, beside model.safetensors."""
    tensors = {name: tensor * factor for name, tensor in checkpoints.read_tensors(path).items()}
    mx.eval(tensors)
    names = sorted(tensors)
    shards: dict[str, str] = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = names[: len(names) // 2] if number == 1 else names[len(names) // 2 :]
        mx.save_safetensors(str(path / file), {name: tensors[name] for name in part})
        shards |= dict.fromkeys(part, file)
    checkpoints.write_json(path / "model.safetensors.index.json", {"weight_map": shards})
    return tensors


def test_one_file_beside_an_index(bert: Path) -> None:
    """Transformers takes the one that has all."""
    plain = mlx_jina.load(bert).encode("a fox")
    _sharded(bert, 1.5)
    np.testing.assert_array_equal(mlx_jina.load(bert).encode("a fox"), plain)
    _sharded(bert)
    (bert / "model.safetensors").unlink()
    np.testing.assert_array_equal(mlx_jina.load(bert).encode("a fox"), plain)


def test_a_tensor_in_two_files(bert: Path, tmp_path: Path) -> None:
    tensors = _sharded(bert)
    (bert / "model.safetensors").unlink()
    name = min(tensors)
    second = dict(mx.load(str(bert / "model-00002-of-00002.safetensors")))  # type: ignore[arg-type]
    mx.eval(second)
    mx.save_safetensors(str(bert / "model-00002-of-00002.safetensors"), {**second, name: tensors[name] * 7})
    refused(bert, tmp_path, f"holds {name}, which another file of the model holds too")


def test_a_tensor_under_two_names(bert: Path, tmp_path: Path) -> None:
    tensors = checkpoints.read_tensors(bert)
    name = "encoder.layer.0.attention.self.query.weight"
    twice = {**tensors, f"bert.{name}": tensors[name] * 3}
    mx.eval(twice)
    mx.save_safetensors(str(bert / "model.safetensors"), twice)
    refused(bert, tmp_path, f"it holds {name} twice")


def test_a_model_that_is_no_dense_encoder(bert: Path, tmp_path: Path) -> None:
    checkpoints.write_json(bert / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    refused(bert, tmp_path, "'model_type' is 'SparseEncoder'")


# ---- config.json

MODELS: dict[str, Callable[[Path], Path]] = {
    "jina_bert": checkpoints.tiny_jina_bert,
    "xlm_roberta": v3_checkpoints.native,
    "original v3": v3_checkpoints.original,
    "qwen3": checkpoints.v5_small,
    "eurobert": decoder_checkpoints.v5_nano,
    "qwen2": decoder_checkpoints.code,
}


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        ("jina_bert", {"emb_pooler": "cls"}, "'emb_pooler' is 'cls'; only 'mean' or None"),
        ("jina_bert", {"is_decoder": True}, "'is_decoder' is True; only False"),
        ("jina_bert", {"add_cross_attention": True}, "'add_cross_attention' is True"),
        ("jina_bert", {"pruned_heads": {"0": [1]}}, "'pruned_heads' is"),
        ("xlm_roberta", {"is_decoder": True}, "'is_decoder' is True"),
        ("xlm_roberta", {"rope_parameters": {"rope_theta": 2e4, "partial_rotary_factor": 0.5}}, "partial_rotary"),
        ("original v3", {"emb_pooler": "cls"}, "'emb_pooler' is 'cls'"),
        ("original v3", {"truncate_dim": 64}, "'truncate_dim' is 64; only None"),
        ("original v3", {"rotary_emb_fraction": 0.5}, "'rotary_emb_fraction' is 0.5"),
        ("qwen3", {"is_causal": False}, "'is_causal' is False; only True"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5"),
        ("qwen2", {"is_causal": False}, "'is_causal' is False"),
        ("eurobert", {"mlp_bias": True}, "'mlp_bias' is True; only False"),
        # JSON as Python reads it has these.
        ("jina_bert", {"layer_norm_eps": float("inf")}, "'layer_norm_eps' is inf, which is no number"),
        ("jina_bert", {"layer_norm_eps": float("nan")}, "'layer_norm_eps' is nan"),
        ("qwen3", {"rope_theta": float("inf")}, "'rope_theta' is inf"),
        ("qwen3", {"rope_parameters": [1]}, "'rope_parameters' should be an object, found "),
        ("qwen3", {"layer_types": "full_attention"}, "'layer_types' should be a list of names, found 'full"),
    ],
)
def test_settings_that_make_other_vectors(tmp_path: Path, model: str, values: dict[str, Any], words: str) -> None:
    path = MODELS[model](tmp_path / "model")
    checkpoints.write_json(path / "config.json", checkpoints.read_config(path) | values)
    refused(path, tmp_path, words)


@pytest.mark.parametrize("model", MODELS)
def test_settings_that_change_nothing(tmp_path: Path, model: str) -> None:
    path = MODELS[model](tmp_path / "model")
    defaults = {"is_encoder_decoder": False, "pruned_heads": {}, "truncate_dim": None, "my_note": [1]}
    checkpoints.write_json(path / "config.json", checkpoints.read_config(path) | defaults)
    mlx_jina.load(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("architecture", "theirs"),
    [
        ("jina_bert", "bert"),
        ("xlm_roberta", "jina_embeddings_v3"),
        ("xlm_roberta", "xlm-roberta"),
        ("qwen3", "qwen3"),
        ("qwen2", "qwen2"),
        ("eurobert", "eurobert"),
    ],
)
def test_every_key_of_transformers_is_listed(architecture: str, theirs: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(theirs)
    keys = settings.KEYS[architecture]
    assert not config.to_dict().keys() - keys.read - keys.harmless - keys.only.keys()
    # One verdict each.
    assert len(keys.read | keys.harmless | keys.only.keys()) == sum(
        map(len, (keys.read, keys.harmless, keys.only))
    )


@pytest.mark.parametrize("model", MODELS)
def test_every_key_of_the_published_files_is_listed(tmp_path: Path, model: str) -> None:
    path = MODELS[model](tmp_path / "model")
    config = folder.read(path).config
    keys = settings.KEYS["xlm_roberta" if model == "original v3" else model]
    about_files = {"task_names", "matryoshka_dims", "output_past", "use_mrope", "lora_alpha"}
    names = {"bos_token", "eos_token", "pad_token", "mask_token"}
    assert not config.keys() - keys.read - keys.harmless - keys.only.keys() - about_files - names


# ---- dtypes


DTYPES = (mx.uint8, mx.int8, mx.int32, mx.int64, mx.bool_, mx.uint32, mx.complex64)


def _cast(path: Path, name: str, dtype: mx.Dtype) -> None:
    tensors = dict(mx.load(str(path)))  # type: ignore[arg-type]
    mx.eval(tensors)
    tensors[name] = tensors[name].astype(dtype)
    mx.save_safetensors(str(path), tensors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["encoder.layer.0.attention.self.query.weight", "embeddings.LayerNorm.bias"])
def test_weights_that_are_no_floats(bert: Path, tmp_path: Path, dtype: mx.Dtype, name: str) -> None:
    _cast(bert / "model.safetensors", name, dtype)
    refused(bert, tmp_path, f"{name} is {str(dtype).removeprefix('mlx.core.')}")


def test_a_float_beside_packed_weights(bert: Path, tmp_path: Path) -> None:
    convert.to_mlx(str(bert), tmp_path / "packed", bits=8, group_size=32)
    _cast(tmp_path / "packed/model.safetensors", "embeddings.LayerNorm.bias", mx.uint8)
    refused(tmp_path / "packed", tmp_path, "uint8, as MLX reads float8, which is no weight")


def test_positions_are_no_weights(bert: Path) -> None:
    plain = mlx_jina.load(bert).encode("a fox")
    tensors = {**checkpoints.read_tensors(bert), "embeddings.position_ids": mx.arange(512, dtype=mx.int64)}
    mx.eval(tensors)
    mx.save_safetensors(str(bert / "model.safetensors"), tensors)
    np.testing.assert_array_equal(mlx_jina.load(bert).encode("a fox"), plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adapters_that_are_no_floats(small: Path, tmp_path: Path, dtype: mx.Dtype) -> None:
    name = "base_model.model.layers.0.mlp.up_proj.lora_A.weight"
    _cast(small / "adapters/clustering/adapter_model.safetensors", name, dtype)
    refused(small, tmp_path, f"{name} is {str(dtype).removeprefix('mlx.core.')}")


def test_stacked_adapters_that_are_no_floats(tmp_path: Path) -> None:
    path = v3_checkpoints.original(tmp_path / "v3")
    name = "roberta.encoder.layers.0.mlp.fc1.parametrizations.weight.0.lora_A"
    _cast(path / "model.safetensors", name, mx.int8)
    refused(path, tmp_path, "lora_A is int8")


# ---- tokenizer_config.json, of which transformers 5.24 made other tokens wherever it is refused here


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        ("jina_bert", {"do_lower_case": False}, "'do_lower_case' is False, but in tokenizer.json it is True"),
        ("jina_bert", {"strip_accents": False}, "'strip_accents' is False"),
        ("jina_bert", {"tokenize_chinese_chars": False}, "'tokenize_chinese_chars' is False"),
        ("qwen2", {"add_prefix_space": True}, "'add_prefix_space' is True"),
        ("xlm_roberta", {"add_prefix_space": False}, "'add_prefix_space' is False"),
        ("jina_bert", {"truncation_side": "left"}, "'truncation_side' is 'left'"),
        ("qwen2", {"split_special_tokens": True}, "'split_special_tokens' is True"),
        ("jina_bert", {"cls_token": {"content": "[MASK]"}}, r"'cls_token' is '\[MASK\]', but .* '\[CLS\]'"),
        ("jina_bert", {"sep_token": "[MASK]"}, r"'sep_token' is '\[MASK\]'"),
        ("qwen2", {"additional_special_tokens": ["<fox>"]}, "no added token '<fox>'"),
        ("qwen2", {"extra_special_tokens": {"animal": "<fox>"}}, "no added token '<fox>'"),
        ("xlm_roberta", {"added_tokens_decoder": {"50": {"content": "<fox>"}}}, "no added token '<fox>'"),
        ("jina_bert", {"mask_token": "<mask>"}, "no added token '<mask>'"),
    ],
)
def test_tokenizers_that_contradict_themselves(
    tmp_path: Path, model: str, values: dict[str, Any], words: str
) -> None:
    path = MODELS[model](tmp_path / "model")
    checkpoints.write_json(path / "tokenizer_config.json", values)
    refused(path, tmp_path, words)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("jina_bert", {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}),
        ("jina_bert", {"strip_accents": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512}),
        ("qwen2", {"add_prefix_space": False, "add_bos_token": False}),
        ("xlm_roberta", {"add_prefix_space": True}),
        ("jina_bert", {"cls_token": "[CLS]", "mask_token": {"content": "[MASK]"}, "pad_token": "<p>"}),
        ("jina_bert", {"added_tokens_decoder": {"2": {"content": "[CLS]"}}, "truncation_side": "right"}),
        ("qwen2", {"additional_special_tokens": ["<|im_start|>"], "bos_token": None, "padding_side": "left"}),
    ],
)
def test_tokenizers_that_agree(tmp_path: Path, model: str, values: dict[str, Any]) -> None:
    path = MODELS[model](tmp_path / "model")
    plain = mlx_jina.load(path)
    checkpoints.write_json(path / "tokenizer_config.json", values)
    told = mlx_jina.load(path)
    assert told.fingerprint(plain.tasks[0] if plain.tasks else None)
    # Jina's own encode passes over the length in this file.
    assert told.max_length == plain.max_length


@pytest.mark.parametrize(
    ("file", "content"), [("special_tokens_map", {"mask_token": "<fox>"}), ("added_tokens", {"<fox>": 9})]
)
def test_tokens_in_other_files(bert: Path, tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    checkpoints.write_json(bert / f"{file}.json", content)
    refused(bert, tmp_path, f"{file}.json: tokenizer.json has no added token '<fox>'")


def test_a_tokenizer_that_cuts_at_the_beginning(bert: Path, tmp_path: Path) -> None:
    content = json.loads((bert / "tokenizer.json").read_text(encoding="utf-8"))
    cut = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    checkpoints.write_json(bert / "tokenizer.json", {**content, "truncation": cut})
    assert len(mlx_jina.load(bert).tokenize("the quick brown fox jumps")[0]) == 7
    checkpoints.write_json(bert / "tokenizer.json", {**content, "truncation": {**cut, "direction": "Left"}})
    refused(bert, tmp_path, "cuts long texts at their beginning")
