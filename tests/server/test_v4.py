"""jina-embeddings-v4 over HTTP: both kinds of vectors from one set of weights, with Jina's fields."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

import mlx_jina
from tests.support import v4_checkpoints
from tests.support.process import Server
from tests.support.tolerance import bound

TEXTS = ["paris is the capital of france.", "how do i bake bread?! " * 3, ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return v4_checkpoints.v4(tmp_path_factory.mktemp("served") / "jina-embeddings-v4")


@pytest.fixture(scope="module")
def model(folder: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(folder)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    # An alias that is no published model's name would have no default task.
    with Server(str(folder), "pocket") as running:
        yield running


def ask(server: Server, path: str = "/v1/embeddings", status: int = 200, **fields: Any) -> Any:
    answer = server.client.post(path, json={"input": TEXTS, **fields})
    assert answer.status_code == status, answer.text
    return answer


def single(answer: Any) -> npt.NDArray[Any]:
    return np.array([row["embedding"] for row in answer.json()["data"]])


def multi(answer: Any) -> list[npt.NDArray[Any]]:
    return [np.array(row["embeddings"]) for row in answer.json()["data"]]


@pytest.mark.parametrize(
    ("fields", "task", "role"),
    [
        ({"task": "retrieval.query"}, "retrieval", "query"),
        ({"task": "retrieval.passage"}, "retrieval", "passage"),
        ({"task": "code.query"}, "code", "query"),
        ({"task": "code", "input_type": "document"}, "code", "passage"),
        ({"task": "text-matching"}, "text-matching", "query"),
        ({}, "text-matching", "query"),
        ({"input_type": "search_document"}, "retrieval", "passage"),
    ],
)
def test_both_kinds_of_vectors(
    server: Server, model: mlx_jina.Encoder, fields: dict[str, Any], task: str, role: str
) -> None:
    answer = ask(server, **fields)
    wanted = model.encode(TEXTS, task=task, prompt_name=role)
    np.testing.assert_allclose(single(answer), wanted, atol=bound(1e-6), rtol=0)
    assert answer.headers["X-Embedding-Fingerprint"] == model.fingerprint(task)
    tokens = model.multi_vector
    rows = (tokens.encode_query if role == "query" else tokens.encode_document)(TEXTS, task=task)
    for path, more in (("/v1/embeddings", {"return_multivector": True}), ("/v1/multi-vector", {})):
        answer = ask(server, path, **fields, **more)
        for found, own in zip(multi(answer), rows, strict=True):
            np.testing.assert_allclose(found, own, atol=bound(1e-5), rtol=0)
        assert answer.headers["X-Embedding-Fingerprint"] == tokens.fingerprint(task)
        assert answer.json()["usage"]["total_tokens"] == sum(map(len, rows))


def test_encodings_of_tokens(server: Server, model: mlx_jina.Encoder) -> None:
    wanted = model.multi_vector.encode_query(TEXTS[0], task="code")
    fields: dict[str, Any] = {"task": "code.query", "return_multivector": True, "input": TEXTS[0]}
    (row,) = ask(server, **fields, encoding_format="base64").json()["data"]
    found = [np.frombuffer(base64.b64decode(one), dtype="<f4") for one in row["embeddings"]]
    np.testing.assert_allclose(found, wanted, atol=bound(1e-5), rtol=0)
    (bits,) = multi(ask(server, **fields, embedding_type="binary"))
    assert bits.shape == (len(wanted), 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dimensions": 4}, "truncate_dim=4"),
        ({"normalized": False}, "vectors of tokens are normalised"),
        ({"late_chunking": True}, "no late chunking"),
        ({"task": "clustering"}, "clustering"),
        ({"model": "pocket"}, "none for its tokens"),
    ],
)
def test_what_tokens_have_not(server: Server, fields: dict[str, Any], words: str) -> None:
    assert words in ask(server, status=400, return_multivector=True, **fields).json()["detail"]


def test_late_chunking(server: Server, model: mlx_jina.Encoder) -> None:
    texts = TEXTS[:2]
    found = single(ask(server, input=texts, task="retrieval.passage", late_chunking=True))
    wanted = model.encode(texts, task="retrieval.passage", late_chunking=True)
    np.testing.assert_allclose(found, wanted, atol=bound(1e-6), rtol=0)


class TestPictures:
    @staticmethod
    def item(picture: npt.NDArray[np.uint8], prefix: str = "") -> dict[str, str]:
        out = io.BytesIO()
        PIL.Image.fromarray(picture).save(out, "PNG")
        return {"image": prefix + base64.b64encode(out.getvalue()).decode()}

    def test_texts_and_pictures(self, server: Server, model: mlx_jina.Encoder) -> None:
        pictures = [v4_checkpoints.pixels(90, 120, seed) for seed in range(6)]
        items: list[Any] = [self.item(picture) for picture in pictures]
        items = [items[0], TEXTS[0], {"text": TEXTS[1]}, *items[1:]]
        answer = ask(server, input=items, task="retrieval.query")
        texts = model.encode(TEXTS[:2], task="retrieval.query")
        seen = model.encode_images(pictures, task="retrieval")
        np.testing.assert_allclose(single(answer), [seen[0], *texts, *seen[1:]], atol=bound(1e-6), rtol=0)
        rows = ask(server, input=items, task="retrieval.query", return_multivector=True)
        tokens = model.multi_vector
        wanted = [*tokens.encode_images(pictures, task="retrieval")]
        wanted[1:1] = tokens.encode_query(TEXTS[:2], task="retrieval")
        for found, own in zip(multi(rows), wanted, strict=True):
            np.testing.assert_allclose(found, own, atol=bound(1e-5), rtol=0)
        assert rows.json()["usage"] == answer.json()["usage"]

    def test_data_uris(self, server: Server, model: mlx_jina.Encoder) -> None:
        picture = v4_checkpoints.pixels(60, 60)
        items = [self.item(picture, "data:image/png;base64,"), self.item(picture, "DATA:image/png;base64,")]
        content = base64.b64decode(self.item(picture)["image"])
        items.append({"image": base64.encodebytes(content).decode()})
        answer = ask(server, input=items, task="code", dimensions=16)
        wanted = model.encode_images(picture, task="code", truncate_dim=16)
        np.testing.assert_allclose(single(answer), [wanted] * 3, atol=bound(1e-6), rtol=0)

    def test_fewer_pixels(self, server: Server, model: mlx_jina.Encoder) -> None:
        picture = v4_checkpoints.pixels(90, 120)
        fields: dict[str, Any] = {"input": [self.item(picture)], "task": "code", "max_pixels": 4000}
        wanted = model.encode_images(picture, task="code", max_pixels=4000)
        np.testing.assert_allclose(single(ask(server, **fields)), [wanted], atol=bound(1e-6), rtol=0)
        tokens = model.multi_vector.encode_images(picture, task="code", max_pixels=4000)
        (found,) = multi(ask(server, **fields, return_multivector=True))
        np.testing.assert_allclose(found, tokens, atol=bound(1e-5), rtol=0)
        for wrong, status in ((0, 422), (5, 400)):
            ask(server, status=status, **{**fields, "max_pixels": wrong})

    @pytest.mark.parametrize(
        ("item", "words"),
        [
            ({"image": "https://example.org/a.png"}, "URLs and paths are not read here"),
            ({"image": "file:///etc/passwd"}, "URLs and paths are not read here"),
            ({"image": "/etc/passwd"}, "URLs and paths are not read here"),
            ({"image": 7}, "no base64"),
            ({"image": ""}, "no base64"),
            ({"image": "aGVsbG8="}, "picture 1 is no picture of a kind that Pillow reads"),
            ({"image": "aGVsbG8=", "text": "a"}, "send two items"),
        ],
    )
    def test_what_is_no_picture(self, server: Server, item: dict[str, Any], words: str) -> None:
        answer = server.client.post("/v1/embeddings", json={"input": ["a", item], "task": "code"})
        assert answer.status_code in (400, 422), answer.text
        assert words in answer.json()["detail"]

    def test_models_that_see_nothing(self, server: Server) -> None:
        item = self.item(v4_checkpoints.pixels(60, 60))
        answer = ask(server, status=400, input=["a", item], model="pocket")
        assert "sees no pictures" in answer.json()["detail"]
        answer = ask(server, status=400, input=["a", item], task="code", late_chunking=True)
        assert "no images" in answer.json()["detail"]
