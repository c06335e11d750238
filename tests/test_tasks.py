"""Tasks, prompts and file layouts of a model with adapters: by name, switched, fused, refused."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_jina
from mlx_jina import catalog
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.nn.lora import LoRALinear
from mlx_jina.weights import folder as folders
from mlx_jina.weights import hub, loading, lora, safetensors_file
from tests.support import checkpoints, reference
from tests.support.tolerance import bound

TASKS = checkpoints.V5_TASKS
TEXTS = ["how do i bake bread?", "light travels fast in vacuum", "", "paris " * 70]


def prefixed(texts: list[str]) -> list[str]:
    return [f"Document: {text}" for text in texts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.v5_small(tmp_path_factory.mktemp("v5") / "small", dtype=mx.bfloat16)


@pytest.fixture(scope="module")
def model(folder: Path) -> mlx_jina.Encoder:
    # On a GPU bfloat16 would compute, as the files have it.
    return mlx_jina.load(folder, dtype="float32")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """One's own copy, to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


class TestNames:
    def test_the_model_knows_its_tasks_prompts_and_dimensions(self, model: mlx_jina.Encoder) -> None:
        assert model.tasks == TASKS
        assert model.prompts == {"query": "Query: ", "document": "Document: "}
        assert model.truncate_dims == (32, 64, 128, 256, 512, 768, 1024)
        assert model.max_length == 32768

    @pytest.mark.parametrize(
        ("options", "prompt"),
        [
            ({"task": "retrieval"}, "Document: "),
            ({"task": "retrieval.query"}, "Query: "),
            ({"task": "retrieval.passage"}, "Document: "),
            ({"task": "retrieval", "prompt_name": "query"}, "Query: "),
            ({"task": "retrieval", "prompt_name": "document"}, "Document: "),
            ({"task": "retrieval", "prompt_name": "passage"}, "Document: "),
            ({"task": "retrieval.passage", "prompt_name": "document"}, "Document: "),
            ({"task": "text-matching"}, "Document: "),
            ({"task": "clustering"}, "Document: "),
            ({"task": "classification", "prompt_name": "query"}, "Query: "),
        ],
    )
    def test_each_name_means_one_prompt(
        self, model: mlx_jina.Encoder, options: dict[str, Any], prompt: str
    ) -> None:
        task = options["task"].partition(".")[0]
        plain = model.encode([prompt + text for text in TEXTS], task=task, prompt="")
        assert np.array_equal(model.encode(TEXTS, **options), plain)

    def test_queries_and_documents(self, model: mlx_jina.Encoder) -> None:
        query, passage = (model.encode(TEXTS, task=f"retrieval.{side}") for side in ("query", "passage"))
        assert np.array_equal(model.encode_query(TEXTS, task="retrieval"), query)
        assert np.array_equal(model.encode_document(TEXTS, task="retrieval"), passage)
        assert abs(query - passage).max() > 1e-3

    @pytest.mark.parametrize("task", TASKS[1:])
    def test_other_tasks_have_no_query_side(self, model: mlx_jina.Encoder, task: str) -> None:
        assert np.array_equal(model.encode_query(TEXTS, task=task), model.encode_document(TEXTS, task=task))

    @pytest.mark.parametrize("task", ["search", "text-matching.query", "retrieval.documents", "Retrieval", ""])
    def test_an_unknown_task_lists_the_known(self, model: mlx_jina.Encoder, folder: Path, task: str) -> None:
        known = "retrieval, text-matching, clustering, classification"
        with pytest.raises(InputError, match=rf"task='{task}' is unknown to this model \(known: {known}\)"):
            model.encode("x", task=task)
        with pytest.raises(InputError, match=known):
            mlx_jina.load(folder, task=task)

    def test_no_task_is_an_error_and_not_the_base_model(self, model: mlx_jina.Encoder) -> None:
        for call in (model.encode, model.encode_query, model.encode_document):
            with pytest.raises(InputError, match=r"needs a task.*retrieval, text-matching"):
                call("x")

    def test_contradictions_are_errors(self, model: mlx_jina.Encoder) -> None:
        with pytest.raises(InputError, match=r"'retrieval.query' and prompt_name='document' contradict"):
            model.encode("x", task="retrieval.query", prompt_name="document")
        with pytest.raises(InputError, match="contradict"):
            model.encode_document("x", task="retrieval.query")
        with pytest.raises(InputError, match=r"prompt_name='instruct' is unknown .*known: query, document"):
            model.encode("x", task="retrieval", prompt_name="instruct")


