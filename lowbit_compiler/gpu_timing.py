"""What timing on a GPU needs beside a clock: calls recorded in a CUDA graph, so that their time is the GPU's and not that of starting them."""

from collections.abc import Callable

import torch

RECORDED = 20  # calls in one graph: many enough that the start of the graph does not count
WARM_UP = 3  # calls before: libraries choose kernels and allocate when they are called first

Calls = dict[str, Callable[[], object]]


def calls(device: str) -> int:
    """Return how many calls of a candidate one timed call of :func:`recorded` makes."""
    return 1 if device == "cpu" else RECORDED


def key(text: str, device: str) -> str:
    """Return the key under which a timing is remembered: on a GPU with its name."""
    return text if device == "cpu" else f"{torch.cuda.get_device_name()}: {text}"


def recorded(candidates: Calls, device: str) -> Calls:
    """Return calls that end when their work has ended; on a GPU, graphs of RECORDED calls each."""
    if device == "cpu":
        return candidates
    return {name: _graph(call) for name, call in candidates.items()}


def _graph(call: Callable[[], object]) -> Callable[[], object]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
        for _ in range(RECORDED):
            call()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay
