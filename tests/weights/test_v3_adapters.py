"""jina-embeddings-v3 with all its adapters as .gguf files and as an MLX folder: the published folder's vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Type

import mlx_jina
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import convert, folder, jina_v3, json_file, lora
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import reader as gguf_reader
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, llama_cpp, torch_reference, v3_checkpoints
from tests.support.tolerance import bound
from tests.support.v3_checkpoints import TASKS

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

TEXTS = ["how do i bake bread", "the quick brown fox jumps over the lazy dog " * 8]
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "original": v3_checkpoints.original,
    "native": v3_checkpoints.native,
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def _written(tmp_path: Path, layout: str = "original") -> tuple[Path, Path]:
    """A published folder, and the base .gguf that was made of it."""
    source, target = LAYOUTS[layout](tmp_path / "source"), tmp_path / "out" / "v3.gguf"
    target.parent.mkdir()
    convert.to_gguf(str(source), target, kind="F32")
    return source, target


def _check_equal(found: mlx_jina.Encoder, source: Path) -> None:
    wanted = mlx_jina.load(source)
    assert (found.tasks, found.prompts, found.truncate_dims) == (TASKS, wanted.prompts, wanted.truncate_dims)
    for task in (None, *TASKS):
        np.testing.assert_array_equal(found.encode(TEXTS, task=task), wanted.encode(TEXTS, task=task))
        assert found.fingerprint(task) == wanted.fingerprint(task)


def test_llama_cpp_takes_the_base_alone_and_with_each_adapter(tmp_path: Path) -> None:
    source, target = _written(tmp_path)
    ids = [row.tolist() for row in gguf_reader.read(target).tokenizer.encode(TEXTS)]
    modes = [mlx_jina.load(source), *(mlx_jina.load(source, task=task) for task in TASKS)]
    ours = np.concatenate([model.encode(TEXTS, prompt="") for model in modes])
    adapters = [gguf_lora.name_of(task, target) for task in TASKS]
    theirs = np.concatenate([llama_cpp.vectors(target, ids), llama_cpp.vectors(target, ids, adapters)])
    # llama.cpp looks GELU up in a table of half precision.
    assert 1 - (ours * theirs).sum(axis=1).min() < bound(1e-6)
    # No two modes are alike, so that each vector could only come from its own adapter.
    assert np.triu(ours @ ours.T, 1).max() < 0.99


@layouts
def test_the_same_vectors_from_gguf(tmp_path: Path, layout: str) -> None:
    source, target = _written(tmp_path, layout)
    for task in TASKS:
        adapter = GGUF(gguf_lora.name_of(task, target))
        assert adapter.metadata[gguf_lora.TASK] == task
        assert adapter.metadata.get(gguf_lora.PROMPT, "") == v3_checkpoints.entry().prompts[task]
    for path in (target, target.parent):
        _check_equal(mlx_jina.load(path), source)
    for task in TASKS:
        fused, wanted = mlx_jina.load(target, task=task), mlx_jina.load(source, task=task)
        np.testing.assert_array_equal(fused.encode(TEXTS), wanted.encode(TEXTS))
    query = mlx_jina.load(target, task="retrieval.query").encode_query(TEXTS)
    np.testing.assert_array_equal(query, mlx_jina.load(source, task="retrieval.query").encode_query(TEXTS))


def test_the_same_vectors_from_the_published_dtype(tmp_path: Path) -> None:
    source = v3_checkpoints.original(tmp_path / "source", dtype=mx.bfloat16)
    convert.to_gguf(str(source), tmp_path / "v3.gguf", kind="BF16")
    convert.to_mlx(str(source), tmp_path / "mlx")
    for path in (tmp_path / "v3.gguf", tmp_path / "mlx"):
        _check_equal(mlx_jina.load(path), source)


@layouts
def test_the_same_vectors_from_an_mlx_folder(tmp_path: Path, layout: str) -> None:
    source, target = _written(tmp_path, layout)
    for name, origin in {"mlx": source, "from-gguf": target, "again": tmp_path / "mlx"}.items():
        convert.to_mlx(str(origin), tmp_path / name)
        assert not folder.missing_files(tmp_path / name)
        _check_equal(mlx_jina.load(tmp_path / name), source)
    convert.to_gguf(str(tmp_path / "from-gguf"), tmp_path / target.name, kind="F32")
    for file in sorted(target.parent.iterdir()):
        first, second = GGUF(file), GGUF(tmp_path / file.name)
        assert first.metadata == second.metadata
        for entry in first.entries:
            assert first.raw(entry).tobytes() == second.raw(entry).tobytes()


def test_transformers_and_peft_take_the_mlx_folder(tmp_path: Path) -> None:
    source = v3_checkpoints.original(tmp_path / "source")
    convert.to_mlx(str(source), tmp_path / "mlx")
    ours, theirs = mlx_jina.load(source), torch_reference.jina_v3(tmp_path / "mlx", TASKS)
    ids = [np.array(row, dtype=np.int32) for row in ours.tokenize(TEXTS)]
    for task in TASKS:
        theirs.set_adapter(jina_v3.folder_of(task))
        wanted = torch_reference.mean(theirs, ids)
        np.testing.assert_allclose(ours.encode(TEXTS, task=task, prompt=""), wanted, atol=bound(5e-6), rtol=0)


def test_a_quantised_mlx_folder_keeps_the_adapters(tmp_path: Path) -> None:
    source = v3_checkpoints.native(tmp_path / "source")
    convert.to_mlx(str(source), tmp_path / "mlx", bits=8, group_size=32)
    wanted, found = mlx_jina.load(source), mlx_jina.load(tmp_path / "mlx")
    for task in (None, *TASKS):
        assert (wanted.encode(TEXTS, task=task) * found.encode(TEXTS, task=task)).sum(axis=1).min() > 0.999


def _rewritten(path: Path, tensors: dict[str, npt.NDArray[np.float32]], change: dict[str, Any]) -> None:
    """An adapter with other tensors and metadata (None removes a key)."""
    metadata = {key: value for key, value in (GGUF(path).metadata | change).items() if value is not None}
    outputs = [
        gguf_file.Output(name, Type.F32, array.shape, lambda array=array: array)  # type: ignore[misc]
        for name, array in tensors.items()
    ]
    gguf_file.write([gguf_file.File(path, "jina-bert-v3", metadata, outputs)])


def _as_llama_cpp_writes_it(task: str) -> dict[str, npt.NDArray[np.float32]]:
    """The repository's stacks as in conversion/bert.py: one attn_qkv, and token_types with its halves swapped."""
    config = v3_checkpoints.native_config(**v3_checkpoints.V3_TINY)
    stacks = {name: x[TASKS.index(task)] for name, x in v3_checkpoints.stacks(config, 4).items()}
    names = {
        "embeddings.word_embeddings": "token_embd",
        "embeddings.token_type_embeddings": "token_types",
        **{
            f"encoder.layers.{i}.{theirs}": f"blk.{i}.{name}"
            for i in range(config["num_hidden_layers"])
            for theirs, name in (
                ("mixer.Wqkv", "attn_qkv"),
                ("mixer.out_proj", "attn_output"),
                ("mlp.fc1", "ffn_up"),
                ("mlp.fc2", "ffn_down"),
            )
        },
    }
    made = {}
    for module, name in names.items():
        a, b = stacks[f"{module}.lora_A"], stacks[f"{module}.lora_B"]
        halves = {"token_embd": (a, b.T), "token_types": (b, a)}.get(name, (a, b))
        for half, array in zip("ab", halves, strict=True):
            made[f"{name}.weight.lora_{half}"] = np.ascontiguousarray(array)
    return made


