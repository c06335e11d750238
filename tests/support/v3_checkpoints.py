"""jina-embeddings-v3 with random weights, in the layout of its repository and in that of transformers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlx_jina import catalog
from tests.support import checkpoints
from tests.support.checkpoints import Weights

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
LINES = [
    " ".join(checkpoints.WORDS),
    "Represent the query for retrieving evidence documents: Represent the document for retrieval: ",
    "今天天气很好 我们去公园散步吧 你好世界 深度学习",
    "Die Hauptstadt von Deutschland ist Berlin, übrigens schön. café",
    "مرحبا بالعالم नमस्ते दुनिया привет мир สวัสดีชาวโลก 안녕하세요 세계 שלום",
]

V3 = {"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096, "vocab": 250002}
V3_TINY = {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 96, "vocab": 200}


@cache
def _sentencepiece(pieces: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 3),
        model_writer=model,
        vocab_size=pieces,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def tokenizer(pieces: int = 400) -> Tokenizer:
    """XLM-RoBERTa's unigram tokenizer with few pieces and the original nmt_nfkc table."""
    from sentencepiece import sentencepiece_model_pb2 as protocol

    # Its classes are made at import.
    proto: Any = protocol.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(_sentencepiece(pieces))
    # SentencePiece's first three pieces are <unk>, <s> and </s>.
    vocab = [(name, 0.0) for name in SPECIALS]
    vocab += [(piece.piece, piece.score) for piece in proto.pieces[3:]] + [("<mask>", 0.0)]
    fast = Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    fast.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    fast.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    fast.add_special_tokens([*SPECIALS, AddedToken("<mask>", lstrip=True, special=True)])
    ids = {name: fast.token_to_id(name) for name in ("<s>", "</s>")}
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=list(ids.items())
    )
    return fast