class TestSwitching:
    def test_tasks_differ(self, model: mlx_jina.Encoder) -> None:
        first, *others = (model.encode(TEXTS, task=task) for task in TASKS)
        assert all((first * other).sum(axis=-1).max() < 0.9 for other in others)

    def test_any_sequence_gives_the_bits_of_a_fresh_load(self, folder: Path, model: mlx_jina.Encoder) -> None:
        fresh = {task: mlx_jina.load(folder, dtype="float32").encode(TEXTS, task=task) for task in TASKS}
        for index in np.random.default_rng(0).integers(0, 4, 24):
            assert np.array_equal(model.encode(TEXTS, task=TASKS[index]), fresh[TASKS[index]])

    def test_threads_with_different_tasks(self, model: mlx_jina.Encoder) -> None:
        texts = [f"{text} {i}" for i in range(20) for text in TEXTS]
        alone = {task: model.encode(texts, task=task, batch_tokens=200) for task in TASKS}
        wrong: list[str] = []

        def work(task: str) -> None:
            for _ in range(3):
                if not np.array_equal(model.encode(texts, task=task, batch_tokens=200), alone[task]):
                    wrong.append(task)

        threads = [threading.Thread(target=work, args=(task,)) for task in TASKS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_weights_exist_once(self, model: mlx_jina.Encoder) -> None:
        views = [view for view in model.loaded.models.values() if isinstance(view, nn.Module)]
        weights = {id(view.layers[1].mlp.up_proj.layer.weight) for view in views}
        assert (len(views), len(weights)) == (4, 1)
        assert len({id(view.embed_tokens.weight) for view in views}) == 1

    def test_fingerprints_cover_an_adapters_scale(
        self, folder: Path, model: mlx_jina.Encoder, tmp_path: Path
    ) -> None:
        other = shutil.copytree(folder, tmp_path / folder.name)
        path = next(other.glob("adapters/retrieval/**/adapter_config.json"))
        config = checkpoints.read_json(path)
        checkpoints.write_json(path, config | {"lora_alpha": 2 * config["lora_alpha"]})
        changed = mlx_jina.load(other, dtype="float32")
        assert changed.fingerprint("retrieval") != model.fingerprint("retrieval")
        assert changed.fingerprint("clustering") == model.fingerprint("clustering")

    def test_fingerprints_tell_tasks_apart(self, folder: Path, model: mlx_jina.Encoder) -> None:
        assert len({model.fingerprint(task) for task in TASKS}) == 4
        assert model.fingerprint("retrieval.query") == model.fingerprint("retrieval")
        assert mlx_jina.load(folder, dtype="float32").fingerprint("retrieval") == model.fingerprint("retrieval")
        with pytest.raises(InputError, match="needs a task"):
            model.fingerprint()


class TestFused:
    @pytest.mark.parametrize("task", TASKS)
    def test_in_float32_it_is_the_kept_adapter(self, folder: Path, model: mlx_jina.Encoder, task: str) -> None:
        """Also of a checkpoint in bfloat16: both agree with float64, and may be mixed in one index."""
        fused = mlx_jina.load(folder, task=task, dtype="float32")
        assert fused.tasks == (task,)
        rows = fused.encode(TEXTS)
        np.testing.assert_allclose(rows, model.encode(TEXTS, task=task), rtol=0, atol=bound(2e-6))
        weights, pairs = (
            {name: np.array(x.astype(mx.float32), np.float64) for name, x in safetensors_file.read(path).items()}
            for path in (folder / "model.safetensors", folder / "adapters" / task / "adapter_model.safetensors")
        )
        settings = checkpoints.read_json(folder / "adapters" / task / "adapter_config.json")
        exact = reference.with_adapter(weights, pairs, settings["lora_alpha"] / settings["r"])
        config = checkpoints.read_config(folder)
        states = [reference.qwen3(exact, config, np.array(ids))[-1] for ids in fused.tokenize(prefixed(TEXTS))]
        np.testing.assert_allclose(rows, reference.unit(np.array(states)), rtol=0, atol=bound(5e-6))
        assert fused.fingerprint() == model.fingerprint(task)
        assert np.array_equal(rows, fused.encode(TEXTS, task=task))

    def test_in_half_precision_it_is_another_space(self, folder: Path, model: mlx_jina.Encoder) -> None:
        fused = mlx_jina.load(folder, task="retrieval", dtype="bfloat16")
        assert fused.fingerprint() != model.fingerprint("retrieval")
        cosines = (fused.encode(TEXTS) * model.encode(TEXTS, task="retrieval")).sum(axis=-1)
        assert 0.9995 < cosines.min() < 1

    def test_no_adapter_is_kept(self, folder: Path) -> None:
        fused = mlx_jina.load(folder, task="clustering", dtype="float32")
        (built,) = fused.loaded.models.values()
        assert isinstance(built, nn.Module)
        assert not any(isinstance(module, LoRALinear) for _, module in built.named_modules())

    def test_another_task_needs_another_load(self, folder: Path) -> None:
        with pytest.raises(InputError, match=r"'clustering' is unknown to this model \(known: retrieval\)"):
            mlx_jina.load(folder, task="retrieval").encode("x", task="clustering")

    def test_a_side_becomes_the_default_prompt(self, folder: Path) -> None:
        fused = mlx_jina.load(folder, task="retrieval.query")
        assert fused.tasks == ("retrieval",)
        assert np.array_equal(fused.encode(TEXTS), fused.encode_query(TEXTS))
        assert not np.array_equal(fused.encode(TEXTS), fused.encode_document(TEXTS))

    def test_symmetric_tasks_have_no_query_side(self, folder: Path) -> None:
        fused = mlx_jina.load(folder, task="text-matching")
        assert np.array_equal(fused.encode_query(TEXTS), fused.encode_document(TEXTS))


class TestLayouts:
    """The same tensors in every way they are published give the same bits."""

    @staticmethod
    def _rename(copy: Path, rename: Callable[[str], str], **extra: mx.array) -> None:
        tensors = mx.load(str(copy / "model.safetensors"))
        assert isinstance(tensors, dict)
        mx.save_safetensors(
            str(copy / "model.safetensors"), {rename(name): x for name, x in tensors.items()} | extra
        )

    @staticmethod
    def _config(copy: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        checkpoints.write_json(copy / "config.json", change(checkpoints.read_json(copy / "config.json")))

    def test_a_model_prefix_and_a_head(self, copy: Path, model: mlx_jina.Encoder) -> None:
        self._rename(copy, lambda name: f"model.{name}", **{"lm_head.weight": mx.zeros((512, 64))})
        assert np.array_equal(
            mlx_jina.load(copy, dtype="float32").encode(TEXTS, task="retrieval"),
            model.encode(TEXTS, task="retrieval"),
        )

    def test_omni(self, copy: Path, model: mlx_jina.Encoder) -> None:
        self._rename(
            copy, lambda name: f"language_model.{name}", **{"vision_tower.patch.weight": mx.zeros((2, 2))}
        )

        def nest(config: dict[str, Any]) -> dict[str, Any]:
            theta = config.pop("rope_theta")
            text = {**config, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
            return {"model_type": "jina_embeddings_v5_omni", "text_config": text, "hidden_size": 7}

        self._config(copy, nest)
        assert np.array_equal(
            mlx_jina.load(copy, dtype="float32").encode(TEXTS, task="retrieval"),
            model.encode(TEXTS, task="retrieval"),
        )

    def test_shards(self, copy: Path, model: mlx_jina.Encoder) -> None:
        tensors = mx.load(str(copy / "model.safetensors"))
        assert isinstance(tensors, dict)
        names, shards = sorted(tensors), [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        for half, shard in enumerate(shards):
            mx.save_safetensors(str(copy / shard), {name: tensors[name] for name in names[half::2]})
        weight_map = {name: shards[i % 2] for i, name in enumerate(names)}
        checkpoints.write_json(copy / "model.safetensors.index.json", {"weight_map": weight_map})
        (copy / "model.safetensors").unlink()
        assert np.array_equal(
            mlx_jina.load(copy, dtype="float32").encode(TEXTS, task="retrieval"),
            model.encode(TEXTS, task="retrieval"),
        )

    def _merge(self, copy: Path, task: str) -> None:
        tensors = mx.load(str(copy / "model.safetensors"))
        assert isinstance(tensors, dict)
        fused = lora.fuse(tensors, lora.read(copy / "adapters" / task), mx.float32)
        mx.eval(fused)
        mx.save_safetensors(str(copy / "model.safetensors"), fused)
        shutil.rmtree(copy / "adapters")

    def test_merged_repositories(self, copy: Path, folder: Path) -> None:
        self._merge(copy, "clustering")
        self._config(copy, lambda config: config | {"architectures": ["Qwen3Model"], "model_type": "qwen3"})
        wanted = mlx_jina.load(folder, task="clustering", dtype="float32").encode(TEXTS)
        assert np.array_equal(mlx_jina.load(copy, dtype="float32").encode(TEXTS), wanted)
        merged = mlx_jina.load(copy, task="clustering", dtype="float32")
        assert merged.tasks == ("clustering",)
        assert np.array_equal(merged.encode(TEXTS, task="clustering"), wanted)
        with pytest.raises(InputError, match="'retrieval' is unknown"):
            merged.encode("x", task="retrieval")

    def test_merged_repositories_are_known_by_name(self, copy: Path, folder: Path) -> None:
        self._merge(copy, "retrieval")
        (copy / "config_sentence_transformers.json").unlink()
        named = copy.rename(copy.parent / "jina-embeddings-v5-text-small-retrieval-mlx")
        merged = mlx_jina.load(named, dtype="float32")
        assert merged.tasks == ("retrieval",)
        wanted = mlx_jina.load(folder, task="retrieval", dtype="float32")
        assert np.array_equal(merged.encode(TEXTS, task="retrieval.query"), wanted.encode_query(TEXTS))
        with pytest.raises(InputError, match=r"'clustering' is unknown to this model \(known: retrieval\)"):
            mlx_jina.load(named, task="clustering")

    def test_without_a_prompt_file_the_catalog_knows(self, copy: Path, model: mlx_jina.Encoder) -> None:
        (copy / "config_sentence_transformers.json").unlink()
        assert np.array_equal(
            mlx_jina.load(copy, dtype="float32").encode(TEXTS, task="retrieval"),
            model.encode(TEXTS, task="retrieval"),
        )

    def test_the_files_own_prompts_win(self, copy: Path) -> None:
        prompts = {"prompts": {"query": "Q: ", "passage": "P: "}, "default_prompt_name": "passage"}
        checkpoints.write_json(copy / "config_sentence_transformers.json", prompts)
        own = mlx_jina.load(copy, task="retrieval")
        assert np.array_equal(own.encode("x"), own.encode("P: x", prompt=""))
        assert np.array_equal(own.encode("x", prompt_name="document"), own.encode("x"))

    def test_a_missing_adapter_is_an_error_and_not_the_base_model(self, copy: Path) -> None:
        (copy / "adapters/clustering/adapter_model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"lacks adapters/clustering/adapter_model\.safetensors"):
            mlx_jina.load(copy)
        mlx_jina.load(copy, task="retrieval")
        shutil.rmtree(copy / "adapters")
        with pytest.raises(CheckpointError, match=r"lacks adapters/retrieval/adapter_config\.json"):
            mlx_jina.load(copy, task="retrieval")

    def test_a_foreign_adapter_is_an_error(self, copy: Path) -> None:
        config = checkpoints.v5_small_config(**{**checkpoints.V5_TINY, "hidden": 32})
        checkpoints.write_adapter(
            copy / "adapters/retrieval",
            checkpoints.v5_adapter_config(4),
            checkpoints.v5_adapter_weights(config, 4, 0),
        )
        for task in (None, "retrieval"):
            with pytest.raises(CheckpointError, match=r"adapters/retrieval: it changes layers\.0\."):
                mlx_jina.load(copy, task=task)


def test_empty_texts_have_their_prompt(model: mlx_jina.Encoder) -> None:
    assert np.array_equal(
        model.encode("", task="clustering"), model.encode("Document: ", task="clustering", prompt="")
    )
    with pytest.raises(InputError, match="text 1 is empty"):
        model.encode(["x", ""], task="clustering", prompt="")


def test_truncation_takes_the_last_token_that_is_left(model: mlx_jina.Encoder) -> None:
    text = "light travels fast in vacuum " * 3
    ids = model.tokenize("Document: " + text)[0][:12]
    short = model._tokenizer.fast.decode(ids)
    with pytest.warns(mlx_jina.TruncationWarning):
        cut = model.encode(text, task="retrieval", max_length=12)
    np.testing.assert_allclose(cut, model.encode(short, task="retrieval", prompt=""), atol=bound(1e-6))


def test_a_dimension_is_cut_before_the_one_normalisation(model: mlx_jina.Encoder) -> None:
    full = model.encode(TEXTS, task="retrieval", normalize_embeddings=False)[:, :32]
    cut = model.encode(TEXTS, task="retrieval", truncate_dim=32)
    np.testing.assert_allclose(cut, full / np.linalg.norm(full, axis=-1, keepdims=True), atol=bound(1e-7))


def test_tasks_of_a_model_without_any(tmp_path: Path) -> None:
    folder = checkpoints.tiny_jina_bert(tmp_path / "bert")
    with pytest.raises(InputError, match="one vector space for every task"):
        mlx_jina.load(folder, task="retrieval")


def test_the_licence_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    loading._warn_of_licence.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            mlx_jina.load(folder, task="retrieval")
    assert [record.getMessage() for record in caplog.records] == [
        "jinaai/jina-embeddings-v5-text-small is licensed CC-BY-NC-4.0: no commercial use"
    ]


def test_only_the_adapters_needed_are_fetched_and_missed(copy: Path) -> None:
    assert "adapters/*/adapter_model.safetensors" in hub.file_patterns(None)
    assert "adapters/retrieval/adapter_model.safetensors" in hub.file_patterns("retrieval.query")
    shutil.rmtree(copy / "adapters/clustering")
    missing = [f"adapters/clustering/{name}" for name in (lora.CONFIG_FILE, lora.WEIGHTS_FILE)]
    assert folders.missing_files(copy) == missing
    assert folders.missing_files(copy, "clustering") == missing
    assert folders.missing_files(copy, "retrieval") == []
    assert folders.missing_files(copy, merged=True) == []


def test_the_catalog_has_every_published_name() -> None:
    for name in ("v5-small", "jina-embeddings-v5-text-small", "jinaai/jina-embeddings-v5-text-small"):
        entry = catalog.find(name)
        assert entry is not None
        assert (entry.dimension, entry.max_length, entry.license) == (1024, 32768, "cc-by-nc-4.0")
        assert entry.tasks == TASKS
    for task in TASKS:
        for ending in ("", "-mlx"):
            merged = catalog.find(f"jinaai/jina-embeddings-v5-text-small-{task}{ending}")
            assert merged is not None
            assert merged.tasks == (task,)
    assert "v5-small" in catalog.short_names()
    names = {name for name in catalog.short_names() if "v5" in name and "nano" not in name}
    assert names == {"v5-small", "v5-omni-small"}


def test_config_json_is_never_executed(copy: Path) -> None:
    (copy / "modeling_jina_embeddings_v5.py").write_text("raise SystemExit('executed')")
    (copy / "custom_st.py").write_text("raise SystemExit('executed')")
    modules = [{"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer"}]
    (copy / "modules.json").write_text(json.dumps(modules))
    mlx_jina.load(copy, task="retrieval").encode("x")