def test_adapters_by_llama_cpp_s_converter_load(tmp_path: Path) -> None:
    source, target = _written(tmp_path)
    for task in TASKS:
        path, none = gguf_lora.name_of(task, target), {gguf_lora.TYPE_RANKS: None, gguf_lora.BASE: None}
        _rewritten(path, _as_llama_cpp_writes_it(task), none)
    _check_equal(mlx_jina.load(target), source)


def test_a_fused_matrix_of_other_shapes_is_refused(tmp_path: Path) -> None:
    _, target = _written(tmp_path)
    tensors = _as_llama_cpp_writes_it("separation")
    tensors["blk.0.attn_qkv.weight.lora_b"] = np.ones((256, 4), dtype=np.float32)
    _rewritten(gguf_lora.name_of("separation", target), tensors, {gguf_lora.TYPE_RANKS: None})
    with pytest.raises(
        CheckpointError, match=r"lora-separation-v3\.gguf: tensor 'blk.0.attn_qkv.weight' is fused"
    ):
        mlx_jina.load(target)


@pytest.mark.parametrize("ranks", [-1, 8, 9])
def test_ranks_that_are_not_there_are_refused(tmp_path: Path, ranks: int) -> None:
    _, target = _written(tmp_path)
    path = gguf_lora.name_of("separation", target)
    file = GGUF(path)
    tensors = {
        name: np.frombuffer(file.raw(name).tobytes(), np.float32).reshape(entry.shape)
        for name, entry in file.entries.items()
    }
    _rewritten(path, tensors, {gguf_lora.TYPE_RANKS: ranks})
    with pytest.raises(CheckpointError, match=rf"{gguf_lora.TYPE_RANKS}' is {ranks}, which its token_embd"):
        mlx_jina.load(target)


def test_types_without_tokens_are_not_written(tmp_path: Path) -> None:
    source = v3_checkpoints.native(tmp_path / "source")
    place = source / "separation"
    config = v3_checkpoints.native_config(**v3_checkpoints.V3_TINY)
    adapter = v3_checkpoints.native_adapter(config, 4, TASKS.index("separation"))
    settings = json_file.read(place / lora.CONFIG_FILE)
    settings["target_modules"].remove("word_embeddings")
    kept = {name: x for name, x in adapter.items() if "word_embeddings" not in name}
    checkpoints.write_adapter(place, settings, kept)
    with pytest.raises(CheckpointError, match=r"separation: llama\.cpp can .* 1 types and not of token_embd"):
        convert.to_gguf(str(source), tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf"))
