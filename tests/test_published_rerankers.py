"""Published scores of the real rerankers: `pytest -m network` on a machine that can reach the hub."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_jina

pytestmark = pytest.mark.network

FRANCE = (
    "What is the capital of France?",
    ["Paris is the capital of France.", "Berlin is the capital of Germany."],
)
CHINA = (
    "What is the capital of China?",
    [
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and "
        "is responsible for the movement of planets around the sun.",
    ],
)
# qdrant/fastembed's tests of its ONNX copies, in float32.
LOGITS = {
    "jina-reranker-v1-tiny-en": [2.5911, 0.1122],
    "jina-reranker-v1-turbo-en": [1.8295, -2.8908],
    "jina-reranker-v2-base-multilingual": [1.6533, -1.6455],
}
# The model cards' logits in bfloat16, whose steps are 1/16 there; of 0.6B also cohere-ai/rcp-ndcg's in float32.
QWEN = {"0.6B": [7.625, -11.375], "4B": [6.4375, -14.375], "8B": [5.0625, -14.25]}
QWEN_FLOAT32 = [7.596951, -12.192464]

SKIN = "Organic skincare products for sensitive skin"
SKIN_DOCUMENTS = [
    "Organic skincare for sensitive skin with aloe vera and chamomile.",
    "New makeup trends focus on bold colors and innovative techniques",
    "Bio-Hautpflege für empfindliche Haut mit Aloe Vera und Kamille",
    "Neue Make-up-Trends setzen auf kräftige Farben und innovative Techniken",
    "Cuidado de la piel orgánico para piel sensible con aloe vera y manzanilla",
    "Las nuevas tendencias de maquillaje se centran en colores vivos y técnicas innovadoras",
    "针对敏感肌专门设计的天然有机护肤产品",
    "新的化妆趋势注重鲜艳的颜色和创新的技巧",
    "敏感肌のために特別に設計された天然有機スキンケア製品",
    "新しいメイクのトレンドは鮮やかな色と革新的な技術に焦点を当てています",
]
# The model card of jina-reranker-v2-base-multilingual, in bfloat16.
SKIN_SCORES = [0.83114, 0.09401, 0.63341, 0.0827, 0.76207, 0.09947, 0.9263, 0.05835, 0.84183, 0.11124]


@pytest.mark.parametrize("name", LOGITS)
def test_logits(name: str) -> None:
    found = mlx_jina.load_reranker(name, dtype="float32").score(*FRANCE, activation="none")
    np.testing.assert_allclose(found, LOGITS[name], rtol=0, atol=1e-3)


def test_the_card_of_v2() -> None:
    found = mlx_jina.load_reranker("jina-reranker-v2-base-multilingual").score(SKIN, SKIN_DOCUMENTS)
    np.testing.assert_allclose(found, SKIN_SCORES, rtol=0, atol=1e-2)


@pytest.mark.parametrize("size", QWEN)
def test_the_cards_of_qwen3(size: str) -> None:
    model = mlx_jina.load_reranker(f"Qwen3-Reranker-{size}")
    # Rounding to bfloat16 moved the published logits of 0.6B by 0.8.
    np.testing.assert_allclose(model.score(*CHINA, activation="none"), QWEN[size], rtol=0, atol=1.0)
    np.testing.assert_allclose(model.score(*CHINA), 1 / (1 + np.exp(-np.array(QWEN[size]))), rtol=0, atol=3e-3)


def test_qwen3_in_float32() -> None:
    model = mlx_jina.load_reranker("Qwen3-Reranker-0.6B", dtype="float32")
    np.testing.assert_allclose(model.score(*CHINA, activation="none"), QWEN_FLOAT32, rtol=0, atol=1e-2)
    (korea,) = model.score(CHINA[0], ["The capital of Korea is Seoul."])
    # huggingface/text-embeddings-inference PR 835.
    assert korea == pytest.approx(0.00103, abs=3e-4)
    # sgl-project/sglang PR 16403, whose instruction ends in a full stop.
    found = model.score(
        "法国首都是哪里\uff1f",
        ["法国的首都是巴黎。", "德国的首都是柏林。", "香蕉是黄色的水果。"],
        instruction="Given a web search query, retrieve relevant passages that answer the query.",
    )
    np.testing.assert_allclose(found, [0.79819, 0.0002, 0.0000046], rtol=0, atol=3e-3)


TEA = (
    "What are the health benefits of green tea?",
    [
        "Green tea contains antioxidants called catechins that may help reduce inflammation and protect cells "
        "from damage.",
        "El precio del café ha aumentado un 20% este año debido a problemas en la cadena de suministro.",
        "Studies show that drinking green tea regularly can improve brain function and boost metabolism.",
        "Basketball is one of the most popular sports in the United States.",
        "绿茶富含儿茶素等抗氧化剂\uff0c可以降低心脏病风险\uff0c还有助于控制体重。",
        "Le thé vert est riche en antioxydants et peut améliorer la fonction cérébrale.",
    ],
)


@pytest.mark.parametrize("name", ["jina-reranker-v3", "jina-reranker-v3-mlx"])
def test_v3(name: str) -> None:
    """vllm-project/vllm's test of jina-reranker-v3, in bfloat16: a list of six, and six lists of one."""
    model = mlx_jina.load_reranker(name)
    together = [0.2949, -0.1602, 0.1895, -0.1709, 0.2256, 0.1641]
    np.testing.assert_allclose(model.score(*TEA), together, rtol=0, atol=1e-2)
    alone = [model.score(TEA[0], [document])[0] for document in TEA[1]]
    np.testing.assert_allclose(alone, [0.3457, -0.1050, 0.3145, -0.1377, 0.3398, 0.2539], rtol=0, atol=1e-2)
