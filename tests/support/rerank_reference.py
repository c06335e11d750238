"""What rerankers say, by libraries that are not mlx_jina: sentence-transformers, transformers, float64 NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mlx_jina import Reranker
from mlx_jina.engine.reranking import PointwiseWork
from mlx_jina.text.pairs import PairOptions
from tests.support import reference
from tests.support.checkpoints import read_json

REASON = "needs torch, transformers and sentence-transformers (pip install --group reference)"


def jina_bert(weights: dict[str, Any], config: dict[str, Any], ids: Sequence[int]) -> float:
    """The logit of one row by JinaBERT, BERT's pooler and the classifier."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    first = reference.jina_bert(weights, config, "original", np.array(ids))[0]
    pooled = np.tanh(w["pooler.dense.weight"] @ first + w["pooler.dense.bias"])
    return float(w["classifier.weight"][0] @ pooled + w["classifier.bias"][0])


def roberta(weights: dict[str, Any], config: dict[str, Any], ids: Sequence[int], first_position: int = 2) -> float:
    """The logit of one row by stock XLM-RoBERTa's weights."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    heads, eps, length = config["num_attention_heads"], config["layer_norm_eps"], len(ids)

    def linear(name: str, x: reference.Array) -> reference.Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: reference.Array) -> reference.Array:
        return reference.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], eps)

    tables = "roberta.embeddings"
    x = w[f"{tables}.word_embeddings.weight"][np.array(ids)] + w[f"{tables}.token_type_embeddings.weight"][0]
    x = norm(f"{tables}.LayerNorm", x + w[f"{tables}.position_embeddings.weight"][first_position:][:length])
    for i in range(config["num_hidden_layers"]):
        layer = f"roberta.encoder.layer.{i}"
        q, k, v = (
            linear(f"{layer}.attention.self.{part}", x).reshape(length, heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        shares = reference.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
        context = (shares @ v).transpose(1, 0, 2).reshape(length, -1)
        x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", context))
        fed = linear(f"{layer}.output.dense", reference.gelu(linear(f"{layer}.intermediate.dense", x)))
        x = norm(f"{layer}.output.LayerNorm", x + fed)
    return float(linear("classifier.out_proj", np.tanh(linear("classifier.dense", x[0])))[0])


def cross_encoder(folder: Path, pairs: Sequence[tuple[str, str]], **options: Any) -> npt.NDArray[np.float64]:
    """Raw logits of sentence-transformers' `CrossEncoder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason=REASON)
        library = pytest.importorskip("sentence_transformers", reason=REASON)
        # As the published folders have it; the class of a fast tokenizer that takes tokenizer.json as it is.
        model = library.CrossEncoder(str(folder), device="cpu", **options)
        scores = model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(scores, dtype=np.float64)


def qwen_logits(folder: Path, rows: Sequence[Sequence[int]], no: int, yes: int) -> npt.NDArray[np.float64]:
    """The logit of "yes" less that of "no" by transformers' `Qwen3ForCausalLM`, one row at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason=REASON)
        transformers = pytest.importorskip("transformers", reason=REASON)
        model = transformers.Qwen3ForCausalLM.from_pretrained(folder, dtype="float32").eval()
        with torch.no_grad():
            found = [model(input_ids=torch.tensor([list(row)])).logits[0, -1].double() for row in rows]
    return np.array([float(logits[yes] - logits[no]) for logits in found])


def rows_of(model: Reranker, query: str, documents: Sequence[str]) -> list[list[int]]:
    """The rows of tokens that a cross-encoder reads, one for each document."""
    options = PairOptions(model.max_length, truncate=False, windows=False, instruction=None)
    rows: dict[int, list[int]] = {}
    work = model._work([(query, document) for document in documents], options)
    assert isinstance(work, PointwiseWork)
    for group in work.groups:
        rows |= {i: [*group.beginning, *row] for i, row in zip(group.pairs, group.rows, strict=True)}
    return [rows[i] for i in range(len(documents))]


def classifier_logits(folder: Path, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """Logits by transformers' `AutoModelForSequenceClassification`; of two, the second less the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason=REASON)
        transformers = pytest.importorskip("transformers", reason=REASON)
        model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype="float32", output_loading_info=True
        )
        assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            logits = [model.eval()(input_ids=torch.tensor([list(map(int, row))])).logits[0] for row in rows]
    return np.array([float(row[-1] - row[0] if len(row) == 2 else row[0]) for row in logits])


def qwen_states(folder: Path, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """The states (L, D) of one text by transformers' `Qwen3Model`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason=REASON)
        transformers = pytest.importorskip("transformers", reason=REASON)
        model = transformers.Qwen3Model.from_pretrained(folder, dtype="float32").eval()
        with torch.no_grad():
            states = model(input_ids=torch.tensor([list(map(int, ids))])).last_hidden_state[0]
    return np.asarray(states.double())


def tie(folder: Path) -> bool:
    """Whether config.json ties the language head to the embedding."""
    return bool(read_json(folder / "config.json")["tie_word_embeddings"])
