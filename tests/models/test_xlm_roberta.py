"""jina-embeddings-v3 against float64 NumPy and transformers + peft, in both layouts; mistakes must show."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
import pytest
from mlx.utils import tree_flatten

import mlx_jina
from mlx_jina import catalog
from mlx_jina.choices import Dtype
from mlx_jina.cli import info
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.models.base import EncoderModel
from mlx_jina.weights import folder as folders
from mlx_jina.weights import hub, jina_v3, lora
from tests.support import bare, blocks, checkpoints, reference, torch_reference, v3_checkpoints
from tests.support.bare import TEXTS
from tests.support.tolerance import bound

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

RANK = 4
ORIGINAL = v3_checkpoints.original_config(RANK, **v3_checkpoints.V3_TINY)
CONFIG = v3_checkpoints.native_config(**v3_checkpoints.V3_TINY)
BASE = v3_checkpoints.weights(CONFIG)
STACKS = v3_checkpoints.stacks(CONFIG, RANK)
# What the model itself is given: transformers' names, no pooler.
WEIGHTS = {name: x for name, x in v3_checkpoints.native_weights(CONFIG).items() if "pooler" not in name}
TASKS = v3_checkpoints.TASKS
PROMPTS = dict(v3_checkpoints.entry().prompts)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v3_checkpoints.original(tmp_path_factory.mktemp("v3"))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v3_checkpoints.native(tmp_path_factory.mktemp("v3"))


@pytest.fixture(scope="module")
def model(original: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(original)


@pytest.fixture
def copy(native: Path, tmp_path: Path) -> Path:
    """One's own copy of transformers' layout, to damage."""
    return Path(shutil.copytree(native, tmp_path / "copy"))


def tiny(dtype: mx.Dtype = mx.float32, **changes: Any) -> EncoderModel:
    return bare.build(CONFIG | changes, WEIGHTS, dtype)


def random_ids(lengths: list[int]) -> list[bare.Ids]:
    return bare.random_ids(lengths, CONFIG["vocab_size"])


def tokens(model: mlx_jina.Encoder, task: str | None) -> list[bare.Ids]:
    prefix = PROMPTS[task] if task else ""
    return [np.array(ids, dtype=np.int32) for ids in model.tokenize([prefix + text for text in TEXTS])]


def expected(ids: list[bare.Ids], weights: dict[str, Any] = BASE, **changes: Any) -> npt.NDArray[np.float64]:
    states = (reference.xlm_roberta(weights, ORIGINAL | changes, text) for text in ids)
    return np.stack([reference.unit(x.mean(axis=0)) for x in states])


def fused(task: str, stacks: dict[str, Any] = STACKS) -> dict[str, Any]:
    return reference.with_stack(BASE, stacks, TASKS.index(task), 1 / RANK)


@pytest.mark.parametrize("task", [None, *TASKS])
def test_every_task_equals_float64(model: mlx_jina.Encoder, task: str | None) -> None:
    wanted = expected(tokens(model, task), fused(task) if task else BASE)
    np.testing.assert_allclose(model.encode(TEXTS, task=task), wanted, atol=bound(2e-6), rtol=0)


def test_every_task_equals_transformers_and_peft(native: Path, original: Path, model: mlx_jina.Encoder) -> None:
    theirs = torch_reference.jina_v3(native, TASKS)
    with theirs.disable_adapter():
        wanted = torch_reference.mean(theirs, tokens(model, None))
    np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=bound(5e-6), rtol=0)
    for task in TASKS:
        theirs.set_adapter(jina_v3.folder_of(task))
        wanted = torch_reference.mean(theirs, tokens(model, task))
        np.testing.assert_allclose(model.encode(TEXTS, task=task), wanted, atol=bound(5e-6), rtol=0)
        np.testing.assert_allclose(
            mlx_jina.load(original, task=task).encode(TEXTS), wanted, atol=bound(5e-6), rtol=0
        )


@pytest.mark.parametrize("task", [None, *TASKS])
def test_both_layouts_are_one_model(native: Path, model: mlx_jina.Encoder, task: str | None) -> None:
    other = mlx_jina.load(native)
    assert np.array_equal(other.encode(TEXTS, task=task), model.encode(TEXTS, task=task))
    assert other.fingerprint(task) == model.fingerprint(task)
    assert (other.tasks, other.prompts, other.truncate_dims) == (model.tasks, model.prompts, model.truncate_dims)


def test_mixed_lengths_equal_transformers(native: Path) -> None:
    texts = random_ids([1, 2, 3, 17, 127, 128, 129, 129, 333, 600])
    wanted = torch_reference.mean(torch_reference.jina_v3(native), texts)
    np.testing.assert_allclose(bare.pooled(tiny(), texts), wanted, atol=bound(5e-6), rtol=0)


@pytest.mark.slow
def test_up_to_8192_tokens_equals_transformers(native: Path) -> None:
    texts = random_ids([1, 129, 2048, 4097, 8192])
    wanted = torch_reference.mean(torch_reference.jina_v3(native), texts)
    np.testing.assert_allclose(bare.pooled(tiny(), texts), wanted, atol=bound(5e-6), rtol=0)


@pytest.mark.slow
def test_the_published_width_equals_transformers_and_peft(tmp_path: Path) -> None:
    """4 of the 24 layers at their real width; takes 3 GB of memory."""
    shape = {**v3_checkpoints.V3, "layers": 4, "vocab": 20000}
    task = "retrieval.passage"
    folder = v3_checkpoints.native(tmp_path, shape)
    kept = mlx_jina.load(folder)
    wanted = torch_reference.mean(torch_reference.jina_v3(folder, [task]), tokens(kept, task))
    np.testing.assert_allclose(kept.encode(TEXTS, task=task), wanted, atol=bound(5e-6), rtol=0)


class TestMistakesShow:
    TASK = "retrieval.query"

    @pytest.fixture
    def found(self, model: mlx_jina.Encoder) -> npt.NDArray[np.float32]:
        return model.encode(TEXTS, task=self.TASK)

    def test_of_adapters(self, model: mlx_jina.Encoder, found: npt.NDArray[np.float32]) -> None:
        ids = tokens(model, self.TASK)
        no_embedding = {name: x for name, x in STACKS.items() if "embeddings" not in name}
        no_type = {name: x for name, x in STACKS.items() if "token_type" not in name}
        for wrong in (
            BASE,
            fused("retrieval.passage"),
            fused(self.TASK, no_embedding),
            fused(self.TASK, no_type),
            reference.with_stack(BASE, STACKS, 0, 1.0),
        ):
            assert abs(found - expected(ids, wrong)).max() > 1e-2

    @pytest.mark.parametrize(("key", "value"), [("rotary_emb_base", 10000.0), ("layer_norm_eps", 1e-2)])
    def test_of_settings(
        self, model: mlx_jina.Encoder, found: npt.NDArray[np.float32], key: str, value: float
    ) -> None:
        wrong = expected(tokens(model, self.TASK), fused(self.TASK), **{key: value})
        assert abs(found - wrong).max() > 1e-4

    def test_of_prompts(self, model: mlx_jina.Encoder, found: npt.NDArray[np.float32]) -> None:
        for prompt in ("", PROMPTS["retrieval.passage"]):
            assert abs(found - model.encode(TEXTS, task=self.TASK, prompt=prompt)).max() > 1e-2

    def test_of_pooling(self, found: npt.NDArray[np.float32], model: mlx_jina.Encoder) -> None:
        states = [reference.xlm_roberta(fused(self.TASK), ORIGINAL, text) for text in tokens(model, self.TASK)]
        inner = np.stack([reference.unit(x[1:-1].mean(axis=0)) for x in states])
        assert abs(found - inner).max() > 1e-3


def test_neighbours_change_nothing() -> None:
    texts = random_ids([5, 300, 17, 1, 128, 128, 128, 64, 3, 2, 1, 511])
    together = bare.pooled(tiny(), texts)
    alone = np.concatenate([bare.pooled(tiny(), [ids]) for ids in texts])
    np.testing.assert_allclose(together, alone, atol=bound(1e-6), rtol=0)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_ids([333, 333, 90])
    whole = bare.pooled(tiny(), texts)
    blocks.small(monkeypatch, 2 * 2 * 333 * 4 * 7, rows=50)
    np.testing.assert_allclose(bare.pooled(tiny(), texts), whole, atol=bound(1e-6), rtol=0)


@pytest.mark.parametrize(("dtype", "cosine"), [("float16", 0.99999), ("bfloat16", 0.9995)])
def test_half_precision_stays_close(original: Path, model: mlx_jina.Encoder, dtype: Dtype, cosine: float) -> None:
    for task in ("retrieval.query", "separation"):
        half = mlx_jina.load(original, dtype=dtype, task=task).encode(TEXTS)
        assert (half * model.encode(TEXTS, task=task)).sum(axis=-1).min() >= cosine


class TestTasks:
    def test_the_model_knows_its_tasks_and_dimensions(self, model: mlx_jina.Encoder) -> None:
        assert (model.tasks, model.max_length, model.dimension) == (TASKS, 8192, 64)
        assert model.truncate_dims == (32, 64, 128, 256, 512, 768, 1024)
        assert model.prompts == PROMPTS

    def test_each_has_its_prompt(self, model: mlx_jina.Encoder) -> None:
        for task, prompt in PROMPTS.items():
            by_hand = model.encode([prompt + text for text in TEXTS], task=task, prompt="")
            assert np.array_equal(model.encode(TEXTS, task=task), by_hand)
            assert np.array_equal(model.encode(TEXTS, task=task, prompt_name=task), by_hand)

    def test_sides_are_tasks(self, original: Path, model: mlx_jina.Encoder) -> None:
        query, passage = (model.encode(TEXTS, task=f"retrieval.{side}") for side in ("query", "passage"))
        assert abs(query - passage).max() > 0.1
        for task in (None, "retrieval.query"):
            assert np.array_equal(model.encode_query(TEXTS, task=task), query)
        for task in (None, "retrieval.passage"):
            assert np.array_equal(model.encode_document(TEXTS, task=task), passage)
        alone = mlx_jina.load(original, task="retrieval.query")
        np.testing.assert_allclose(alone.encode_query(TEXTS), query, atol=bound(2e-6))
        with pytest.raises(InputError, match=r"'retrieval\.query' is for the other side"):
            alone.encode_document(TEXTS)
        with pytest.raises(InputError, match=r"'retrieval\.query' is for the other side"):
            model.encode_document(TEXTS, task="retrieval.query")

    def test_other_tasks_have_no_sides(self, original: Path, model: mlx_jina.Encoder) -> None:
        both = model.encode(TEXTS, task="separation")
        assert np.array_equal(model.encode_query(TEXTS, task="separation"), both)
        alone = mlx_jina.load(original, task="separation")
        assert np.array_equal(alone.encode_document(TEXTS), alone.encode(TEXTS))

    @pytest.mark.parametrize("prompt_name", ["retrieval.passage", "retrieval.query"])
    def test_a_prompt_of_another_task_is_an_error(self, model: mlx_jina.Encoder, prompt_name: str) -> None:
        for task in (None, "separation"):
            with pytest.raises(InputError, match=rf"prompt_name='{prompt_name}' contradict"):
                model.encode("x", task=task, prompt_name=prompt_name)

    @pytest.mark.parametrize("task", ["retrieval", "clustering", "retrieval_query", "separation.query"])
    def test_an_unknown_task_lists_the_known(self, model: mlx_jina.Encoder, original: Path, task: str) -> None:
        for call in (lambda: model.encode("x", task=task), lambda: mlx_jina.load(original, task=task)):
            with pytest.raises(InputError, match=rf"task='{task}' is unknown .*known: {', '.join(TASKS)}"):
                call()

    def test_any_sequence_gives_the_bits_of_a_fresh_load(self, original: Path, model: mlx_jina.Encoder) -> None:
        modes = (None, *TASKS)
        fresh = {task: mlx_jina.load(original).encode(TEXTS, task=task) for task in modes}
        for index in np.random.default_rng(0).integers(0, len(modes), 12):
            assert np.array_equal(model.encode(TEXTS, task=modes[index]), fresh[modes[index]])

    def test_info_has_a_fingerprint_for_each(
        self, original: Path, model: mlx_jina.Encoder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        info.run(str(original), {})
        found = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line[:11] == "fingerprint"]
        assert found == [[task, model.fingerprint(task)] for task in TASKS]
        assert len({own for _, own in found} | {model.fingerprint()}) == 6

    def test_weights_exist_once(self, model: mlx_jina.Encoder) -> None:
        views = [model.loaded.models[task] for task in TASKS]
        tables = {id(view.embeddings.word_embeddings.layer.weight) for view in views}
        base = model.loaded.models[None]
        assert len(tables | {id(base.embeddings.word_embeddings.weight)}) == 1

    def test_truncation_keeps_both_ends(self, model: mlx_jina.Encoder) -> None:
        text = "light travels fast in vacuum " * 20
        ids = tokens(model, None)[0], np.array(model.tokenize(text)[0], dtype=np.int32)
        assert all((row[0], row[-1]) == (0, 2) for row in ids)
        with pytest.warns(mlx_jina.TruncationWarning):
            cut = model.encode(text, max_length=12)
        np.testing.assert_allclose(cut, expected([np.array([*ids[1][:11], 2])])[0], atol=bound(2e-6))

    def test_a_dimension_is_cut_before_the_one_normalisation(self, model: mlx_jina.Encoder) -> None:
        full = model.encode(TEXTS, task="classification", normalize_embeddings=False)[:, :32]
        cut = model.encode(TEXTS, task="classification", truncate_dim=32)
        np.testing.assert_allclose(cut, full / np.linalg.norm(full, axis=-1, keepdims=True), atol=bound(1e-7))


class TestLayouts:
    def test_transformers_writes_the_old_names_too(self, copy: Path, model: mlx_jina.Encoder) -> None:
        old = {f"roberta.{name}": mx.array(x) for name, x in BASE.items()}
        mx.save_safetensors(str(copy / "model.safetensors"), old)
        for task in (None, "text-matching"):
            assert np.array_equal(mlx_jina.load(copy).encode(TEXTS, task=task), model.encode(TEXTS, task=task))

    def test_without_a_prompt_file(self, copy: Path, original: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(original, tmp_path / "original"))
        for folder in (copy, other):
            (folder / "config_sentence_transformers.json").unlink()
            assert mlx_jina.load(folder).prompts == PROMPTS

    def test_packed_weights_keep_their_adapters(self, copy: Path, model: mlx_jina.Encoder) -> None:
        config = checkpoints.read_config(copy)
        built = bare.build(CONFIG, WEIGHTS)
        assert isinstance(built, nn.Module)
        nn.quantize(built, group_size=32, bits=8)
        packed = dict(tree_flatten(built.parameters()))
        mx.save_safetensors(str(copy / "model.safetensors"), packed)
        checkpoints.write_json(copy / "config.json", config | {"quantization": {"group_size": 32, "bits": 8}})
        found = mlx_jina.load(copy).encode(TEXTS, task="retrieval.query")
        assert (found * model.encode(TEXTS, task="retrieval.query")).sum(axis=-1).min() > 0.999

    def test_a_missing_adapter_is_an_error_and_not_the_base_model(self, copy: Path) -> None:
        (copy / "text_matching/adapter_model.safetensors").unlink()
        assert folders.missing_files(copy) == ["text_matching/adapter_model.safetensors"]
        with pytest.raises(CheckpointError, match=r"lacks text_matching/adapter_model\.safetensors"):
            mlx_jina.load(copy)
        mlx_jina.load(copy, task="retrieval.query")
        with pytest.raises(CheckpointError, match=r"lacks text_matching"):
            mlx_jina.load(copy, task="text-matching")

    def test_only_the_adapters_needed_are_fetched(self) -> None:
        assert "retrieval_query/adapter_model.safetensors" in hub.file_patterns("retrieval.query")
        assert not any("passage" in name or "*/adapter" in name for name in hub.file_patterns("retrieval.query"))
        assert "*/adapter_config.json" in hub.file_patterns(None)

    def test_the_catalog_has_every_published_name(self) -> None:
        for name in ("v3", "jina-embeddings-v3", "jinaai/jina-embeddings-v3", "jinaai/jina-embeddings-v3-hf"):
            entry = catalog.find(name)
            assert entry is not None
            assert (entry.dimension, entry.max_length, entry.license) == (1024, 8192, "cc-by-nc-4.0")
        assert jina_v3.TASKS == v3_checkpoints.entry().tasks == TASKS
        assert "v3" in catalog.short_names()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda config, _: config.pop("lora_rank"), "lora_rank None"),
            (lambda config, _: config.update(lora_rank=2), "not 5 slices of rank 2 each"),
            (lambda config, _: config["lora_adaptations"].pop(), "not 4 slices of rank 4 each"),
            (lambda config, _: config.pop("lora_adaptations"), r"lora_adaptations \[\]"),
            (lambda config, _: config.update(rotary_emb_base=None), "'rope_theta' should be float"),
            (lambda config, _: config.update(position_embedding_type="absolute"), "position_embedding_type"),
            (lambda config, _: config.update(hidden_act="relu"), "hidden_act"),
            (lambda config, _: config.pop("pad_token_id"), "pad_token_id"),
            (lambda config, _: config.pop("rotary_emb_base"), "'xlm-roberta'.* is not one"),
            (lambda _, tensors: tensors.pop(f"{LAYER}.parametrizations.weight.0.lora_B"), "lora_B None"),
            (lambda _, tensors: tensors.pop(f"{LAYER}.bias"), r"lacks layers\.1\.mlp\.fc2\.bias"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, original: Path, tmp_path: Path, change: Callable[[Any, Any], object], message: str
    ) -> None:
        folder = Path(shutil.copytree(original, tmp_path / "copy"))
        config, tensors = checkpoints.read_config(folder), checkpoints.read_tensors(folder)
        change(config, tensors)
        mx.eval(tensors)
        mx.save_safetensors(str(folder / "model.safetensors"), tensors)
        checkpoints.write_json(folder / "config.json", config)
        with pytest.raises(CheckpointError, match=message):
            mlx_jina.load(folder)

    def test_a_foreign_embedding_adapter_is_an_error(self, copy: Path) -> None:
        wide = v3_checkpoints.native_config(**{**v3_checkpoints.V3_TINY, "vocab": 300})
        file = copy / "separation" / lora.WEIGHTS_FILE
        tensors = {k: mx.array(x) for k, x in v3_checkpoints.native_adapter(wide, RANK, 2).items()}
        mx.save_safetensors(str(file), tensors)
        for task in (None, "separation"):
            with pytest.raises(
                CheckpointError, match=r"separation: it changes embeddings\.word_embeddings as \(300"
            ):
                mlx_jina.load(copy, task=task)


LAYER = "roberta.encoder.layers.1.mlp.fc2"
