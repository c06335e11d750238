"""The machine and the versions that a figure was measured with."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from mlx_jina import device
from mlx_jina.cpu import blas

PACKAGES = (
    "mlx",
    "mlx-cuda",
    "mlx-embeddings",
    "mlx-lm",
    "numpy",
    "onnxruntime",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
    "xllamacpp",
)
# Prefixes of variables that change how fast the BLAS is.
SETTINGS = ("MKL_", "OMP_", "OPENBLAS_")


def threads() -> int:
    """Cores that this process may use; `taskset` narrows them."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    found = re.search(r"Model name:\s*(.+)", _output("lscpu"))
    return found[1].strip() if found else platform.machine()


def describe() -> dict[str, Any]:
    """The machine and what is installed on it."""
    blas.open_fast()
    import mlx.core as mx

    accelerator = str(mx.device_info().get("device_name", "")) if device.on_gpu() else ""
    return {
        "processor": processor(),
        "accelerator": accelerator,
        "cores": threads(),
        "memory GB": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "MLX backend": device.backend(),
        "BLAS of MLX": blas_name() if device.backend() == "cpu" else "not used",
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
        "versions": versions(),
    }


def blas_name() -> str:
    """The BLAS's name; OpenBLAS also says its version and which processor it takes this one for."""
    found = blas.name()
    if not found.startswith("libopenblas"):
        return found
    tell = ctypes.CDLL(None).openblas_get_config
    tell.restype = ctypes.c_char_p
    return f"{found} ({tell().decode()})"


def name(machine: dict[str, Any]) -> str:
    """A file name for the machine's results."""
    chip = machine["accelerator"] or f"{machine['processor']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", f"{chip} {machine['MLX backend']}".lower()).strip("-")


def versions() -> dict[str, str]:
    """Installed packages that have a part in the figures."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, and whether it has changes of its own."""
    git = ("git", "-C", str(Path(__file__).parent))
    changed = bool(_output(*git, "status", "--porcelain", "--untracked-files=no"))
    return _output(*git, "rev-parse", "--short=10", "HEAD") + (" with changes" if changed else "")


def today() -> str:
    """The date, as ISO has it."""
    return date.today().isoformat()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
