"""Published values of the real jina-embeddings-v3: `pytest -m network` on a machine that can reach the hub."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina.nn import ragged

pytestmark = pytest.mark.network

# First five components of the unit vectors, without a prompt: qdrant/fastembed,
# tests/test_text_multitask_embeddings.py @14d2d1e (float32 ONNX).
TEXTS = ["Hello World", "Follow the white rabbit."]
UNIT = {
    "retrieval.query": [[0.0623, -0.0402, 0.1706, -0.0143, 0.0617], [-0.1064, -0.0733, 0.0353, 0.0096, 0.0667]],
    "retrieval.passage": [[0.0513, -0.0247, 0.1751, -0.0075, 0.0679], [-0.0987, -0.0786, 0.09, 0.0087, 0.0577]],
    "separation": [[0.094, -0.1065, 0.1305, 0.0547, 0.0556], [0.0315, -0.1468, 0.065, 0.0568, 0.0546]],
    "classification": [[0.0606, -0.0877, 0.1384, 0.0065, 0.0722], [-0.0502, -0.119, 0.032, 0.0514, 0.0689]],
    "text-matching": [[0.0911, -0.0341, 0.1305, -0.026, 0.0576], [-0.1432, -0.05, 0.0133, 0.0464, 0.0789]],
}

# Components 1 to 3 of the first three states: huggingface/transformers,
# tests/models/jina_embeddings_v3/test_modeling_jina_embeddings_v3.py @d5e49ce. Its first token is masked, which is
# the same as left out, for rotary positions are relative.
IDS = [345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]
STATES = {
    None: [[-2.1561, 1.8075, -0.1943], [-2.0813, 1.9855, -0.2760], [-2.1181, 2.0043, -0.1322]],
    "retrieval.query": [[-1.5202, 2.4074, -0.9706], [-1.5279, 2.4025, -1.1237], [-1.5252, 2.6143, -0.9416]],
    "retrieval.passage": [[-1.0778, 1.8124, -0.8223], [-1.3796, 1.8108, -0.9868], [-1.1073, 1.9459, -0.8104]],
    "separation": [[-2.3134, 1.9034, 0.1885], [-2.1804, 1.9923, 0.1184], [-2.2325, 2.0251, 0.2533]],
    "classification": [[-1.9793, 2.2602, -0.17995], [-1.8780, 2.2660, -0.21822], [-1.9202, 2.4457, -0.00022832]],
    "text-matching": [[-1.6952, 1.8568, -0.2258], [-1.6239, 1.9056, -0.2681], [-1.5218, 1.8185, 0.0062]],
}


@pytest.fixture(scope="module")
def model() -> mlx_jina.Encoder:
    return mlx_jina.load("v3", dtype="float32")


@pytest.mark.parametrize("task", UNIT)
def test_unit_vectors(model: mlx_jina.Encoder, task: str) -> None:
    found = model.encode(TEXTS, task=task, prompt="")
    np.testing.assert_allclose(found[:, :5], UNIT[task], rtol=0, atol=1e-3)


@pytest.mark.parametrize("task", STATES)
def test_hidden_states_by_ids(model: mlx_jina.Encoder, task: str | None) -> None:
    batch = ragged.flatten([np.array(IDS, dtype=np.int32)], np.zeros(1, dtype=np.intp))
    run = model.loaded.model_for(task)
    states = model._thread.run(lambda: np.array(run.hidden(mx.array(batch.ids), batch.ragged)))
    np.testing.assert_allclose(states[:3, 1:4], STATES[task], rtol=1e-4, atol=1e-4)
