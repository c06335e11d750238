"""One peer in a process of its own, driven by lines of JSON: python -m bench.child PEER OPTION FOLDER

Requests: {"texts": [...], "longest": N} sets the texts; {"do": "encode"} returns seconds, {"do": "vectors"} the
vectors, {"do": "memory"} one encoding's peak. Only the encoding itself is timed.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import resident


def _framework_bytes(peer: Any, *, reset: bool = False) -> int | None:
    """Bytes that MLX or CUDA hold now, from where the peak counts anew, or that peak; None if neither counts."""
    if peer.PACKAGE.startswith("mlx"):
        import mlx.core as mx

        if reset:
            mx.clear_cache()
            mx.reset_peak_memory()
        return int(mx.get_active_memory() if reset else mx.get_peak_memory())
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated())


def main() -> None:
    """Load the peer, report that, then answer requests until standard input ends."""
    module, option, folder = sys.argv[1:]
    # Replies have a descriptor of their own, because libraries print to standard output, also from C.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(**answer: Any) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    peer: Any = importlib.import_module(f"bench.peers.{module}")
    encode = peer.load(Path(folder), option)
    reply(ready=True)
    texts: list[str] = []
    longest = 0
    for line in sys.stdin:
        request = json.loads(line)
        if "texts" in request:
            texts, longest = request["texts"], request["longest"]
            reply(texts=len(texts))
        elif request["do"] == "encode":
            start = time.perf_counter()
            encode(texts, longest)
            reply(seconds=time.perf_counter() - start)
        elif request["do"] == "vectors":
            rows = np.asarray(encode(texts, longest), dtype=np.float32)
            reply(shape=rows.shape, rows=base64.b64encode(rows.tobytes()).decode("ascii"))
        else:
            resident.reset()
            before, framework = resident.now(), _framework_bytes(peer, reset=True)
            encode(texts, longest)
            used = _framework_bytes(peer)
            above = None if used is None or framework is None else used - framework
            reply(before=before, peak=resident.peak(), framework_above=above)


if __name__ == "__main__":
    main()