def native_config(*, hidden: int, layers: int, heads: int, intermediate: int, vocab: int) -> dict[str, Any]:
    """config.json as transformers writes it."""
    return {
        "architectures": ["JinaEmbeddingsV3Model"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "classifier_dropout": None,
        "dtype": "float32",
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 8194,
        "model_type": "jina_embeddings_v3",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "rope_parameters": {"rope_theta": 20000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "transformers_version": "5.3.0",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": vocab,
    }


def original_config(rank: int, **shape: int) -> dict[str, Any]:
    """config.json as the repository has it."""
    shared = native_config(**shape)
    for key in ("rope_parameters", "dtype", "tie_word_embeddings", "use_cache"):
        del shared[key]
    code = "jinaai/xlm-roberta-flash-implementation--"
    return {
        **shared,
        "architectures": ["XLMRobertaModel"],
        "auto_map": {
            "AutoConfig": f"{code}configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": f"{code}modeling_lora.XLMRobertaLoRA",
        },
        "load_trained_adapters": True,
        "lora_adaptations": list(TASKS),
        "lora_alpha": 1,
        "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False,
        "lora_rank": rank,
        "matryoshka_dimensions": [32, 64, 128, 256, 512, 768, 1024],
        "model_type": "xlm-roberta",
        "output_past": True,
        "position_embedding_type": "rotary",
        "rotary_emb_base": 20000.0,
        "task_instructions": dict(entry().prompts),
        "torch_dtype": "bfloat16",
        "transformers_version": "4.30.2",
        "truncate_dim": None,
        "use_flash_attn": True,
    }


def entry() -> catalog.Entry:
    """The catalog's row."""
    found = catalog.find("v3")
    assert found is not None
    return found


def _linears(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer, by the repository's names."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "mixer.Wqkv": (3 * hidden, hidden),
        "mixer.out_proj": (hidden, hidden),
        "mlp.fc1": (ffn, hidden),
        "mlp.fc2": (hidden, ffn),
    }
    layers = range(config["num_hidden_layers"])
    found = {f"encoder.layers.{i}.{name}": shape for i in layers for name, shape in shapes.items()}
    return {**found, "pooler.dense": (hidden, hidden)}


def _embeddings(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    hidden = config["hidden_size"]
    return {
        "embeddings.word_embeddings": (config["vocab_size"], hidden),
        "embeddings.token_type_embeddings": (config["type_vocab_size"], hidden),
    }


def weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Base weights under the repository's names without their prefix. Attention is sharp, so positions matter."""
    rng = np.random.default_rng(seed)
    hidden, made = config["hidden_size"], {}
    for name, shape in _embeddings(config).items():
        made[f"{name}.weight"] = rng.standard_normal(shape, dtype=np.float32)
    for name, (rows, columns) in _linears(config).items():
        spread = np.full((rows, 1), columns**-0.5, dtype=np.float32)
        if name.endswith("Wqkv"):
            spread[: 2 * hidden] *= 1.5
        made[f"{name}.weight"] = rng.standard_normal((rows, columns), dtype=np.float32) * spread
        made[f"{name}.bias"] = rng.normal(0, 0.1, rows).astype(np.float32)
    layers = range(config["num_hidden_layers"])
    for name in ("emb_ln", *(f"encoder.layers.{i}.norm{n}" for i in layers for n in (1, 2))):
        made[f"{name}.weight"] = rng.normal(1, 0.1, hidden).astype(np.float32)
        made[f"{name}.bias"] = rng.normal(0, 0.1, hidden).astype(np.float32)
    return made


def stacks(config: dict[str, Any], rank: int, seed: int = 1) -> Weights:
    """`MODULE.lora_A` and `.lora_B` of all tasks, large enough to turn every vector."""
    rng = np.random.default_rng(seed)
    made: Weights = {}
    for name, (rows, columns) in _linears(config).items():
        made[f"{name}.lora_A"] = rng.normal(0, columns**-0.5, (len(TASKS), rank, columns)).astype(np.float32)
        made[f"{name}.lora_B"] = rng.normal(0, rank**0.5, (len(TASKS), rows, rank)).astype(np.float32)
    for name, (rows, columns) in _embeddings(config).items():
        made[f"{name}.lora_A"] = rng.normal(0, 1, (len(TASKS), rows, rank)).astype(np.float32)
        made[f"{name}.lora_B"] = rng.normal(0, rank**0.5 / 2, (len(TASKS), rank, columns)).astype(np.float32)
    return made


def _native(name: str, tensor: Any) -> dict[str, Any]:
    """A tensor of the repository under transformers' names."""
    name = name.replace("emb_ln", "embeddings.LayerNorm").removeprefix("encoder.")
    for theirs, ours in (
        ("norm1", "post_attention_layernorm"),
        ("norm2", "post_mlp_layernorm"),
        ("mixer.out_proj", "self_attn.o_proj"),
    ):
        name = name.replace(theirs, ours)
    if "mixer.Wqkv" not in name:
        return {name: tensor}
    thirds = np.split(tensor, 3)
    return {name.replace("mixer.Wqkv", f"self_attn.{p}_proj"): x for p, x in zip("qkv", thirds, strict=True)}


def native_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Base weights under transformers' names."""
    made: Weights = {}
    for name, tensor in weights(config, seed).items():
        made |= _native(name, tensor)
    return made


def native_adapter(config: dict[str, Any], rank: int, task: int, seed: int = 1) -> Weights:
    """One task's adapter under PEFT's names."""
    made: Weights = {}
    own = {name: x[task] for name, x in stacks(config, rank, seed).items()}
    for module in (*_linears(config), *_embeddings(config)):
        a, b = own[f"{module}.lora_A"], own[f"{module}.lora_B"]
        prefix = "base_model.model."
        if module in _embeddings(config):
            made |= {f"{prefix}{module}.lora_embedding_A": a.T, f"{prefix}{module}.lora_embedding_B": b.T}
        else:
            for name, rows in _native(module, b).items():
                made |= {f"{prefix}{name}.lora_A.weight": a, f"{prefix}{name}.lora_B.weight": rows}
    return made


def _prompts(folder: Path) -> None:
    checkpoints.write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": dict(entry().prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def original(
    folder: Path, shape: dict[str, int] = V3_TINY, *, rank: int = 4, dtype: mx.Dtype = mx.float32
) -> Path:
    """The repository jinaai/jina-embeddings-v3, tiny by default."""
    config = original_config(rank, **shape)
    adapted = {**_linears(config), **_embeddings(config)}
    tensors: Weights = {}
    for name, tensor in weights(config).items():
        module, _, leaf = name.rpartition(".")
        inside = module in adapted and leaf == "weight"
        tensors[f"roberta.{module}.parametrizations.weight.original" if inside else f"roberta.{name}"] = tensor
    for name, tensor in stacks(config, rank).items():
        module, _, half = name.rpartition(".")
        tensors[f"roberta.{module}.parametrizations.weight.0.{half}"] = tensor
    checkpoints.write_folder(folder, config, tensors, tokenizer(), dtype)
    _prompts(folder)
    return folder


def native(
    folder: Path,
    shape: dict[str, int] = V3_TINY,
    *,
    rank: int = 4,
    tasks: Sequence[str] = TASKS,
    dtype: mx.Dtype = mx.float32,
) -> Path:
    """The same model as transformers has it: base weights, and a PEFT folder for each task."""
    config = native_config(**shape)
    checkpoints.write_folder(folder, config, native_weights(config), tokenizer(), dtype)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "dense"]
    targets += ["word_embeddings", "token_type_embeddings"]
    for task in tasks:
        adapter_config = checkpoints.v5_adapter_config(
            rank, lora_alpha=1, target_modules=targets, base_model_name_or_path="jinaai/jina-embeddings-v3"
        )
        adapter = native_adapter(config, rank, TASKS.index(task))
        checkpoints.write_adapter(
            folder / task.replace(".", "_").replace("-", "_"), adapter_config, adapter, dtype
        )
    _prompts(folder)
    return folder
