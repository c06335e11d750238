"""OpenAI's JavaScript client, and LangChain's: Obsidian plugins use them, and they ask for base64 unasked."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mlx_jina import Encoder
from tests.clients.conftest import TEXTS
from tests.support.tolerance import bound

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="needs node"),
    pytest.mark.skipif(
        not (HERE / "node_modules").is_dir(), reason="needs npm install --no-package-lock in tests/clients"
    ),
]


@pytest.mark.parametrize("client", ["openai", "langchain"])
@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(TEXTS, id="mixed"),
        pytest.param([f"note {number}" for number in range(600)], id="many", marks=pytest.mark.slow),
    ],
)
def test_vectors(server: str, pocket: Encoder, client: str, texts: list[str]) -> None:
    done = subprocess.run(
        ["node", str(HERE / "embed.mjs")],
        input=json.dumps({"client": client, "url": f"{server}/v1", "model": "pocket", "texts": texts}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), pocket.encode(texts), atol=bound(1e-6))
