"""jina-embeddings-v4 with random weights, in its repositories' layout, with ids other than the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tests.support import checkpoints, reference
from tests.support.checkpoints import Weights

TASKS = ("retrieval", "text-matching", "code")
PREFIXES = {
    ("retrieval", "query"): "Query: ",
    ("retrieval", "passage"): "Passage: ",
    ("text-matching", "query"): "Query: ",
    ("text-matching", "passage"): "Query: ",
    ("code", "query"): "Query: ",
    ("code", "passage"): "Passage: ",
}
SPECIALS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>")
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
RANK, VOCABULARY = 4, 512


def tokenizer() -> Tokenizer:
    """Qwen's, with the tokens around pictures."""
    fast = checkpoints.qwen_tokenizer()
    fast.add_special_tokens(list(SPECIALS))
    return fast


def config(
    *, hidden: int = 64, layers: int = 3, heads: int = 4, kv_heads: int = 2, intermediate: int = 96
) -> dict[str, Any]:
    """config.json as the main repository has it: the language model's settings in a block of their own."""
    fast = tokenizer()
    ids = {
        name: fast.token_to_id(f"<|{name}|>") for name in ("vision_start", "vision_end", "vision_pad", "image_pad")
    }
    sections = [hidden // heads // 8, hidden // heads * 3 // 16, hidden // heads * 3 // 16]
    return {
        "architectures": ["JinaEmbeddingsV4Model"],
        "auto_map": {"AutoModel": "modeling_jina_embeddings_v4.JinaEmbeddingsV4Model"},
        "model_type": "qwen2_5_vl",
        "task_names": list(TASKS),
        "matryoshka_dims": [16, 32, hidden],
        "multi_vector_projector_dim": 8,
        "single_vector_pool_strategy": "mean",
        "truncate_dim": None,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "vision_token_id": ids["vision_pad"],
        "image_token_id": ids["image_pad"],
        "text_config": {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl_text",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "initializer_range": 0.02,
            "intermediate_size": intermediate,
            "max_position_embeddings": 128000,
            "max_window_layers": 70,
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {"mrope_section": sections, "rope_type": "default", "type": "default"},
            "rope_theta": 1000000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": True,
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": VOCABULARY,
        },
        "vision_config": {
            "depth": 4,
            "fullatt_block_indexes": [1, 3],
            "hidden_act": "silu",
            "hidden_size": 48,
            "in_chans": 3,
            "intermediate_size": 60,
            "model_type": "qwen2_5_vl",
            "num_heads": 3,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
    }


def _linears(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Rows and columns of each linear layer that adapters change, by its name under `layers.`."""
    text = config["text_config"]
    width, inner = text["hidden_size"], text["intermediate_size"]
    kv = width // text["num_attention_heads"] * text["num_key_value_heads"]
    shapes = dict(zip(LINEARS, ((width, width), (kv, width), (kv, width), (width, width)), strict=True))
    shapes |= dict(zip(MLP, ((inner, width), (inner, width), (width, inner)), strict=True))
    return {f"{i}.{name}": shape for i in range(text["num_hidden_layers"]) for name, shape in shapes.items()}


def weights(config: Mapping[str, Any], seed: int = 0) -> Weights:
    """Random tensors under the main repository's names; large queries and keys keep attention sharp."""
    rng = np.random.default_rng(seed)
    text, vision = config["text_config"], config["vision_config"]
    width = text["hidden_size"]
    found: Weights = {}

    def matrix(name: str, rows: int, columns: int, gain: float = 1.0, bias: float = 0.0) -> None:
        found[f"{name}.weight"] = rng.normal(0, gain * columns**-0.5, (rows, columns)).astype(np.float32)
        if bias:
            found[f"{name}.bias"] = rng.normal(0, bias, rows).astype(np.float32)

    def norm(name: str, size: int) -> None:
        found[f"{name}.weight"] = rng.normal(1, 0.1, size).astype(np.float32)

    found["model.embed_tokens.weight"] = rng.normal(0, 1, (text["vocab_size"], width)).astype(np.float32)
    for name, (rows, columns) in _linears(config).items():
        sharp = name.endswith(("q_proj", "k_proj"))
        matrix(f"model.layers.{name}", rows, columns, 1.5 if sharp else 1.0, 0.5 if name[-6:-5] in "qkv" else 0.0)
    for i in range(text["num_hidden_layers"]):
        norm(f"model.layers.{i}.input_layernorm", width)
        norm(f"model.layers.{i}.post_attention_layernorm", width)
    norm("model.norm", width)
    _tower(vision, matrix, norm)
    patch = vision["patch_size"]
    shape = (vision["hidden_size"], 3, 2, patch, patch)
    found["visual.patch_embed.proj.weight"] = rng.normal(0, (6 * patch * patch) ** -0.5, shape).astype(np.float32)
    matrix("multi_vector_projector", config["multi_vector_projector_dim"], width, bias=0.5)
    return found


def _tower(vision: Mapping[str, Any], matrix: Any, norm: Any) -> None:
    width, inner, merged = vision["hidden_size"], vision["intermediate_size"], 4 * vision["hidden_size"]
    for i in range(vision["depth"]):
        block = f"visual.blocks.{i}"
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        matrix(f"{block}.attn.qkv", 3 * width, width, 2.0, 0.3)
        matrix(f"{block}.attn.proj", width, width, 1.0, 0.3)
        matrix(f"{block}.mlp.gate_proj", inner, width, 1.0, 0.3)
        matrix(f"{block}.mlp.up_proj", inner, width, 1.0, 0.3)
        matrix(f"{block}.mlp.down_proj", width, inner, 1.0, 0.3)
    norm("visual.merger.ln_q", width)
    matrix("visual.merger.mlp.0", merged, merged, 1.0, 0.3)
    matrix("visual.merger.mlp.2", vision["out_hidden_size"], merged, 1.0, 0.3)


def adapters(config: Mapping[str, Any], *, model: str = "model.language_model") -> Weights:
    """A and B of every layer and of the projector, of all tasks in one file."""
    rng = np.random.default_rng(7)
    found: Weights = {}
    modules = {f"{model}.layers.{name}": shape for name, shape in _linears(config).items()}
    width = config["text_config"]["hidden_size"]
    modules["multi_vector_projector"] = (config["multi_vector_projector_dim"], width)
    for name, (rows, columns) in modules.items():
        for task in TASKS:
            prefix = f"base_model.model.{name}"
            a, b = rng.normal(0, columns**-0.5, (RANK, columns)), rng.normal(0, 0.4, (rows, RANK))
            found[f"{prefix}.lora_A.{task}.weight"] = a.astype(np.float32)
            found[f"{prefix}.lora_B.{task}.weight"] = b.astype(np.float32)
    return found


def adapter_config(**changes: Any) -> dict[str, Any]:
    """adapter_config.json: targets are a regular expression, and the vision tower is left out."""
    return checkpoints.v5_adapter_config(
        RANK,
        base_model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
        exclude_modules=".*visual.*",
        target_modules="(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$|.*(projector).*$)",
        **changes,
    )


def preprocessor(**changes: Any) -> dict[str, Any]:
    """preprocessor_config.json with a small limit, so that test pictures are reduced."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": 131_712,
        "merge_size": 2,
        "min_pixels": 3136,
        "patch_size": 14,
        "processor_class": "JinaEmbeddingsV4Processor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 3136, "longest_edge": 131_712},
        "temporal_patch_size": 2,
        **changes,
    }


def _save(path: Path, tensors: Mapping[str, npt.NDArray[Any]], dtype: mx.Dtype) -> None:
    arrays = {name: mx.array(value).astype(dtype) for name, value in tensors.items()}
    mx.save_safetensors(str(path), arrays, metadata={"format": "pt"})


def v4(folder: Path, *, dtype: mx.Dtype = mx.bfloat16, newer: bool = False, **shape: int) -> Path:
    """The main repository: two parts cut inside a layer, adapters, projector; or with newer names."""
    settings = config(**shape)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_json(folder / "config.json", settings)
    tensors = weights(settings)
    if newer:
        tensors = {_newer(name): tensor for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: ("layers.1.mlp" in name or "layers.2" in name, name))
    half = next(i for i, name in enumerate(names) if "layers.1.mlp" in name)
    parts = {f"model-0000{i}-of-00002.safetensors": own for i, own in ((1, names[:half]), (2, names[half:]))}
    for part, own in parts.items():
        _save(folder / part, {name: tensors[name] for name in own}, dtype)
    index = {name: part for part, own in parts.items() for name in own}
    checkpoints.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    checkpoints.write_json(folder / "adapters/adapter_config.json", adapter_config())
    adapted = adapters(settings, model="model" if newer else "model.language_model")
    _save(folder / "adapters/adapter_model.safetensors", adapted, dtype)
    checkpoints.write_json(folder / "preprocessor_config.json", preprocessor())
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _newer(name: str) -> str:
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def merged(folder: Path, task: str, *, dtype: mx.Dtype = mx.float32, **shape: int) -> Path:
    """A repository for vLLM: one task merged, no projector, newer names."""
    settings = config(**shape)
    folder.mkdir(parents=True, exist_ok=True)
    own = {**settings, "architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    for key in ("task_names", "multi_vector_projector_dim", "single_vector_pool_strategy", "auto_map"):
        del own[key]
    checkpoints.write_json(folder / "config.json", own)
    tensors = {name: x for name, x in effective(settings, task).items() if "projector" not in name}
    _save(folder / "model.safetensors", {_newer(name): x for name, x in tensors.items()}, dtype)
    checkpoints.write_json(folder / "preprocessor_config.json", preprocessor())
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def effective(config: Mapping[str, Any], task: str, *, dtype: mx.Dtype = mx.bfloat16) -> Weights:
    """The weights of a task as PEFT computes them: W + B A in float64 of what is stored."""

    def stored(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.array(mx.array(x).astype(dtype).astype(mx.float32), dtype=np.float64)

    base = {name: stored(x) for name, x in weights(config).items()}
    halves = {name: stored(x) for name, x in adapters(config, model="model").items()}
    for name in base:
        prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{prefix}A.{task}.weight" in halves:
            base[name] = base[name] + halves[f"{prefix}B.{task}.weight"] @ halves[f"{prefix}A.{task}.weight"]
    return {name: x.astype(np.float32) for name, x in base.items()}


class Reference:
    """transformers' Qwen2_5_VLModel with one task's weights, in float32: one text or picture at a time."""

    def __init__(self, config: Mapping[str, Any], task: str) -> None:
        import pytest

        from tests.support import torch_reference

        torch = pytest.importorskip("torch", reason=torch_reference.REASON)
        transformers = pytest.importorskip("transformers", reason=torch_reference.REASON)
        own = json.loads(json.dumps(config))
        text = own["text_config"]
        for key in ("architectures", "model_type"):
            text.pop(key)
        with torch_reference.their_warnings():
            settings = transformers.Qwen2_5_VLConfig(
                text_config=text,
                vision_config=own["vision_config"],
                **{key: value for key, value in own.items() if key.endswith("token_id")},
            )
            model = transformers.Qwen2_5_VLModel._from_config(settings, dtype=torch.float32)
        tensors = effective(config, task)
        projector = {name: tensors.pop(f"multi_vector_projector.{name}") for name in ("weight", "bias")}
        state = {_newer(name).removeprefix("model."): torch.tensor(x) for name, x in tensors.items()}
        model.load_state_dict(state, strict=True)
        self.torch, self.model, self.config = torch, model.double().eval(), config
        self.projector = {name: x.astype(np.float64) for name, x in projector.items()}

    def states(self, ids: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The states (L, D) of a text's tokens."""
        positions = self.torch.arange(len(ids)).expand(3, 1, -1)
        return self._run(ids, position_ids=positions)

    def _run(self, ids: Sequence[int] | npt.NDArray[Any], **inputs: Any) -> npt.NDArray[np.float64]:
        from tests.support import torch_reference

        with self.torch.no_grad(), torch_reference.their_warnings():
            found = self.model(input_ids=self.torch.tensor([list(ids)]), **inputs).last_hidden_state
        states: npt.NDArray[np.float64] = found[0].double().numpy()
        return states

    def single(self, ids: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The unit vector of a text."""
        return reference.unit(self.states(ids).mean(axis=0))

    def multi(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """The unit vectors of a text's tokens."""
        return reference.unit(self.states(ids) @ self.projector["weight"].T + self.projector["bias"])

    def picture_states(self, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """The states (L, D) of a picture's tokens, and of those around it; `size` is what it is resized to."""
        torch, (height, width) = self.torch, size
        planes = torch.tensor(pixels).permute(2, 0, 1)[None]
        planes = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)[0]
        settings = preprocessor()
        mean, std = (torch.tensor(settings[f"image_{name}"])[:, None, None] for name in ("mean", "std"))
        planes = (planes.float() / 255 - mean) / std
        rows = [
            torch.stack([planes[:, 14 * r : 14 * r + 14, 14 * c : 14 * c + 14]] * 2, dim=1).reshape(-1)
            for top in range(0, height // 14, 2)
            for left in range(0, width // 14, 2)
            for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1))
        ]
        ids, positions = around(self.config, height // 28, width // 28)
        return self._run(
            ids,
            pixel_values=torch.stack(rows).double(),
            image_grid_thw=torch.tensor([[1, height // 14, width // 14]]),
            position_ids=torch.tensor(positions)[:, None],
            mm_token_type_ids=torch.tensor([[int(id == self.config["image_token_id"]) for id in ids]]),
        )

    def picture(self, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """The unit vector of a picture: the mean from vision_start to vision_end."""
        states = self.picture_states(pixels, size)
        first = around(self.config, 1, 1)[0].index(self.config["vision_start_token_id"])
        return reference.unit(states[first : first + size[0] * size[1] // 784 + 2].mean(axis=0))

    def picture_tokens(self, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """The unit vectors of a picture's tokens, and of those around it."""
        states = self.picture_states(pixels, size)
        return reference.unit(states @ self.projector["weight"].T + self.projector["bias"])


def around(config: Mapping[str, Any], rows: int, columns: int) -> tuple[list[int], list[list[int]]]:
    """The ids of a picture of so many tokens in its template, and their three positions."""
    fast = tokenizer()

    def plain(text: str) -> list[int]:
        return list(fast.encode(text, add_special_tokens=False).ids)

    before = [*plain("<|im_start|>user\n"), config["vision_start_token_id"]]
    after = [config["vision_end_token_id"], *plain("Describe the image.<|im_end|>\n")]
    positions = [[i] * 3 for i in range(len(before))]
    start = len(before)
    positions += [[start, start + i, start + j] for i in range(rows) for j in range(columns)]
    positions += [[start + max(rows, columns) + i] * 3 for i in range(len(after))]
    ids = [*before, *[config["image_token_id"]] * (rows * columns), *after]
    return ids, [list(axis) for axis in zip(*positions, strict=True)]


def pixels(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A picture with structure at every scale."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 90) + seed) * np.cos(y / rng.uniform(3, 90)) for _ in range(3)]
    noise = rng.normal(0, 0.1, (height, width, 3))
    return np.clip((np.stack(waves, axis=2) + noise) * 127 + 128, 0, 255).astype(np.uint8)
