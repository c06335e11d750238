"""jina-embeddings-v5-omni with random weights: v5's text models with Qwen3.5's vision tower, in MLX's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from tests.support import checkpoints, decoder_checkpoints, reference, torch_reference
from tests.support.checkpoints import Weights

SPECIALS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
VISION = {
    "depth": 3,
    "hidden_size": 48,
    "num_heads": 3,
    "intermediate_size": 80,
    "num_position_embeddings": 36,
}


def text(folder: Path, name: str) -> Path:
    """The text model by itself, as Jina publishes it."""
    return (checkpoints.v5_small if name == "small" else decoder_checkpoints.v5_nano)(folder)


def omni(folder: Path, name: str, *, channels_last: bool = True) -> Path:
    """The repository of "small" or "nano"; nothing but the tower and the markers is new."""
    text(folder, name)
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.add_special_tokens(list(SPECIALS))
    fast.save(str(folder / "tokenizer.json"))
    config = checkpoints.read_config(folder)
    ids = {f"{name}_token_id": fast.token_to_id(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids["image_token_id"] = fast.token_to_id("<|image_pad|>")
    outer = {key: config.pop(key) for key in ("architectures", "task_names", "model_type", "auto_map")}
    checkpoints.write_json(
        folder / "config.json", {**outer, **ids, "text_config": config, "vision_config": VISION}
    )
    tensors: dict[str, mx.array] = {
        f"language_model.{name}": x for name, x in checkpoints.read_tensors(folder).items()
    }
    for name, x in tower(config["hidden_size"]).items():
        if x.ndim == 5 and channels_last:
            x = x.transpose(0, 2, 3, 4, 1)
        tensors[name if name.startswith("merger.") else f"vision_tower.{name}"] = mx.array(np.ascontiguousarray(x))
    tensors["audio_tower.conv1.weight"] = mx.zeros((3, 3))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    for place in folder.glob("adapters/*/adapter_model.safetensors"):
        halves: dict[str, mx.array] = dict(mx.load(str(place)))  # type: ignore[arg-type]
        mx.eval(halves)
        renamed = {name.replace(".model.", ".model.language_model.", 1): x for name, x in halves.items()}
        mx.save_safetensors(str(place), renamed)
    checkpoints.write_json(folder / "preprocessor_config.json", {"patch_size": 16, "image_mean": [0.5, 0.5, 0.5]})
    return folder


def tower(width: int) -> Weights:
    """Random tensors of the tower under its own names."""
    rng = np.random.default_rng(5)
    own, inner, merged = VISION["hidden_size"], VISION["intermediate_size"], 4 * VISION["hidden_size"]
    found: Weights = {}

    def linear(name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        found[f"{name}.weight"] = rng.normal(0, gain * columns**-0.5, (rows, columns)).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.3, rows).astype(np.float32)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = rng.normal(1, 0.1, own).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.1, own).astype(np.float32)

    found["patch_embed.proj.weight"] = rng.normal(0, 1536**-0.5, (own, 3, 2, 16, 16)).astype(np.float32)
    found["patch_embed.proj.bias"] = rng.normal(0, 0.3, own).astype(np.float32)
    found["pos_embed.weight"] = rng.normal(0, 1, (VISION["num_position_embeddings"], own)).astype(np.float32)
    for i in range(VISION["depth"]):
        norm(f"blocks.{i}.norm1")
        norm(f"blocks.{i}.norm2")
        linear(f"blocks.{i}.attn.qkv", 3 * own, own, 2.0)
        linear(f"blocks.{i}.attn.proj", own, own)
        linear(f"blocks.{i}.mlp.linear_fc1", inner, own)
        linear(f"blocks.{i}.mlp.linear_fc2", own, inner)
    norm("merger.norm")
    linear("merger.linear_fc1", merged, merged)
    linear("merger.linear_fc2", width, merged)
    return found


class Reference:
    """transformers' Qwen3_5VisionModel before the text model with one adapter: one picture at a time."""

    def __init__(self, texts: Path, name: str, task: str) -> None:
        self.torch = torch = pytest.importorskip("torch", reason=torch_reference.REASON)
        modeling = pytest.importorskip(
            "transformers.models.qwen3_5.modeling_qwen3_5", reason=torch_reference.REASON
        )
        self.text = (torch_reference.qwen3 if name == "small" else torch_reference.eurobert)(texts, task)
        self.width: int = checkpoints.read_config(texts)["hidden_size"]
        with torch_reference.their_warnings():
            settings = modeling.Qwen3_5VisionModel.config_class(
                **VISION, out_hidden_size=self.width, patch_size=16
            )
            self.tower = modeling.Qwen3_5VisionModel._from_config(settings).double().eval()
        self.tower.load_state_dict({name: torch.tensor(x).double() for name, x in tower(self.width).items()})

    def picture(
        self, pixels: npt.NDArray[np.uint8], size: tuple[int, int], before: Sequence[int], after: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """The unit vector of a picture between tokens; `size` is what it is resized to."""
        torch, (height, width) = self.torch, size
        planes = torch.tensor(pixels).permute(2, 0, 1)[None]
        planes = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)[0]
        planes = (planes.float() / 255 - 0.5) / 0.5
        rows = [
            torch.stack([planes[:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16]] * 2, dim=1).reshape(-1)
            for top in range(0, height // 16, 2)
            for left in range(0, width // 16, 2)
            for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1))
        ]
        grid = torch.tensor([[1, height // 16, width // 16]])
        with torch.no_grad(), torch_reference.their_warnings():
            seen = self.tower(torch.stack(rows).double(), grid_thw=grid).pooler_output.float()
            table = self.text.get_input_embeddings()
            ends = [table(torch.tensor(list(ids), dtype=torch.long)) for ids in (before, after)]
            states = self.text(inputs_embeds=torch.cat([ends[0], seen, ends[1]])[None]).last_hidden_state
        return reference.unit(states[0, -1].double().numpy())
