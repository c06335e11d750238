"""Whether a row's last bits may depend on how many rows are computed with it.

A product of a matrix and a vector ends with kernels for the last one to three rows, which sum in another order.
For vectors of texts that is no matter. Scores are compared, and equal texts should have equal ones.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Here(threading.local):
    """What holds for this thread."""

    steady = False


_here = _Here()


@contextmanager
def rows() -> Iterator[None]:
    """In this thread no row depends on the number of rows, at the cost of a few percent."""
    before = _here.steady
    _here.steady = True
    try:
        yield
    finally:
        _here.steady = before


def wanted() -> bool:
    """Whether this thread is within `rows`."""
    return _here.steady
