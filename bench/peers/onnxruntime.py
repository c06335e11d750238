"""onnxruntime on the torch module's ONNX export."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers.batches import padded

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "onnxruntime", "onnxruntime"
FAMILIES = ("jina_bert",)
SETTINGS = (
    "the export of 'torch, dense', all graph optimisations; padding, 32 texts a batch sorted by length, at most "
    "8,192 tokens; CPU or CUDA"
)


def options(model: Model) -> tuple[str, ...]:
    """What was exported."""
    return ("float32",)


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors."""
    from bench.models import CACHE

    path = CACHE / f"{folder.name}.onnx"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(".unfinished")
        subprocess.run([sys.executable, "-m", "bench.peers.torch_dense", str(folder), str(made)], check=True)
        os.replace(made, path)
    import onnxruntime
    from tokenizers import Tokenizer

    from bench.machine import threads

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [p for p in wanted if p in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(str(path), settings, providers)

    def run(ids: Any, mask: Any) -> Any:
        return session.run(None, {"ids": ids.astype("int64"), "mask": mask.astype("int64")})[0]

    return padded(Tokenizer.from_file(str(folder / "tokenizer.json")), run)
