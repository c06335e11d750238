"""Imports point one way only, and importing the package costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import mlx_jina

PACKAGE = Path(mlx_jina.__file__).parent

# A room, which is a folder or a single file, imports itself and what stands in the lines above it.
ROOMS = (
    ("errors", "catalog", "choices"),
    ("device", "durable", "options"),
    ("cpu",),
    ("process",),
    ("text", "vectors", "vision"),
    ("nn",),
    ("models",),
    ("weights",),
    ("engine",),
    ("multi_vector", "reranker"),
    ("encoder",),
    ("compare", "files", "integrations", "ray", "search"),
    ("mcp", "server"),
    ("cli",),
    ("encode", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
MODULES = {
    ".".join(("mlx_jina", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere in it, also only for its annotations."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return found & MODULES.keys()


def room(module: str) -> str:
    """The folder or file right below the package that a module lies in."""
    return module.split(".")[1]


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in MODULES if module != "mlx_jina"} == LEVEL.keys()


def test_imports_point_down() -> None:
    for module, path in MODULES.items():
        if module == "mlx_jina":
            continue
        for other in imported(path):
            if other == "mlx_jina" or room(other) == room(module):
                continue
            assert LEVEL[room(other)] < LEVEL[room(module)], f"{module} imports {other}"


def test_no_files_import_each_other() -> None:
    try:
        # The package itself imports on first use whatever it shows.
        graph = {module: imported(path) for module, path in MODULES.items() if module != "mlx_jina"}
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        raise AssertionError(f"a cycle of imports: {' <- '.join(cycle.args[1])}") from None


def test_import_is_light() -> None:
    code = "import sys, mlx_jina; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"mlx", "numpy", "torch", "transformers", "mlx_lm", "gguf", "huggingface_hub"} & set(modules)


def test_loading_imports_no_framework() -> None:
    code = "import sys, mlx_jina; mlx_jina.load; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "mlx.core" in modules
    assert not {"torch", "transformers", "mlx_lm", "huggingface_hub", "gguf"} & set(modules)


def test_only_the_hub_module_may_reach_the_network() -> None:
    for path in PACKAGE.rglob("*.py"):
        names = {
            alias.name.split(".")[0] if isinstance(node, ast.Import) else (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, (ast.Import, ast.ImportFrom))
            # It takes addresses apart, and goes to none.
            if getattr(node, "module", None) != "urllib.parse"
            for alias in node.names
        }
        if names & {"huggingface_hub", "urllib", "http", "socket", "requests", "httpx"}:
            # The server listens, and never calls; the service looks whether it does, and a search asks it by its
            # Unix socket; one job's machines talk.
            assert path.name in (
                "hub.py",
                "info.py",
                "serve.py",
                "connections.py",
                "launchd.py",
                "live.py",
                "distributed.py",
            ), path
