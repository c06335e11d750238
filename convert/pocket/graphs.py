"""Steps on a CUDA GPU, recorded and played again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Graphs:
    """A function of tensors, as one CUDA graph for each shape of its arguments.

    A step of a small model has a thousand operations, and to start them takes longer than to compute them
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). All runs on a stream of its own.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: set[tuple[torch.Size, ...]] = set()
        self.graphs: dict[tuple[torch.Size, ...], tuple[list[Tensor], torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, *arguments: Tensor) -> Tensor:
        """What the function returns for tensors on the CPU, as a copy that the current stream may use."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            found = self._run(arguments)
        torch.cuda.current_stream().wait_stream(self.stream)
        return found

    def _run(self, arguments: tuple[Tensor, ...]) -> Tensor:
        shapes = tuple(argument.shape for argument in arguments)
        # From pinned memory, so that a copy does not wait for what the GPU is doing.
        pinned = [argument.pin_memory() for argument in arguments]
        if shapes not in self.seen:
            # Once without a graph: what is made the first time, such as an optimiser's state, stays.
            self.seen.add(shapes)
            return self.function(*(argument.to("cuda", non_blocking=True) for argument in pinned)).clone()
        if shapes not in self.graphs:
            inputs = [argument.to("cuda") for argument in pinned]
            graph: Any = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                result = self.function(*inputs)
            self.graphs[shapes] = inputs, graph, result
        inputs, graph, result = self.graphs[shapes]
        for own, argument in zip(inputs, pinned, strict=True):
            own.copy_(argument, non_blocking=True)
        graph.replay()
        return result.clone()
