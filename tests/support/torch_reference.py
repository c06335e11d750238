"""transformers and peft on a checkpoint's files: a reference without a line of mlx_jina.

Needs the dependency group `reference`; tests that use this module skip without the group.
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

from tests.support import reference
from tests.support.checkpoints import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

REASON = "needs torch, transformers and peft (pip install --group reference)"


@contextmanager
def their_warnings() -> Iterator[None]:
    """Ignore warnings of these libraries about themselves."""
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


def jina_v3(folder: Path, tasks: Sequence[str] = ()) -> Any:
    """`JinaEmbeddingsV3Model` of a folder in transformers' layout, with adapters through peft to choose from."""
    with their_warnings():
        pytest.importorskip("torch", reason=REASON)
        transformers = pytest.importorskip("transformers", reason=REASON)
        peft = pytest.importorskip("peft", reason=REASON)
        if not hasattr(transformers, "JinaEmbeddingsV3Model"):
            pytest.skip("needs a transformers with jina_embeddings_v3")
        model = transformers.JinaEmbeddingsV3Model.from_pretrained(folder, dtype="float32")
        assert model.rotary_emb.config.rope_parameters["rope_theta"] == 20000
        for task in tasks:
            # A name must have no dot, which peft takes for a path.
            name = task.replace(".", "_").replace("-", "_")
            if task == tasks[0]:
                model = peft.PeftModel.from_pretrained(model, str(folder / name), adapter_name=name)
            else:
                model.load_adapter(str(folder / name), adapter_name=name)
        return model.eval()


def _decoder(name: str, folder: Path, task: str | None, dtype: str) -> Any:
    with their_warnings():
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


def last_token(model: Any, ids: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Unit vectors (N, D) of each text's last token, one text at a time."""
    return reference.unit(np.stack([states[-1] for states in hidden(model, ids)]))


def mean(model: Any, ids: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Unit vectors (N, D), averaged over each text's tokens, one text at a time."""
    return reference.unit(np.stack([states.mean(axis=0) for states in hidden(model, ids)]))


def hidden(model: Any, ids: Sequence[npt.NDArray[Any]]) -> Iterator[npt.NDArray[np.float64]]:
    """Contextual states (L, D) of each text's tokens, computed alone."""
    import torch

    with torch.no_grad(), their_warnings():
        for text in ids:
            states = model(input_ids=torch.tensor(np.asarray(text, dtype=np.int64))[None]).last_hidden_state
            yield states[0].double().numpy()
