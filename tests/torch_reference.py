"""transformers and peft on a checkpoint's files: the reference that mlx_jina shares no line with.

Needs the dependency group `reference`; tests that use it skip without.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.checkpoints import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = "needs torch, transformers and peft (pip install --group reference)"


@contextmanager
def _their_warnings() -> Iterator[None]:
    """What these libraries say of themselves is no failure of ours."""
    with warnings.catch_warnings():
        for module in ("torch", "transformers", "peft", "accelerate", "huggingface_hub"):
            warnings.filterwarnings("ignore", module=module)
        warnings.filterwarnings("ignore", message=".*(Python builtin|SwigPy).*", category=DeprecationWarning)
        yield


def qwen3(folder: Path, task: str | None = None, dtype: str = "float32") -> Any:
    """`Qwen3Model` with the folder's base weights and, through peft, one adapter."""
    return _decoder("Qwen3", folder, task, dtype)


def eurobert(folder: Path, task: str | None = None, dtype: str = "float32") -> Any:
    """`EuroBertModel` with the folder's base weights and, through peft, one adapter."""
    return _decoder("EuroBert", folder, task, dtype)


def qwen2(folder: Path, dtype: str = "float32") -> Any:
    """`Qwen2Model` with the folder's weights."""
    return _decoder("Qwen2", folder, None, dtype)


def _decoder(name: str, folder: Path, task: str | None, dtype: str) -> Any:
    with _their_warnings():
        torch = pytest.importorskip("torch", reason=REASON)
        transformers = pytest.importorskip("transformers", reason=REASON)
        peft = pytest.importorskip("peft", reason=REASON)
        load_file = pytest.importorskip("safetensors.torch", reason=REASON).load_file
        config = read_json(folder / "config.json")
        names = ("model_type", "architectures", "auto_map", "torch_dtype", "transformers_version", "task_names")
        settings = getattr(transformers, f"{name}Config")(
            **{key: value for key, value in config.items() if key not in names}
        )
        assert settings.rope_parameters["rope_theta"] == config["rope_theta"]
        with torch.device("meta"):
            model = getattr(transformers, f"{name}Model")(settings)
        model.rotary_emb = type(model.rotary_emb)(settings)
        tensors = {
            name: x.to(getattr(torch, dtype)) for name, x in load_file(folder / "model.safetensors").items()
        }
        model.load_state_dict(tensors, strict=True, assign=True)
        if task is not None:
            model = peft.PeftModel.from_pretrained(model, str(folder / "adapters" / task))
        return model.eval()


def last_token(model: Any, ids: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Unit vectors (N, D) of each text's last token, one text at a time."""
    import torch

    vectors = []
    with torch.no_grad(), _their_warnings():
        for text in ids:
            states = model(input_ids=torch.tensor(np.asarray(text, dtype=np.int64))[None]).last_hidden_state
            vectors.append(torch.nn.functional.normalize(states[0, -1].float(), dim=-1).numpy())
    return np.stack(vectors)
