"""How much memory this process takes at its highest."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil


def now() -> int:
    """Resident bytes."""
    return int(psutil.Process().memory_info().rss)


def reset() -> None:
    """Forget the peak so far, which only Linux can do; elsewhere measure short texts before long ones."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """The most bytes that were resident since the last `reset`."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Not getrusage: Linux's ru_maxrss of a process starts at the parent's value.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
