"""The paths that programs and scripts rely on, each in a process that has imported nothing before."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import mlx_jina

ROOT = Path(mlx_jina.__file__).parents[1]
NAMES = (
    *("load_multi_vector", "MultiVectorEncoder", "vectors.max_sim"),
    *("load", "Encoder", "Chunk", "ChunkedDocument", "Token", "TokenVectors", "limit_cache", "__version__"),
    *("MlxJinaError", "InputError", "TooLongError", "ModelNotFoundError", "CheckpointError", "NumericalError"),
    *("ForkError", "TruncationWarning"),
    *("errors.InputError", "errors.MlxJinaError", "vectors.quantize", "vectors.ranges_of", "ray.Encoder"),
    *("integrations.open_encoder", "cli.main"),
)
INTEGRATIONS = {
    "chroma": ("chromadb", "MLXJinaEmbeddingFunction"),
    "lancedb": ("lancedb", "MLXJinaEmbeddings"),
    "langchain": ("langchain_core", "MLXJinaEmbeddings"),
    "llama_index": ("llama_index.core", "MLXJinaEmbedding"),
    "llm": ("llm", "MLXJinaEmbeddingModel"),
    "sentence_transformers": ("mlx_jina", "SentenceTransformer"),
}
# Modules that are commands, and what they need besides mlx-jina.
COMMANDS = {
    "mlx_jina": None,
    "mlx_jina.encode": None,
    "convert.to_mlx": None,
    "convert.to_gguf": None,
    "convert.compare": None,
    "convert.inspect": None,
    "convert.distill_pocket": "torch",
    "bench.all": "matplotlib",
    "bench.convert": None,
    "bench.late_chunking": None,
    "bench.precision": None,
    "bench.report": "matplotlib",
    "bench.scale": None,
    "bench.v5_small": None,
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def missing(package: str) -> bool:
    return find_spec(package.partition(".")[0]) is None


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    imports = "import mlx_jina.cli" if name.startswith("cli.") else "import mlx_jina"
    done = run("-c", f"{imports}; print(mlx_jina.{name})")
    assert done.returncode == 0, done.stderr


# Those that integrations/test_search.py imports in a process of its own do so by default there.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("chroma", "lancedb") else name
        for name in INTEGRATIONS
    ],
)
def test_integration(name: str) -> None:
    package, attribute = INTEGRATIONS[name]
    if missing(package):
        pytest.skip(f"{package} is not installed")
    done = run("-W", "ignore", "-c", f"from mlx_jina.integrations.{name} import {attribute} as it; print(it)")
    assert done.returncode == 0, done.stderr
    assert attribute in done.stdout


@pytest.mark.parametrize("module", COMMANDS)
def test_command(module: str) -> None:
    if (package := COMMANDS[module]) and missing(package):
        pytest.skip(f"{package} is not installed")
    done = run("-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout.lower()


@pytest.mark.slow
def test_mteb_command() -> None:
    """Its parser is MTEB's own; integrations/test_rerank.py has the adapter."""
    if missing("mteb"):
        pytest.skip("mteb is not installed")
    done = run("-W", "ignore", "-m", "mlx_jina.integrations.mteb", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout


def test_script() -> None:
    """What `mlx-jina` on the PATH calls."""
    done = run("-c", "import sys; from mlx_jina.cli import main; sys.argv[1:] = ['--version']; main()")
    assert (done.returncode, done.stdout) == (0, f"mlx-jina, version {mlx_jina.__version__}\n")


def test_dir_shows_what_there_is() -> None:
    done = run("-c", "import mlx_jina; print(*dir(mlx_jina)); print(*sorted(mlx_jina.__all__))")
    shown, public = done.stdout.splitlines()
    assert shown == public
    assert {"load", "Encoder", "vectors", "errors", "ray", "integrations"} <= set(shown.split())


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'mlx_jina' has no attribute 'lode'"):
        mlx_jina.lode  # type: ignore[attr-defined]  # noqa: B018
