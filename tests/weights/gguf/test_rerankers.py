"""Qwen3-Reranker from .gguf files, also those without a head; what cannot be scored right is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Type

import mlx_jina
from mlx_jina.choices import GGUFType
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import convert
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf.file import GGUF
from tests.support import checkpoints, llama_cpp, reranker_checkpoints, v3_checkpoints
from tests.support.tolerance import bound

QUERY, DOCUMENTS = "What is the capital of France?", ["paris", "bake bread", "", "light travels fast"]
Array = npt.NDArray[np.float32]


def edited(
    source: Path, target: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Array] | None = None
) -> Path:
    """A copy of a file of float32 tensors, with more tensors and keys; a key that is None goes."""
    file = GGUF(source)

    def own(name: str) -> Array:
        return np.frombuffer(file.raw(name), np.float32).reshape(file.entries[name].shape)

    outputs = [gguf_file.Output(n, Type.F32, entry.shape, partial(own, n)) for n, entry in file.entries.items()]
    outputs += [
        gguf_file.Output(n, Type.F32, x.shape, partial(lambda x: x, x)) for n, x in (tensors or {}).items()
    ]
    keys = {key: value for key, value in {**file.metadata, **metadata}.items() if value is not None}
    gguf_file.write([gguf_file.File(target, str(keys["general.architecture"]), keys, outputs)])
    return target


# What llama.cpp's converter does not write.
OURS = {
    "mlx-jina.config": None,
    "mlx-jina.prompts": None,
    "general.name": "Model",
    "qwen3.pooling_type": None,
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def folder(tied: bool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reranker_checkpoints.qwen(tmp_path_factory.mktemp("qwen") / "model", tied=tied)


@pytest.fixture(scope="module")
def wanted(folder: Path) -> Array:
    return mlx_jina.load_reranker(folder).score(QUERY, DOCUMENTS, activation="none")


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Path:
    """The decoder alone, as our own writer has it."""
    convert.to_gguf(str(folder), folder.parent / "decoder.gguf", kind="F32")
    return folder.parent / "decoder.gguf"


def head(tied: bool) -> Array:
    weights = reranker_checkpoints.qwen_weights(reranker_checkpoints.qwen_config(tied))
    return weights.get("lm_head.weight", weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("labels", [("yes", "no"), ("no", "yes")])
def test_a_file_with_its_head(
    decoder: Path, wanted: Array, tied: bool, tmp_path: Path, labels: tuple[str, str]
) -> None:
    fast = reranker_checkpoints.qwen_tokenizer()
    rows = head(tied)[[fast.encode(label).ids[0] for label in labels]]
    keys = {**OURS, "qwen3.pooling_type": 4, "qwen3.classifier.output_labels": list(labels)}
    path = edited(decoder, tmp_path / "model.gguf", keys, {"cls.output.weight": rows})
    found = mlx_jina.load_reranker(path).score(QUERY, DOCUMENTS, activation="none")
    np.testing.assert_allclose(found, wanted, atol=bound(1e-5), rtol=0)
    with pytest.raises(CheckpointError, match=r"is a reranker .*cls\.output\.weight.*load_reranker opens it"):
        mlx_jina.load(path)


def test_a_file_that_lost_its_head_is_rescued(decoder: Path, wanted: Array, tied: bool, tmp_path: Path) -> None:
    """llama.cpp returns 1e-20 for every text of such a file."""
    tensors = {} if tied else {"output.weight": head(tied)}
    path = edited(decoder, tmp_path / "model.gguf", OURS, tensors)
    found = mlx_jina.load_reranker(path).score(QUERY, DOCUMENTS, activation="none")
    np.testing.assert_allclose(found, wanted, atol=bound(1e-5), rtol=0)


def test_a_decoder_that_mlx_jina_wrote(decoder: Path) -> None:
    with pytest.raises(CheckpointError, match="as an embedding model, without a language head"):
        mlx_jina.load_reranker(decoder)


def test_an_embedding_model_of_llama_cpp(decoder: Path, tmp_path: Path) -> None:
    """Qwen3-Embedding and v5 have every tensor of a reranker that lost its head, and a pooling."""
    for pooling in (1, 3):
        path = edited(decoder, tmp_path / "model.gguf", {**OURS, "qwen3.pooling_type": pooling})
        with pytest.raises(CheckpointError, match=rf"embedding model, and no reranker.*pooling_type is {pooling}"):
            mlx_jina.load_reranker(path)


def test_embedding_load_refuses_by_pooling_and_by_name(decoder: Path, tmp_path: Path) -> None:
    for keys, words in (
        ({"qwen3.pooling_type": 4}, r"qwen3\.pooling_type is 4"),
        ({"tokenizer.chat_template.rerank": "x"}, r"it has tokenizer\.chat_template\.rerank"),
        ({"general.name": "Qwen3 Reranker 0.6B"}, "general.name is 'Qwen3 Reranker 0.6B'"),
    ):
        path = edited(decoder, tmp_path / "model.gguf", {**OURS, **keys})
        with pytest.raises(CheckpointError, match=f"is a reranker \\({words}.*load_reranker opens it"):
            mlx_jina.load(path)


def test_a_quantised_file(folder: Path, wanted: Array, tied: bool, tmp_path: Path) -> None:
    convert.to_gguf(str(folder), tmp_path / "q8.gguf", kind="Q8_0")
    file = GGUF(tmp_path / "q8.gguf")
    outputs = [
        gguf_file.Output(name, entry.type, entry.shape, partial(file.raw, name))
        for name, entry in file.entries.items()
    ]
    if not tied:
        outputs.append(gguf_file.Output("output.weight", Type.F32, head(tied).shape, lambda: head(tied)))
    keys = {key: value for key, value in file.metadata.items() if key not in OURS}
    gguf_file.write([gguf_file.File(tmp_path / "model.gguf", "qwen3", keys, outputs)])
    found = mlx_jina.load_reranker(tmp_path / "model.gguf").score(QUERY, DOCUMENTS, activation="none")
    assert 0 < abs(found - wanted).max() < 0.2


def test_v1_is_refused_with_the_reason(tmp_path: Path) -> None:
    convert.to_gguf(str(checkpoints.tiny_jina_bert(tmp_path / "v1")), tmp_path / "v1.gguf", kind="F32")
    row = np.zeros((1, 64), dtype=np.float32)
    path = edited(tmp_path / "v1.gguf", tmp_path / "model.gguf", OURS, {"cls.weight": row})
    for load in (mlx_jina.load, mlx_jina.load_reranker):
        with pytest.raises(CheckpointError, match=r"reranker without its pooler, which llama.cpp's converter"):
            load(path)


def test_an_embedding_gguf_is_no_reranker(tmp_path: Path) -> None:
    convert.to_gguf(str(checkpoints.tiny_jina_bert(tmp_path / "v2")), tmp_path / "v2.gguf", kind="F32")
    with pytest.raises(CheckpointError, match="only Qwen3's are read"):
        mlx_jina.load_reranker(tmp_path / "v2.gguf")


def test_pairs_of_a_rebuilt_xlm_roberta_tokenizer(tmp_path: Path) -> None:
    folder = v3_checkpoints.native(tmp_path / "v3")
    convert.to_gguf(str(folder), tmp_path / "v3.gguf", kind="F32")
    path = edited(tmp_path / "v3.gguf", tmp_path / "model.gguf", {gguf_tokenizer.WHOLE: None})
    rebuilt, _ = gguf_tokenizer.read(GGUF(path))
    theirs = v3_checkpoints.tokenizer()
    for pair in (("bake bread", "paris"), ("how fast", "")):
        assert rebuilt.fast.encode(*pair).ids == theirs.encode(*pair).ids
        assert rebuilt.fast.encode(*pair).type_ids == theirs.encode(*pair).type_ids


@pytest.mark.parametrize("labels", [1, 2])
def test_llama_cpp_computes_our_scores(folder: Path, tied: bool, labels: int, tmp_path: Path) -> None:
    """From a file with its head and its prompt; the head is that of both answers or of their difference."""
    make = partial(reranker_checkpoints.qwen if labels == 2 else reranker_checkpoints.qwen_classifier, tied=tied)
    source = make(tmp_path / "Qwen3-Reranker-0.6B")
    convert.to_gguf(str(source), tmp_path / "model.gguf", kind="F32")
    file = GGUF(tmp_path / "model.gguf")
    assert file.metadata["qwen3.pooling_type"] == 4
    assert list(file.metadata["qwen3.classifier.output_labels"]) == ["yes", "no"]
    assert "output.weight" not in file.entries
    wanted = mlx_jina.load_reranker(source).score(QUERY, DOCUMENTS)
    read = mlx_jina.load_reranker(tmp_path / "model.gguf").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(read, wanted, atol=bound(1e-7), rtol=0)
    np.testing.assert_allclose(llama_cpp.scores(file.path, QUERY, DOCUMENTS), wanted, atol=5e-6, rtol=0)


def test_a_file_that_lost_its_head_is_repaired(decoder: Path, wanted: Array, tied: bool, tmp_path: Path) -> None:
    tensors = {} if tied else {"output.weight": head(tied)}
    broken = edited(decoder, tmp_path / "broken.gguf", OURS | {"general.name": "Qwen3 Reranker 0.6B"}, tensors)
    convert.to_gguf(str(broken), tmp_path / "whole.gguf", kind="F32")
    found = llama_cpp.scores(tmp_path / "whole.gguf", QUERY, DOCUMENTS)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-wanted)), atol=5e-6, rtol=0)


def test_quantised_types_keep_the_head(tmp_path: Path) -> None:
    source = reranker_checkpoints.qwen(tmp_path / "Qwen3-Reranker-0.6B")
    exact = mlx_jina.load_reranker(source, dtype="float32").score(QUERY, DOCUMENTS)
    kinds: dict[GGUFType, float] = {"F16": 1e-3, "Q8_0": 0.05}
    for kind, most in kinds.items():
        convert.to_gguf(str(source), tmp_path / "model.gguf", kind=kind, force=True)
        path = tmp_path / "model.gguf"
        assert GGUF(path).entries["cls.output.weight"].type == Type.F32
        found = mlx_jina.load_reranker(path, dtype="float32").score(QUERY, DOCUMENTS)
        assert abs(found - exact).max() < most
        np.testing.assert_allclose(llama_cpp.scores(path, QUERY, DOCUMENTS), found, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (reranker_checkpoints.v1, "leaves out its pooler"),
        (reranker_checkpoints.v2, "llama.cpp's own converter writes one"),
        (reranker_checkpoints.bge, "llama.cpp's own converter writes one"),
        (reranker_checkpoints.v3, "no place for its projector"),
    ],
)
def test_models_without_a_gguf(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        convert.to_gguf(str(make(tmp_path / "model")), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_v3_with_its_projector_beside_it(tmp_path: Path) -> None:
    """As in its repository for llama.cpp, whose files are plain decoders."""
    published = reranker_checkpoints.v3_mlx(tmp_path / "jina-reranker-v3-mlx")
    wanted = mlx_jina.load_reranker(published).score(QUERY, DOCUMENTS)
    (published / "projector.safetensors").rename(tmp_path / "projector.safetensors")
    decoder = tmp_path / "decoder"
    checkpoints.write_folder(
        decoder,
        checkpoints.read_config(published) | {"architectures": ["Qwen3ForCausalLM"]},
        {name: np.array(x) for name, x in checkpoints.read_tensors(published).items()},
        reranker_checkpoints.v3_tokenizer(),
    )
    convert.to_gguf(str(decoder), tmp_path / "decoder.gguf", kind="F32")
    for name, keys in (("ours", {}), ("theirs", {**OURS, gguf_tokenizer.WHOLE: None})):
        folder = tmp_path / name
        folder.mkdir()
        path = edited(tmp_path / "decoder.gguf", folder / "model-F32.gguf", keys)
        with pytest.raises(CheckpointError, match="jina-reranker-v3 without its projector"):
            mlx_jina.load_reranker(path)
        (folder / "projector.safetensors").write_bytes((tmp_path / "projector.safetensors").read_bytes())
        for source in (path, folder):
            found = mlx_jina.load_reranker(source)
            assert found.listwise
            np.testing.assert_allclose(found.score(QUERY, DOCUMENTS), wanted, atol=bound(2e-6), rtol=0)
