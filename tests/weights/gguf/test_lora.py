"""Adapters as .gguf files beside their base: ours in llama.cpp, and read back as the folder they came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

import mlx_jina
from mlx_jina import device
from mlx_jina.choices import GGUFType
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.weights import convert, folder, lora
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import reader as gguf_reader
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, decoder_checkpoints, llama_cpp, reference, torch_reference
from tests.support.checkpoints import V5_TASKS
from tests.support.tolerance import bound

TEXTS = ["how do i bake bread", "the quick brown fox jumps over the lazy dog " * 8]
MAKERS = {"small": checkpoints.v5_small, "nano": decoder_checkpoints.v5_nano}
models = pytest.mark.parametrize("model", MAKERS)


def _written(tmp_path: Path, model: str = "small", kind: GGUFType = "F32") -> tuple[Path, Path]:
    """A folder with adapters, and the base .gguf that was made of it."""
    make: Callable[[Path], Path] = MAKERS[model]
    source, target = make(tmp_path / "source"), tmp_path / "out" / f"{model}.gguf"
    target.parent.mkdir()
    convert.to_gguf(str(source), target, kind=kind)
    return source, target


@models
def test_llama_cpp_takes_the_base_with_each_adapter(tmp_path: Path, model: str) -> None:
    source, target = _written(tmp_path, model)
    ids = [row.tolist() for row in gguf_reader.read(target).tokenizer.encode(TEXTS)]
    ours = np.concatenate([mlx_jina.load(source, task=task).encode(TEXTS, prompt="") for task in V5_TASKS])
    theirs = llama_cpp.vectors(target, ids, [gguf_lora.name_of(task, target) for task in V5_TASKS])
    assert abs(ours - theirs).max() < bound(2e-6)
    # No two tasks are alike, so that each vector could only come from its own adapter.
    alike = ours @ ours.T
    assert np.triu(alike, 1).max() < 0.99


def test_llama_cpp_takes_adapters_of_the_embedding(tmp_path: Path) -> None:
    # Not of v5-small: llama.cpp multiplies by its embedding once more, as its head, and aborts.
    source, target = decoder_checkpoints.v5_nano(tmp_path / "source"), tmp_path / "m.gguf"
    place = source / "adapters/retrieval"
    config = checkpoints.v5_adapter_config(4, target_modules=[*checkpoints.V5_TARGETS, "embed_tokens"])
    weights = decoder_checkpoints.nano_adapter_weights(checkpoints.read_config(source), 4, 1)
    rng = np.random.default_rng(0)
    for half, shape in (("A", (4, 64)), ("B", (512, 4))):
        name = f"base_model.model.embed_tokens.lora_{half}.weight"
        weights[name] = rng.normal(0, 0.5, shape).astype(np.float32)
    checkpoints.write_adapter(place, config, weights)
    convert.to_gguf(str(source), target, kind="F32")
    wanted, ours = mlx_jina.load(source, task="retrieval"), mlx_jina.load(target, task="retrieval")
    assert ours.fingerprint() == wanted.fingerprint()
    ids = [row.tolist() for row in gguf_reader.read(target).tokenizer.encode(TEXTS)]
    theirs = llama_cpp.vectors(target, ids, [gguf_lora.name_of("retrieval", target)])
    assert abs(ours.encode(TEXTS, prompt="") - theirs).max() < bound(2e-6)


def test_llama_cpp_takes_adapters_over_a_quantised_base(tmp_path: Path) -> None:
    _, target = _written(tmp_path, kind="Q8_0")
    ids = [row.tolist() for row in gguf_reader.read(target).tokenizer.encode(TEXTS)]
    ours = reference.unit(mlx_jina.load(target).encode(TEXTS, task="retrieval", prompt=""))
    theirs = llama_cpp.vectors(target, ids, [gguf_lora.name_of("retrieval", target)])
    assert 1 - (ours * theirs).sum(axis=1).min() < 2e-3


@models
def test_the_same_vectors_as_the_folder(tmp_path: Path, model: str) -> None:
    source, target = _written(tmp_path, model)
    assert {path.name for path in target.parent.iterdir()} == {
        target.name,
        *(f"lora-{task}-{model}.gguf" for task in V5_TASKS),
    }
    wanted = mlx_jina.load(source)
    for path in (target, target.parent):
        kept = mlx_jina.load(path)
        assert (kept.tasks, kept.truncate_dims) == (wanted.tasks, wanted.truncate_dims)
        for task in V5_TASKS:
            np.testing.assert_array_equal(kept.encode(TEXTS, task=task), wanted.encode(TEXTS, task=task))
            assert kept.fingerprint(task) == wanted.fingerprint(task)
    fused, first = mlx_jina.load(target, task="clustering"), mlx_jina.load(source, task="clustering")
    np.testing.assert_array_equal(fused.encode(TEXTS), first.encode(TEXTS))
    assert mlx_jina.load(target, task="retrieval.query").encode_query("light").shape == (wanted.dimension,)


@models
def test_there_and_back(tmp_path: Path, model: str) -> None:
    source, target = _written(tmp_path, model)
    convert.to_mlx(str(target), tmp_path / "back")
    convert.to_gguf(str(tmp_path / "back"), tmp_path / target.name, kind="F32")
    for file in sorted(target.parent.iterdir()):
        first, second = GGUF(file), GGUF(tmp_path / file.name)
        assert first.metadata == second.metadata
        for name in first.entries:
            assert first.raw(name).tobytes() == second.raw(name).tobytes()
    wanted, found = folder.read(source), folder.read(tmp_path / "back")
    assert found.config["model_type"] == wanted.config["model_type"]
    assert list(found.adapters) == list(wanted.adapters)
    for task, adapter in wanted.adapters.items():
        for module, pair in adapter.pairs.items():
            assert np.array_equal(found.adapters[task].pairs[module].b, pair.b)
    # A task is fused from any of them.
    convert.to_gguf(str(target), tmp_path / "fused.gguf", task="retrieval", kind="F32")
    convert.to_gguf(str(source), tmp_path / "wanted.gguf", task="retrieval", kind="F32")
    assert GGUF(tmp_path / "fused.gguf").metadata == GGUF(tmp_path / "wanted.gguf").metadata
    load = mlx_jina.load
    assert load(tmp_path / "fused.gguf").fingerprint() == load(tmp_path / "wanted.gguf").fingerprint()


def test_peft_takes_the_adapters_that_we_write(tmp_path: Path) -> None:
    source, target = _written(tmp_path, "nano")
    convert.to_mlx(str(target), tmp_path / "back")
    ids = folder.read(source).tokenizer.encode(TEXTS)
    theirs = torch_reference.last_token(torch_reference.eurobert(tmp_path / "back", "retrieval"), ids)
    ours = mlx_jina.load(target, task="retrieval").encode(TEXTS, prompt="")
    assert abs(ours - theirs).max() < bound(2e-6)


@pytest.mark.parametrize("options", [{"bits": 8, "group_size": 32}, {"dtype": "bfloat16"}, {}])
def test_an_mlx_folder_keeps_the_adapters(tmp_path: Path, options: dict[str, Any]) -> None:
    source = checkpoints.v5_small(tmp_path / "source")
    convert.to_mlx(str(source), tmp_path / "mlx", **options)
    wanted, found = mlx_jina.load(source), mlx_jina.load(tmp_path / "mlx")
    assert found.tasks == wanted.tasks
    for task in V5_TASKS:
        cosines = (wanted.encode(TEXTS, task=task) * found.encode(TEXTS, task=task)).sum(axis=1)
        assert cosines.min() > (0.999 if options else 0.999999)


def test_a_packed_base_runs_with_its_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, target = _written(tmp_path, kind="Q8_0")
    expanded = mlx_jina.load(target)
    with monkeypatch.context() as patched:
        patched.setattr(device, "on_gpu", lambda: True)
        packed, one = mlx_jina.load(target), mlx_jina.load(target, task="retrieval")
    wanted = expanded.encode(TEXTS, task="retrieval")
    assert abs(packed.encode(TEXTS, task="retrieval") - wanted).max() < bound(2e-5)
    assert abs(one.encode(TEXTS) - wanted).max() < bound(2e-5)


def test_alphas_and_ranks_of_single_layers(tmp_path: Path) -> None:
    source = checkpoints.v5_small(tmp_path / "source")
    config = source / "adapters/retrieval" / lora.CONFIG_FILE
    changed = json.loads(config.read_text()) | {"alpha_pattern": {"q_proj": 12}, "lora_alpha": 6}
    config.write_text(json.dumps(changed))
    wanted = mlx_jina.load(source, task="retrieval").fingerprint()
    convert.to_gguf(str(source), tmp_path / "m.gguf", kind="F32")
    convert.to_mlx(str(source), tmp_path / "mlx")
    assert lora.read(tmp_path / "mlx/adapters/retrieval").pairs["layers.0.self_attn.q_proj"].scale == 3
    written = GGUF(gguf_lora.name_of("retrieval", tmp_path / "m.gguf"))
    assert written.metadata[gguf_lora.ALPHA] == 6
    for name in ("m.gguf", "mlx"):
        assert mlx_jina.load(tmp_path / name, task="retrieval").fingerprint() == wanted


def _rewritten(path: Path, change: dict[str, Any], tensors: dict[str, np.ndarray | None] | None = None) -> None:
    """Other metadata and other tensors (None removes one)."""
    file = GGUF(path)
    metadata = {key: value for key, value in {**file.metadata, **change}.items() if value is not None}
    arrays: dict[str, np.ndarray | None] = {
        name: np.frombuffer(file.raw(name).tobytes(), np.float32).reshape(entry.shape)
        for name, entry in file.entries.items()
    }
    outputs = [
        gguf_file.Output(name, Type.F32, array.shape, lambda array=array: array)  # type: ignore[misc]
        for name, array in {**arrays, **(tensors or {})}.items()
        if array is not None
    ]
    architecture = str(metadata["general.architecture"])
    gguf_file.write([gguf_file.File(path, architecture, metadata, outputs)])


def test_other_people_s_adapters_load_from_a_folder(tmp_path: Path) -> None:
    source, target = _written(tmp_path)
    wanted = mlx_jina.load(source)
    # As convert_lora_to_gguf.py writes them: no task, and names of their own.
    for path in sorted(target.parent.glob("lora-*")):
        task = str(GGUF(path).metadata[gguf_lora.TASK])
        _rewritten(path, {gguf_lora.TASK: None, gguf_lora.PROMPT: None, gguf_lora.BASE: None})
        path.rename(path.with_name(f"{task}.gguf"))
    _rewritten(target, {"mlx-jina.config": None, gguf_lora.TASKS: None})
    found = mlx_jina.load(target.parent)
    assert set(found.tasks) == set(V5_TASKS)
    for task in V5_TASKS:
        np.testing.assert_array_equal(found.encode(TEXTS, task=task), wanted.encode(TEXTS, task=task))
    # By its file, the base is alone.
    assert mlx_jina.load(target).tasks == ()


ODD = np.ones((4, 65), dtype=np.float32)
A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


@pytest.mark.parametrize(
    ("change", "tensors", "reason"),
    [
        ({"general.architecture": "eurobert"}, {}, "it is for eurobert, but its base is qwen3"),
        ({"adapter.type": "ia3"}, {}, "'adapter.type' is 'ia3'"),
        ({gguf_lora.ALPHA: "much"}, {}, "of the wrong type"),
        (
            {},
            {"blk.0.odd.weight.lora_a": ODD, "blk.0.odd.weight.lora_b": ODD.T},
            "'blk.0.odd.weight' is not one that qwen3 has",
        ),
        ({}, {"blk.0.attn_norm.weight": ODD}, "not the lora_a or lora_b of a weight"),
        ({}, {"blk.0.attn_q.bias.lora_a": ODD}, "not the lora_a or lora_b of a weight"),
        ({}, {B: None}, "blk.0.attn_q.weight has only its lora_a"),
        ({}, {A: ODD}, "layers.0.self_attn.q_proj as (128, 65), which has shape (128, 64)"),
        ({}, {A: ODD[:3]}, "which have no rank"),
        ({}, {A: ODD[0]}, "has the shape (65,)"),
        ({}, {A: None, B: None}, "it has nothing for layers.0.self_attn.q_proj"),
        ({}, {A.replace("0", "9"): ODD, B.replace("0", "9"): np.ones((128, 4), np.float32)}, "does not exist"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Any], tensors: dict[str, np.ndarray | None], reason: str
) -> None:
    _, target = _written(tmp_path)
    adapter = gguf_lora.name_of("retrieval", target)
    _rewritten(adapter, change, tensors)
    for task in ("retrieval", None):
        with pytest.raises(CheckpointError) as caught:
            mlx_jina.load(target, task=task)
        assert reason in str(caught.value)
        assert str(adapter) in str(caught.value)


def test_sets_of_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source, target = _written(tmp_path)
    retrieval, clustering = (gguf_lora.name_of(task, target) for task in ("retrieval", "clustering"))
    clustering.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"small\.gguf is a base model that lacks .*: lora-clustering-small"):
        mlx_jina.load(target)
    assert mlx_jina.load(target, task="retrieval").tasks == ("retrieval",)
    with pytest.raises(InputError, match="task='summaries' is unknown"):
        mlx_jina.load(target, task="summaries")
    with pytest.raises(CheckpointError, match=r"lora-retrieval-small\.gguf is an adapter, not a model"):
        mlx_jina.load(retrieval)
    (tmp_path / "elsewhere").rename(clustering)
    (target.parent / "copy.gguf").write_bytes(retrieval.read_bytes())
    with pytest.raises(CheckpointError, match="are both adapters for the task 'retrieval'"):
        mlx_jina.load(target.parent)
    mlx_jina.load(target)
    (target.parent / "copy.gguf").write_bytes(target.read_bytes())
    with pytest.raises(CheckpointError, match=r"holds copy\.gguf, small\.gguf; name one file"):
        mlx_jina.load(target.parent)
    convert.to_gguf(str(source), tmp_path / "fused.gguf", task="retrieval")
    with pytest.raises(InputError, match="has no adapters beside it"):
        convert.to_gguf(str(tmp_path / "fused.gguf"), tmp_path / "x.gguf", task="retrieval")
    target.write_bytes((tmp_path / "fused.gguf").read_bytes())
    with pytest.raises(CheckpointError, match=r"small\.gguf has the task 'retrieval' fused"):
        mlx_jina.load(target)


def test_adapters_of_an_earlier_file_are_replaced_with_it(tmp_path: Path) -> None:
    source, target = _written(tmp_path)
    target.unlink()
    with pytest.raises(InputError, match=r"lora-.*-small\.gguf exists already; --force"):
        convert.to_gguf(str(source), target)
    with pytest.raises(InputError, match=r"lora-.*-small\.gguf exists already; --force"):
        convert.to_gguf(str(source), target, task="retrieval")
    # Of another model, though its name ends alike.
    other = target.with_name("lora-retrieval-v5-small.gguf")
    gguf_lora.name_of("retrieval", target).rename(other)
    convert.to_gguf(str(source), target, task="retrieval", force=True)
    assert sorted(path.name for path in target.parent.iterdir()) == [other.name, target.name]
    convert.to_gguf(str(source), target, force=True)
    assert len(mlx_jina.load(target).tasks) == 4
