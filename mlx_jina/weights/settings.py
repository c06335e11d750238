"""config.json's keys by architecture: read by models/, without effect on a vector, or refused.

The keys are those of transformers' config class of each architecture (as of 5.24), of what its modelling code
reads besides (`masking_utils`, `modeling_rope_utils`), and of the code in Jina's repositories. A key that none of
them knows changes nothing there, and nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from mlx_jina.errors import CheckpointError, shown

# Of training, of heads, of generation, of who wrote the file.
_HARMLESS = frozenset(
    (
        "_attn_implementation",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "dtype",
        "eos_token_id",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        # Of the output layer, which no vector depends on.
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)
# Values with which transformers computes what mlx-jina computes.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "truncate_dim": (),
}
_READ = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
)
_BERT_READ = (*_READ, "type_vocab_size", "layer_norm_eps", "position_embedding_type")
_ROTARY_READ = ("rope_theta", "rope_parameters", "rope_scaling")
_LLAMA_READ = (
    *(*_READ, *_ROTARY_READ, "num_key_value_heads", "rms_norm_eps", "head_dim", "attention_bias", "is_decoder"),
    *("use_sliding_window", "layer_types"),
)
_ROTARY_ONLY = {"partial_rotary_factor": (1,)}


@dataclass(frozen=True)
class Keys:
    """What becomes of each key. `only` has the values that are implemented; null always is."""

    read: frozenset[str]
    harmless: frozenset[str]
    only: Mapping[str, tuple[Any, ...]]


KEYS: Mapping[str, Keys] = {
    "jina_bert": Keys(
        read=frozenset((*_BERT_READ, "feed_forward_type")),
        harmless=_HARMLESS | {"pad_token_id", "model_max_length"},
        only={**_ONLY, "is_decoder": (False,), "emb_pooler": ("mean",)},
    ),
    "xlm_roberta": Keys(
        read=frozenset((*_BERT_READ, *_ROTARY_READ, "pad_token_id", "rotary_emb_base", "matryoshka_dimensions")),
        harmless=_HARMLESS,
        only={
            **_ONLY,
            **_ROTARY_ONLY,
            "is_decoder": (False,),
            "emb_pooler": ("mean",),
            "rotary_emb_fraction": (1,),
            "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (),
        },
    ),
    "colbert": Keys(
        read=frozenset((*_BERT_READ, *_ROTARY_READ, "feed_forward_type", "pad_token_id", "rotary_emb_base")),
        harmless=_HARMLESS | {"model_max_length"},
        only={
            **_ONLY,
            **_ROTARY_ONLY,
            "is_decoder": (False,),
            "emb_pooler": ("mean",),
            "rotary_emb_fraction": (1,),
            "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (),
        },
    ),
    "qwen3": Keys(
        read=frozenset(_LLAMA_READ),
        # A window is used where use_sliding_window or layer_types say so, which are read.
        harmless=_HARMLESS | {"pad_token_id", "sliding_window", "max_window_layers"},
        only={**_ONLY, **_ROTARY_ONLY, "is_causal": (True,)},
    ),
    "qwen2": Keys(
        read=frozenset(_LLAMA_READ),
        harmless=_HARMLESS | {"pad_token_id", "sliding_window", "max_window_layers"},
        only={**_ONLY, **_ROTARY_ONLY, "is_causal": (True,)},
    ),
    # Of the settings of pictures, and of ids, vision/ reads what it needs.
    "qwen2_5_vl": Keys(
        read=frozenset((*_LLAMA_READ, "multi_vector_projector_dim", "vision_config", "text_config")),
        harmless=_HARMLESS
        | {
            *("pad_token_id", "sliding_window", "max_window_layers"),
            *("image_token_id", "video_token_id", "vision_token_id"),
            *("vision_start_token_id", "vision_end_token_id"),
        },
        only={**_ONLY, **_ROTARY_ONLY, "is_causal": (True,), "single_vector_pool_strategy": ("mean",)},
    ),
    "eurobert": Keys(
        read=frozenset(_LLAMA_READ),
        harmless=_HARMLESS
        | {"pad_token_id", "mask_token_id", "pretraining_tp", "classifier_pooling", "clf_pooling"},
        only={**_ONLY, **_ROTARY_ONLY, "mlp_bias": (False,)},
    ),
}
"""By the name of the architecture."""


# Keys whose values are not single ones.
_BLOCKS: Mapping[str, tuple[type, str]] = {
    "rope_parameters": (Mapping, "an object"),
    "rope_scaling": (Mapping, "an object"),
    "layer_types": (list, "a list of names"),
    "architectures": (list, "a list of names"),
}


def check_kinds(config: Mapping[str, Any]) -> None:
    """Refuse a value that no program would write under its key. Raises CheckpointError."""
    for key, (kind, words) in _BLOCKS.items():
        if not isinstance(config.get(key), kind | None):
            raise CheckpointError(f"config.json: {key!r} should be {words}, found {shown(config[key])}")


def check(config: Mapping[str, Any], architecture: str) -> None:
    """Refuse settings with which transformers computes other vectors. Raises CheckpointError."""
    # A reranker's model is the encoder's.
    keys = KEYS[architecture.removesuffix("_reranker").removesuffix("_listwise")]
    only, rope = keys.only, config.get("rope_parameters")
    for block in (config, rope if isinstance(rope, Mapping) else {}):
        for key in only.keys() & block.keys():
            value = block[key]
            if value is not None and value not in only[key]:
                wanted = " or ".join(map(repr, (*only[key], None)))
                raise CheckpointError(f"config.json: {key!r} is {value!r}; only {wanted} is implemented")
        for key in keys.read & block.keys():
            # JSON as Python reads it has Infinity and NaN, and takes 1e999 for the former.
            if isinstance(block[key], float) and not isfinite(block[key]):
                raise CheckpointError(f"config.json: {key!r} is {block[key]!r}, which is no number")
