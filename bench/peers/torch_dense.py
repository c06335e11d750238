"""JinaBERT in torch, padded. sentence-transformers would need code from the model repository for it.

The published layout with scaled_dot_product_attention over the whole ALiBi bias. The module can be exported to
ONNX: python -m bench.peers.torch_dense FOLDER TARGET.onnx
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers.batches import padded

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "torch, dense", "torch"
FAMILIES = ("jina_bert",)
SETTINGS = (
    "the published layout in torch, written for this comparison (sentence-transformers would run the repository's "
    "code): padding, 32 texts a batch sorted by length, at most 8,192 tokens; SDPA with the ALiBi bias written out"
)


def options(model: Model) -> tuple[str, ...]:
    """The precision of ours, and half precision, which some CPUs have units for."""
    return tuple(dict.fromkeys((model.precision(), "bfloat16")))


def module(folder: Path) -> Any:
    """A torch module in float32, from ids and mask (B, L) to unit vectors (B, D)."""
    import torch
    from torch.nn import functional as F

    from bench.models import float32_tensors
    from mlx_jina.nn import alibi

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, width = config["num_attention_heads"], config["hidden_size"]

    class Dense(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in float32_tensors(folder).items():
                self.register_buffer(name.replace(".", "/"), torch.tensor(value))
            self.register_buffer("slopes", torch.tensor(alibi.slopes(heads)))

        def linear(self, x: Any, name: str) -> Any:
            b: Any = self._buffers
            return F.linear(x, b[f"{name}/weight"], b.get(f"{name}/bias"))

        def norm(self, x: Any, name: str) -> Any:
            b: Any = self._buffers
            return F.layer_norm(x, (width,), b[f"{name}/weight"], b[f"{name}/bias"], 1e-12)

        def forward(self, ids: Any, mask: Any) -> Any:
            buffers: Any = self._buffers
            x = buffers["embeddings/word_embeddings/weight"][ids]
            x = self.norm(x + buffers["embeddings/token_type_embeddings/weight"][0], "embeddings/LayerNorm")
            at = torch.arange(ids.shape[1], device=ids.device)
            bias = -buffers["slopes"][:, None, None] * (at[None, :] - at[:, None]).abs()
            bias = (bias[None] + (mask[:, None, None, :] - 1) * 1e4).to(x.dtype)
            for i in range(config["num_hidden_layers"]):
                own = f"encoder/layer/{i}"
                q, k, v = (
                    self.linear(x, f"{own}/attention/self/{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
                    for part in ("query", "key", "value")
                )
                a = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
                x = self.norm(
                    x + self.linear(a, f"{own}/attention/output/dense"), f"{own}/attention/output/LayerNorm"
                )
                gate, up = self.linear(x, f"{own}/mlp/gated_layers").chunk(2, -1)
                x = self.norm(x + self.linear(F.gelu(gate) * up, f"{own}/mlp/wo"), f"{own}/mlp/layernorm")
            weight = mask[:, :, None].to(x.dtype)
            return F.normalize(((x * weight).sum(1) / weight.sum(1)).float(), dim=-1)

    return Dense().eval()


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors."""
    import torch
    from tokenizers import Tokenizer

    from bench.machine import threads

    torch.set_num_threads(threads())
    where = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    model = module(folder).to(where, getattr(torch, option))

    def run(ids: Any, mask: Any) -> Any:
        with torch.inference_mode():
            return model(torch.tensor(ids, device=where), torch.tensor(mask, device=where)).cpu().numpy()

    return padded(Tokenizer.from_file(str(folder / "tokenizer.json")), run)


def export(folder: Path, target: Path) -> None:
    """Write the module as ONNX, with any number of texts and tokens."""
    import torch

    ids = torch.ones((2, 6), dtype=torch.int64)
    axes = {name: {0: "texts", 1: "tokens"} for name in ("ids", "mask")}
    torch.onnx.export(
        module(folder), (ids, ids), str(target), input_names=list(axes), dynamic_axes=axes, dynamo=False
    )


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
