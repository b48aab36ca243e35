"""What timing on a GPU needs beside a clock: calls recorded in a CUDA graph, so that their time is the GPU's and not that of starting them.

A GPU's L2 cache holds many a weight whole, and a model's next layer has another one. So calls read copies in turn, enough of them in one graph
that all of it is read from memory.
"""

import math
from collections.abc import Callable

import torch

RECORDED = 20  # calls in one graph at least: so many that the start of the graph does not count
WARM_UP = 3  # calls before: libraries choose kernels and allocate when they are called first
MOST_COPIES = 1000  # of what is so small (100 KB on an H100) that launches take longer than reading

Calls = dict[str, Callable[[], object]]


def copies(size: int, device: str) -> int:
    """Return how many operands of ``size`` bytes are twice what the L2 cache holds."""
    return min(math.ceil(2 * torch.cuda.get_device_properties(device).L2_cache_size / max(size, 1)), MOST_COPIES)


def that_fit(number: int, size: int, device: str) -> int:
    """Return how many of ``number`` times ``size`` bytes fit in half of the memory that is free; at least one, which may fail."""
    return max(min(number, torch.cuda.mem_get_info(device)[0] // 2 // max(size, 1)), 1)


def calls(device: str, size: int | None = None) -> int:
    """Return how many calls of a candidate one timed call of :func:`recorded` makes.

    ``size``: the bytes that a call reads of operands that are read in turn; all copies of them are read, equally often.
    """
    if device == "cpu":
        return 1
    read = 1 if size is None else copies(size, device)
    return read * math.ceil(RECORDED / read)


def key(text: str, device: str) -> str:
    """Return the key under which a timing is remembered: on a GPU with its name."""
    return text if device == "cpu" else f"{torch.cuda.get_device_name(device)}: {text}"


def recorded(candidates: Calls, device: str, size: int | None = None) -> Calls:
    """Return calls that end when their work has ended; on a GPU, graphs of :func:`calls` calls each."""
    if device == "cpu":
        return candidates
    with torch.cuda.device(device):
        return {name: _graph(call, device, calls(device, size)) for name, call in candidates.items()}


def _graph(call: Callable[[], object], device: str, count: int) -> Callable[[], object]:
    side = torch.cuda.Stream()  # of this device: the one that torch.cuda.graph takes by itself is of the first GPU that was recorded on
    side.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):  # around the recording too: where that fails to end, torch leaves its stream the current one
        for _ in range(WARM_UP):
            call()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
            for _ in range(count):
                call()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize(device)

    return replay
