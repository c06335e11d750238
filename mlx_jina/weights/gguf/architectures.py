"""What GGUF calls the parts of each architecture: one table of tensors and hyper-parameters for each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gguf import PoolingType

from mlx_jina import models
from mlx_jina.errors import CheckpointError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.eurobert import EuroBert
from mlx_jina.models.jina_bert import JinaBert
from mlx_jina.models.listwise import ListwiseReranker
from mlx_jina.models.qwen2 import Qwen2
from mlx_jina.models.qwen2_5_vl import PROJECTOR, TOWER, Qwen25VL
from mlx_jina.models.qwen3 import Qwen3
from mlx_jina.models.rerankers import JinaBertReranker, Qwen3Reranker, XLMRobertaReranker
from mlx_jina.models.xlm_roberta import XLMRoberta

# GGUF's names by our name of a module.
Modules = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Architecture:
    """What GGUF calls the parts of one of our models.

    `keys` maps config.json to metadata below the architecture's prefix; `fixed` are the settings that GGUF takes
    for granted. `modules` maps our names of modules to GGUF's, where `N` stands for a layer's number. Several
    names mean that our tensor holds the rows of those tensors one after another.
    """

    name: str
    model: type[EncoderModel]
    keys: Mapping[str, str]
    fixed: Mapping[str, Any]
    modules: Modules
    layer: tuple[str, str]
    # Metadata that is written besides `keys`.
    extra: Mapping[str, Any] = field(default_factory=dict)
    # mlx-lm's model has this in front of every name. With it, mlx-lm loads our folders.
    mlx_prefix: str = ""
    # Positions that config.json counts and GGUF does not: in XLM-RoBERTa the first ones belong to no token.
    uncounted: int = 0
    # Prefixes of names of tensors that an MLX folder has and a .gguf has not.
    folder_only: tuple[str, ...] = ()
    # Whether positions have sections of axes, which llama.cpp asks for also where all axes have one position.
    sections: bool = False
    # Given a file's GGUF names and the halves of its ffn_up: those of `modules` that it has, and their settings in
    # config.json. Without it, a file has all of them.
    layout: Callable[[Collection[str], int], tuple[Modules, dict[str, Any]]] | None = None

    @property
    def pooling(self) -> int:
        """The value of `pooling_type`."""
        return int(PoolingType["RANK" if self.model.kind == "reranker" else self.model.pooling.upper()])

    @property
    def unused(self) -> tuple[str, ...]:
        """Prefixes of tensor names that belong to other heads, which no format of ours keeps."""
        return tuple(prefix for prefix in self.model.unused if prefix not in self.folder_only)

    @property
    def without_place(self) -> tuple[str, ...]:
        """Prefixes of tensor names for which a .gguf has no place."""
        return (*self.model.unused, *self.folder_only)


_BERT_LAYER = {
    "attention.self.query": ("attn_q",),
    "attention.self.key": ("attn_k",),
    "attention.self.value": ("attn_v",),
    "attention.self.layer_norm_q": ("attn_q_norm",),
    "attention.self.layer_norm_k": ("attn_k_norm",),
    "attention.output.dense": ("attn_output",),
    "attention.output.LayerNorm": ("attn_output_norm",),
}
# By layout. llama.cpp puts the GELU of a fused feed-forward always on the first half, so it is always split.
_GATED = {
    "mlp.gated_layers": ("ffn_gate", "ffn_up"),
    "mlp.wo": ("ffn_down",),
    "mlp.layernorm": ("layer_output_norm",),
}
_POST_NORM = {
    "layer_norm_1": ("attn_norm_2",),
    "mlp.up_gated_layer": ("ffn_up", "ffn_gate"),
    "mlp.down_layer": ("ffn_down",),
    "layer_norm_2": ("layer_output_norm",),
}
_PLAIN = {
    "intermediate.dense": ("ffn_up",),
    "output.dense": ("ffn_down",),
    "output.LayerNorm": ("layer_output_norm",),
}


def _bert_modules(*layouts: Modules) -> Modules:
    return {
        "embeddings.word_embeddings": ("token_embd",),
        "embeddings.token_type_embeddings": ("token_types",),
        "embeddings.LayerNorm": ("token_embd_norm",),
        **{
            f"encoder.layer.N.{module}": targets
            for part in (_BERT_LAYER, *layouts)
            for module, targets in part.items()
        },
    }


def _bert_layout(names: Collection[str], up_halves: int) -> tuple[Modules, dict[str, Any]]:
    if "blk.0.attn_norm_2.weight" in names:
        return _bert_modules(_POST_NORM), {"feed_forward_type": "geglu"}
    if "blk.0.ffn_gate.weight" in names or up_halves == 2:
        return _bert_modules(_GATED), {"feed_forward_type": "geglu"}
    return _bert_modules(_PLAIN), {"feed_forward_type": "original"}


_COMMON = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
}

JINA_BERT = Architecture(
    name="jina-bert-v2",
    model=JinaBert,
    keys={**_COMMON, "layer_norm_eps": "attention.layer_norm_epsilon"},
    fixed={
        "model_type": "bert",
        "architectures": ["JinaBertForMaskedLM"],
        "hidden_act": "gelu",
        "position_embedding_type": "alibi",
        "emb_pooler": "mean",
    },
    modules=_bert_modules(_GATED, _POST_NORM, _PLAIN),
    layer=("encoder.layer.N.", "blk.N."),
    extra={"attention.causal": False},
    layout=_bert_layout,
)

QWEN3 = Architecture(
    name="qwen3",
    model=Qwen3,
    keys={
        **_COMMON,
        "num_key_value_heads": "attention.head_count_kv",
        "head_dim": "attention.key_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
    },
    fixed={
        "model_type": "qwen3",
        "architectures": ["Qwen3Model"],
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_scaling": None,
        "tie_word_embeddings": True,
    },
    modules={
        "embed_tokens": ("token_embd",),
        "norm": ("output_norm",),
        "layers.N.input_layernorm": ("attn_norm",),
        "layers.N.self_attn.q_proj": ("attn_q",),
        "layers.N.self_attn.k_proj": ("attn_k",),
        "layers.N.self_attn.v_proj": ("attn_v",),
        "layers.N.self_attn.o_proj": ("attn_output",),
        "layers.N.self_attn.q_norm": ("attn_q_norm",),
        "layers.N.self_attn.k_norm": ("attn_k_norm",),
        "layers.N.post_attention_layernorm": ("ffn_norm",),
        "layers.N.mlp.gate_proj": ("ffn_gate",),
        "layers.N.mlp.up_proj": ("ffn_up",),
        "layers.N.mlp.down_proj": ("ffn_down",),
    },
    layer=("layers.N.", "blk.N."),
    mlx_prefix="model.",
)

# Its head has the rows of both answers; gguf/rerankers.py says more.
QWEN3_RERANKER = replace(
    QWEN3,
    model=Qwen3Reranker,
    fixed={**QWEN3.fixed, "model_type": Qwen3Reranker.architecture},
    modules={**QWEN3.modules, "score": ("cls.output",)},
    extra={"classifier.output_labels": ["yes", "no"]},
)

# EuroBERT's heads divide the width, and their queries and keys have no norms.
_HEAD_NORMS = ("layers.N.self_attn.q_norm", "layers.N.self_attn.k_norm")
EUROBERT = replace(
    QWEN3,
    name="eurobert",
    model=EuroBert,
    mlx_prefix="",
    keys={setting: key for setting, key in QWEN3.keys.items() if setting != "head_dim"},
    fixed={**QWEN3.fixed, "model_type": "eurobert", "architectures": ["EuroBertModel"], "is_decoder": False},
    modules={module: targets for module, targets in QWEN3.modules.items() if module not in _HEAD_NORMS},
    extra={"attention.causal": False, "rope.scaling.type": "none"},
)

QWEN2 = replace(
    EUROBERT,
    name="qwen2",
    model=Qwen2,
    mlx_prefix="model.",
    fixed={**QWEN3.fixed, "model_type": "qwen2", "architectures": ["Qwen2Model"], "attention_bias": True},
    extra={},
)

# llama.cpp has the language model alone here: without a picture or a projector it computes what mlx-jina does.
QWEN2VL = replace(
    QWEN2,
    name="qwen2vl",
    model=Qwen25VL,
    mlx_prefix="",
    fixed={
        **{key: value for key, value in QWEN2.fixed.items() if key != "rope_scaling"},
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    },
    folder_only=(TOWER, f"{PROJECTOR}."),
    sections=True,
)

JINA_BERT_V3 = Architecture(
    name="jina-bert-v3",
    model=XLMRoberta,
    keys={**_COMMON, "layer_norm_eps": "attention.layer_norm_epsilon", "rope_theta": "rope.freq_base"},
    fixed={
        "model_type": "jina_embeddings_v3",
        "architectures": ["JinaEmbeddingsV3Model"],
        "hidden_act": "gelu",
        "pad_token_id": 1,
    },
    modules={
        "embeddings.word_embeddings": ("token_embd",),
        "embeddings.token_type_embeddings": ("token_types",),
        "embeddings.LayerNorm": ("token_embd_norm",),
        "layers.N.self_attn.q_proj": ("attn_q",),
        "layers.N.self_attn.k_proj": ("attn_k",),
        "layers.N.self_attn.v_proj": ("attn_v",),
        "layers.N.self_attn.o_proj": ("attn_output",),
        "layers.N.post_attention_layernorm": ("attn_output_norm",),
        "layers.N.mlp.fc1": ("ffn_up",),
        "layers.N.mlp.fc2": ("ffn_down",),
        "layers.N.post_mlp_layernorm": ("layer_output_norm",),
    },
    layer=("layers.N.", "blk.N."),
    extra={"attention.causal": False},
    uncounted=2,
)

ARCHITECTURES = (JINA_BERT, QWEN3, EUROBERT, QWEN2, QWEN2VL, JINA_BERT_V3)
_BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
_BY_MODEL = {architecture.model: architecture for architecture in (*ARCHITECTURES, QWEN3_RERANKER)}
# Models that have no .gguf, and why.
_WITHOUT: Mapping[type[EncoderModel], str] = {
    JinaBertReranker: "llama.cpp leaves out its pooler, and ranks by another function",
    XLMRobertaReranker: "llama.cpp's own converter writes one, which mlx-jina does not read",
    ListwiseReranker: "llama.cpp has no place for its projector, and runs its decoder alone",
}


def is_real(key: str) -> bool:
    """Whether a key below the architecture's prefix holds a real number; the others hold sizes."""
    return key == "rope.freq_base" or "epsilon" in key


def of_gguf(path: Path, name: Any) -> Architecture:
    """The table for a file's `general.architecture`."""
    if not isinstance(name, str) or name not in _BY_NAME:
        names = ", ".join(_BY_NAME)
        raise CheckpointError(f"{path}: metadata 'general.architecture' is {name!r}, which is not one of {names}")
    return _BY_NAME[name]


def of_config(config: Mapping[str, Any]) -> Architecture:
    """The table for a config.json. Raises CheckpointError for a model that mlx-jina does not run."""
    model = models.identify(config)
    if model not in _BY_MODEL:
        reason = _WITHOUT.get(model, "neither llama.cpp nor another program reads its file")
        raise CheckpointError(f"a {model.architecture} is not converted to a .gguf: {reason}")
    return _BY_MODEL[model]
