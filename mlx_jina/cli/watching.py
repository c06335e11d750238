"""`mlx-jina index --watch`: an index that follows its folders."""

from __future__ import annotations

import sys

from mlx_jina.search.index import Index


def run(index: Index, *, vectors: bool) -> None:
    """Follow every change, until somebody stops it."""
    from mlx_jina.search import watch

    folders = ", ".join(index.status().folders)
    print(f"following {folders}; Ctrl-C ends it", file=sys.stderr, flush=True)
    for report in watch.follow(index, vectors=vectors):
        changed = [*report.added, *report.changed, *(new for _, new in report.moved), *report.removed]
        if changed:
            more = f" and {len(changed) - 3:,} more" if len(changed) > 3 else ""
            print(f"{', '.join(changed[:3])}{more}", file=sys.stderr, flush=True)
        for warning in report.warnings:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
