"""v4's Qwen2.5-VL against transformers on the same weights, for all tasks; every plausible mistake must show."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_jina
from mlx_jina import catalog, models
from mlx_jina.errors import CheckpointError, InputError, TooLongError
from mlx_jina.weights import convert, folder, hub
from tests.support import checkpoints, llama_cpp, reference, v4_checkpoints
from tests.support.bare import TEXTS
from tests.support.tolerance import bound
from tests.support.v4_checkpoints import PREFIXES, TASKS, Reference

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

CONFIG = v4_checkpoints.config()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v4_checkpoints.v4(tmp_path_factory.mktemp("v4") / "repository")


@pytest.fixture(scope="module")
def model(path: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(path, dtype="float32")


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {task: Reference(CONFIG, task) for task in TASKS}


def prompted(model: mlx_jina.Encoder, task: str, role: str, texts: list[str] = TEXTS) -> list[list[int]]:
    return model.tokenize([PREFIXES[task, role] + text for text in texts])


@pytest.mark.parametrize(("task", "role"), PREFIXES)
def test_every_task_and_role_equals_transformers(
    model: mlx_jina.Encoder, references: dict[str, Reference], path: Path, task: str, role: str
) -> None:
    ids = prompted(model, task, role)
    wanted = np.stack([references[task].single(text) for text in ids])
    found = model.encode(TEXTS, task=task, prompt_name=role)
    np.testing.assert_allclose(found, wanted, atol=bound(2e-6), rtol=0)
    one = mlx_jina.load(path, task=task, dtype="float32")
    assert one.tasks == (task,)
    np.testing.assert_allclose(one.encode(TEXTS, prompt_name=role), wanted, atol=bound(2e-6), rtol=0)


@pytest.mark.parametrize(("task", "role"), PREFIXES)
def test_every_token_equals_transformers(
    model: mlx_jina.Encoder, references: dict[str, Reference], path: Path, task: str, role: str
) -> None:
    ids = prompted(model, task, role)
    tokens = model.multi_vector
    encode = tokens.encode_query if role == "query" else tokens.encode_document
    found = encode(TEXTS, task=task)
    # Every token has a vector, those of the prompt too.
    assert [x.shape for x in found] == [(len(text), 8) for text in ids]
    for rows, text in zip(found, ids, strict=True):
        np.testing.assert_allclose(rows, references[task].multi(text), atol=bound(1e-5), rtol=0)
    alone = mlx_jina.load_multi_vector(path, task=task, dtype="float32")
    own = alone.encode_query(TEXTS[0]) if role == "query" else alone.encode_document(TEXTS[0])
    np.testing.assert_allclose(own, found[0], atol=bound(1e-5), rtol=0)


def test_mistakes_show(model: mlx_jina.Encoder, references: dict[str, Reference]) -> None:
    """Each of them alone; a forgotten adapter of the projector leaves single vectors as they are."""
    right, ids = references["retrieval"], prompted(model, "retrieval", "query")
    single = [right.single(text) for text in ids]
    for wrong in (
        [right.states(text)[-1] for text in ids],
        [right.states(text)[2:].mean(axis=0) for text in ids if len(text) > 3],
        [references["code"].single(text) for text in ids],
    ):
        longest = max(range(len(wrong)), key=lambda i: len(ids[i]))
        assert abs(reference.unit(wrong[longest]) - single[longest]).max() > 1e-3
    bare_projector = v4_checkpoints.weights(CONFIG)["multi_vector_projector.weight"]
    forgotten = reference.unit(right.states(ids[0]) @ bare_projector.T + right.projector["bias"])
    unbiased = reference.unit(right.states(ids[0]) @ right.projector["weight"].T)
    found = model.multi_vector.encode_query(TEXTS[0], task="retrieval")
    for rows in (forgotten, unbiased):
        assert (found * rows).sum(axis=-1).mean() < 0.98


def test_tasks_change_nothing_of_each_other(model: mlx_jina.Encoder) -> None:
    first = model.encode(TEXTS, task="retrieval")
    tokens = model.multi_vector.encode_query(TEXTS[0], task="retrieval")
    other = model.encode(TEXTS, task="code")
    assert abs(first - other).max() > 1e-2
    assert np.array_equal(model.encode(TEXTS, task="retrieval"), first)
    assert np.array_equal(model.multi_vector.encode_query(TEXTS[0], task="retrieval"), tokens)
    assert (
        len({model.fingerprint(task) for task in TASKS} | {model.multi_vector.fingerprint(t) for t in TASKS}) == 6
    )


def test_the_spellings_of_transformers_load_alike(path: Path, tmp_path: Path, model: mlx_jina.Encoder) -> None:
    newer = v4_checkpoints.v4(tmp_path / "newer", newer=True)
    ours, theirs = folder.read(path), folder.read(newer)
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        assert mx.array_equal(tensor, theirs.tensors[name]), name
    found = mlx_jina.load(newer, dtype="float32")
    assert found.tasks == TASKS
    assert [found.fingerprint(task) for task in TASKS] == [model.fingerprint(task) for task in TASKS]


def test_the_name_that_peft_puts_in_is_dropped(path: Path, tmp_path: Path, model: mlx_jina.Encoder) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    _rename_adapters(copy, lambda name: re.sub("(lora_.)", r"\1.default", name))
    assert mlx_jina.load(copy, dtype="float32").fingerprint("code") == model.fingerprint("code")


def _rename_adapters(folder: Path, rename: Callable[[str], str]) -> None:
    file = folder / "adapters/adapter_model.safetensors"
    tensors: dict[str, mx.array] = dict(mx.load(str(file)))  # type: ignore[arg-type]
    mx.eval(tensors)
    mx.save_safetensors(str(file), {rename(name): x for name, x in tensors.items()})


class TestPrompts:
    def test_what_the_model_says(self, model: mlx_jina.Encoder) -> None:
        assert (model.tasks, model.max_length, model.pooling) == (TASKS, 32_768, "mean")
        assert model.truncate_dims == (16, 32, 64)
        assert model.multi_vector.truncate_dims == ()
        assert model.multi_vector.dimension == 8

    @pytest.mark.parametrize("task", TASKS)
    def test_sides(self, model: mlx_jina.Encoder, task: str) -> None:
        query, passage = (model.encode(TEXTS, task=task, prompt_name=role) for role in ("query", "passage"))
        assert np.array_equal(model.encode(TEXTS, task=task), query)
        assert np.array_equal(model.encode_query(TEXTS, task=task), query)
        assert np.array_equal(model.encode_document(TEXTS, task=task), passage)
        assert np.array_equal(model.encode(TEXTS, task=task, prompt_name="document"), passage)
        assert np.array_equal(query, passage) == (task == "text-matching")
        if task != "text-matching":
            assert np.array_equal(model.encode(TEXTS, task=f"{task}.passage"), passage)

    def test_a_task_is_needed(self, model: mlx_jina.Encoder) -> None:
        for call in (model.encode, model.multi_vector.encode_query):
            with pytest.raises(InputError, match=r"needs a task.*retrieval, text-matching, code"):
                call("x")
            with pytest.raises(InputError, match="'clustering' is unknown"):
                call("x", task="clustering")

    def test_sizes(self, model: mlx_jina.Encoder) -> None:
        full = model.encode(TEXTS, task="code")
        cut = full[:, :16] / np.linalg.norm(full[:, :16], axis=1, keepdims=True)
        np.testing.assert_allclose(model.encode(TEXTS, task="code", truncate_dim=16), cut, atol=bound(1e-6))
        with pytest.raises(InputError, match="truncate_dim=17"):
            model.encode("x", task="code", truncate_dim=17)
        with pytest.raises(InputError, match="truncate_dim=4 is not a size"):
            model.multi_vector.encode_query("x", task="code", truncate_dim=4)

    def test_special_tokens_in_a_text_are_characters(self, model: mlx_jina.Encoder) -> None:
        (ids,) = model.tokenize(["<|vision_start|> a <|image_pad|>"])
        assert not {CONFIG["vision_start_token_id"], CONFIG["image_token_id"]} & set(ids)

    def test_an_empty_text_has_the_prompt(self, model: mlx_jina.Encoder) -> None:
        assert len(model.multi_vector.encode_query("", task="code")) == len(
            prompted(model, "code", "query", [""])[0]
        )

    def test_long_texts_are_cut_at_their_end(self, model: mlx_jina.Encoder) -> None:
        with pytest.warns(mlx_jina.TruncationWarning):
            rows = model.multi_vector.encode_document("a b c d e f g", task="code", max_length=5)
        assert len(rows) == 5
        with pytest.raises(TooLongError, match="max_length=5"):
            model.multi_vector.encode_document("a b c d e f g", task="code", max_length=5, truncate=False)


def test_neighbours_change_nothing(model: mlx_jina.Encoder) -> None:
    together = model.encode(TEXTS, task="retrieval")
    alone = np.stack([model.encode(text, task="retrieval") for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=bound(1e-6), rtol=0)
    rows = model.multi_vector.encode_query(TEXTS, task="retrieval")
    for text, own in zip(TEXTS, rows, strict=True):
        found = model.multi_vector.encode_query(text, task="retrieval")
        np.testing.assert_allclose(found, own, atol=bound(5e-6), rtol=0)


def test_late_chunking_pools_the_document(model: mlx_jina.Encoder, references: dict[str, Reference]) -> None:
    chunks = ["how do I bake bread?", "light travels fast.", "a man riding a horse"]
    found = model.encode(chunks, task="retrieval.passage", late_chunking=True)
    tokens = model.encode_tokens(" ".join(chunks), task="retrieval.passage", normalize_embeddings=False)
    states = references["retrieval"].states(tokens.ids.tolist())
    starts = np.cumsum([0, *(len(chunk) + 1 for chunk in chunks)])
    owner = np.searchsorted(starts[1:-1], tokens.spans[:, 1] - 1, side="right")
    wanted = [reference.unit(states[owner == i].mean(axis=0)) for i in range(3)]
    np.testing.assert_allclose(found, wanted, atol=bound(5e-6), rtol=0)


def test_max_sim(model: mlx_jina.Encoder) -> None:
    tokens = model.multi_vector
    query, documents = (
        tokens.encode_query("bread", task="retrieval"),
        tokens.encode_document(TEXTS, task="retrieval"),
    )
    scores = tokens.similarity([query], documents)[0]
    wanted = [(query @ document.T).max(axis=1).sum() for document in documents]
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    best = tokens.rank("bread", TEXTS, task="retrieval")[0]
    assert best["corpus_id"] == int(np.argmax(wanted))
    small = tokens.encode_document(TEXTS[0], task="retrieval", precision="binary")
    assert small.shape == (len(documents[0]), 1)


class TestOtherRepositories:
    """One task merged, and no projector."""

    @pytest.mark.parametrize("task", TASKS)
    def test_the_repositories_for_vllm(self, tmp_path: Path, references: dict[str, Reference], task: str) -> None:
        place = v4_checkpoints.merged(tmp_path / f"jina-embeddings-v4-vllm-{task}", task)
        merged = mlx_jina.load(place, dtype="float32")
        assert merged.tasks == (task,)
        for role in ("query", "passage"):
            ids = prompted(merged, task, role)
            wanted = np.stack([references[task].single(text) for text in ids])
            np.testing.assert_allclose(merged.encode(TEXTS, prompt_name=role), wanted, atol=bound(2e-6), rtol=0)
        with pytest.raises(CheckpointError, match=r"no multi_vector_projector.*vllm"):
            _ = merged.multi_vector
        with pytest.raises(CheckpointError, match="no multi_vector_projector"):
            mlx_jina.load_multi_vector(place)

    def test_gguf_with_a_task(self, path: Path, tmp_path: Path, references: dict[str, Reference]) -> None:
        """Under the name that Jina gives it, also without a word of ours in it; llama.cpp computes the same."""
        target = tmp_path / "jina-embeddings-v4-text-retrieval-F32.gguf"
        convert.to_gguf(path, target, task="retrieval", kind="F32")
        found = mlx_jina.load(target, dtype="float32")
        assert (found.tasks, found.truncate_dims) == (("retrieval",), (16, 32, 64))
        ids = prompted(found, "retrieval", "query", TEXTS[:3])
        wanted = np.stack([references["retrieval"].single(text) for text in ids])
        np.testing.assert_allclose(found.encode(TEXTS[:3]), wanted, atol=bound(2e-6), rtol=0)
        np.testing.assert_allclose(llama_cpp.vectors(target, ids), wanted, atol=2e-6, rtol=0)
        with pytest.raises(CheckpointError, match="no multi_vector_projector"):
            _ = found.multi_vector

    def test_gguf_with_adapters_beside_it(self, path: Path, tmp_path: Path, model: mlx_jina.Encoder) -> None:
        convert.to_gguf(path, tmp_path / "all.gguf", kind="F32")
        found = mlx_jina.load(tmp_path / "all.gguf", dtype="float32")
        assert found.tasks == TASKS
        ids = prompted(model, "code", "query", TEXTS[:2])
        beside = [tmp_path / f"lora-{task}-all.gguf" for task in TASKS]
        theirs = llama_cpp.vectors(tmp_path / "all.gguf", ids, beside).reshape(3, 2, -1)
        for task, rows in zip(TASKS, theirs, strict=True):
            wanted = model.encode(TEXTS[:2], task=task)
            np.testing.assert_allclose(found.encode(TEXTS[:2], task=task), wanted, atol=bound(1e-6), rtol=0)
            np.testing.assert_allclose(rows, wanted, atol=2e-6, rtol=0)

    @pytest.mark.parametrize("bits", [8, 4])
    def test_an_mlx_folder_with_bits(self, path: Path, tmp_path: Path, model: mlx_jina.Encoder, bits: Any) -> None:
        """The text model is packed; projector and tower stay as they are."""
        target = tmp_path / "packed"
        convert.to_mlx(path, target, bits=bits, group_size=32)
        tensors = checkpoints.read_tensors(target)
        packed = {name for name in tensors if name.endswith(".scales")}
        assert len(packed) == 1 + 7 * 3
        assert not any(name.startswith(("visual.", "multi_vector_projector")) for name in packed)
        stored = folder.read(path).tensors
        for name in stored:
            if name.startswith(("visual.", "multi_vector_projector")):
                assert mx.array_equal(tensors[name], stored[name])
        found = mlx_jina.load(target, dtype="float32")
        assert found.tasks == TASKS
        cosines = (found.encode(TEXTS, task="code") * model.encode(TEXTS, task="code")).sum(axis=1)
        assert cosines.min() > (0.999 if bits == 8 else 0.9)
        assert found.multi_vector.encode_query("x", task="code").shape[1] == 8
        assert (target / "preprocessor_config.json").is_file()

    def test_an_mlx_folder_with_a_task(self, path: Path, tmp_path: Path) -> None:
        convert.to_mlx(path, tmp_path / "code", task="code", dtype="float32")
        found, wanted = (
            mlx_jina.load(tmp_path / "code", dtype="float32"),
            mlx_jina.load(path, task="code", dtype="float32"),
        )
        assert (found.tasks, set(found.prompts)) == (("code",), {"code_query", "code_passage"})
        assert np.array_equal(found.encode(TEXTS), wanted.encode(TEXTS))
        rows = found.multi_vector.encode_document(TEXTS[0]), wanted.multi_vector.encode_document(TEXTS[0])
        assert np.array_equal(*rows)


class TestRefusals:
    @pytest.fixture
    def copy(self, path: Path, tmp_path: Path) -> Path:
        shutil.copytree(path, tmp_path / "copy")
        return tmp_path / "copy"

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"use_rslora": True}, "use_rslora"),
            ({"use_dora": True}, "use_dora"),
            ({"lora_bias": True}, "lora_bias"),
            ({"r": 8}, "its rank is 8"),
            ({"exclude_modules": ["visual"]}, "exclude_modules"),
        ],
    )
    def test_settings_of_adapters(self, copy: Path, changes: dict[str, Any], words: str) -> None:
        checkpoints.write_json(copy / "adapters/adapter_config.json", v4_checkpoints.adapter_config() | changes)
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy)

    def test_a_config_without_exclude_modules_is_fine(self, copy: Path, model: mlx_jina.Encoder) -> None:
        changes = {"exclude_modules": None, "target_modules": list(checkpoints.V5_TARGETS)}
        own = v4_checkpoints.adapter_config() | changes
        own["target_modules"].append("multi_vector_projector")
        checkpoints.write_json(copy / "adapters/adapter_config.json", own)
        assert mlx_jina.load(copy, dtype="float32").fingerprint("code") == model.fingerprint("code")

    @pytest.mark.parametrize(
        ("rename", "words"),
        [
            (
                lambda name: name.replace("model.language_model.layers.0.mlp", "visual.blocks.0.mlp"),
                "vision tower",
            ),
            (lambda name: name.replace(".code.", ".codes."), r"no adapter of the task 'code'.*codes"),
            (
                lambda name: name.replace("layers.0.mlp.up_proj.lora_A.code", "layers.9.x.lora_A.code"),
                "same modules",
            ),
            (lambda name: name.replace("lora_A", "lora_C"), "not the A or B of a layer and a task"),
        ],
    )
    def test_names_in_adapters(self, copy: Path, rename: Callable[[str], str], words: str) -> None:
        _rename_adapters(copy, rename)
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
            ({"rope_scaling": {"mrope_section": [1, 2], "type": "mrope"}}, "mrope_section"),
            ({"use_sliding_window": True}, "use_sliding_window"),
            ({"rope_theta": None}, "rope_theta"),
        ],
    )
    def test_settings(self, copy: Path, changes: dict[str, Any], words: str) -> None:
        own = CONFIG | {"text_config": CONFIG["text_config"] | changes}
        checkpoints.write_json(copy / "config.json", own)
        with pytest.raises(CheckpointError, match=words):
            mlx_jina.load(copy)

    def test_other_strategies(self, copy: Path) -> None:
        checkpoints.write_json(copy / "config.json", CONFIG | {"single_vector_pool_strategy": "last"})
        with pytest.raises(CheckpointError, match="single_vector_pool_strategy"):
            mlx_jina.load(copy)

    def test_missing_adapters(self, copy: Path) -> None:
        (copy / "adapters/adapter_model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"lacks adapters/adapter_model\.safetensors \("):
            mlx_jina.load(copy)

    def test_models_with_one_kind_of_vector(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no vectors of tokens for late interaction"):
            _ = mlx_jina.load("pocket").multi_vector

    def test_float16_overflows(self, path: Path) -> None:
        with pytest.raises(InputError, match=r"float16.*65504"):
            mlx_jina.load(path, dtype="float16")


def test_bfloat16_stays_close(path: Path, model: mlx_jina.Encoder) -> None:
    half = mlx_jina.load(path, dtype="bfloat16").encode(TEXTS, task="retrieval")
    assert (half * model.encode(TEXTS, task="retrieval")).sum(axis=-1).min() >= 0.999


def test_the_catalog() -> None:
    entry = catalog.find("v4")
    assert entry is not None
    assert (entry.repo, entry.dimension, entry.parameters) == ("jinaai/jina-embeddings-v4", 2048, 3_934_695_552)
    assert entry.truncate_dims == (128, 256, 512, 1024, 2048)
    assert (entry.tasks, entry.default_task, entry.non_commercial) == (TASKS, "text-matching", True)
    assert "v4" in catalog.short_names()
    for task, gguf in (("retrieval", "retrieval"), ("text-matching", "matching"), ("code", "code")):
        merged = catalog.find(f"jinaai/jina-embeddings-v4-vllm-{task}")
        assert merged is not None
        assert merged.tasks == (task,)
        assert catalog.find(f"jina-embeddings-v4-text-{gguf}-GGUF") is merged
        assert merged.prompts == {f"{task}_{role}": PREFIXES[task, role] for role in ("query", "passage")}
    patterns = hub.file_patterns("retrieval")
    assert {"adapters/adapter_model.safetensors", "preprocessor_config.json"} <= set(patterns)


def test_published_parameters() -> None:
    """The numbers of MTEB's card, from the published sizes."""
    text = CONFIG["text_config"] | {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16}
    text |= {"num_key_value_heads": 2, "intermediate_size": 11008, "vocab_size": 151_936}
    text |= {"rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default"}}
    config: dict[str, Any] = {**CONFIG, **text, "multi_vector_projector_dim": 128, "model_type": "qwen2_5_vl"}
    built = models.build(config, [f"multi_vector_projector.{i}" for i in range(99)])
    parameters: dict[str, mx.array] = dict(tree_flatten(built.parameters()))
    assert len(parameters) == 434 + 2
    assert sum(x.size for x in parameters.values()) == 3_085_938_688 + 262_272
    adapted = [x.shape for name, x in parameters.items() if x.ndim == 2 and "embed" not in name]
    assert 32 * sum(map(sum, adapted)) == 59_936_768


def test_nothing_of_the_tower_is_read_for_texts(path: Path, tmp_path: Path) -> None:
    """Its tensors may even be missing."""
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    for part in copy.glob("model-*.safetensors"):
        tensors: dict[str, mx.array] = dict(mx.load(str(part)))  # type: ignore[arg-type]
        mx.eval(tensors)
        kept = {name: x for name, x in tensors.items() if not name.startswith("visual.")}
        mx.save_safetensors(str(part), kept)
    assert mlx_jina.load(copy).encode(TEXTS[0], task="code").shape == (64,)
